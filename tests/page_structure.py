"""Names that would be more than text in a page, and what a page is made of besides text."""

from collections import Counter
from html.parser import HTMLParser

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style></svg><b>",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt;&#60;",
    r"$\frac{1}{0}$ $x$",
    "\u2028\u202e\x1b[31m\x00",
)


_OWN = ("#", "data:image/", "image/")


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.handlers += [f"{name}={value}" for name, value in attrs if name.startswith("on")]
        self.handlers += [
            str(value)
            for name, value in attrs
            if name in ("href", "src") and not str(value).startswith(("#", "data:image/", "image/"))
        ]


def structure(html: str) -> tuple[Counter[str], list[str]]:
    """Returns how often each element stands in a page, and what of it could run or fetch."""
    parser = _Structure()
    parser.feed(html)
    parser.close()
    return parser.tags, parser.handlers
