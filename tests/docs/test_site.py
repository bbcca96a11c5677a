"""The site is built from docs/, and a browser without a network shows all of it."""

import html
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import ROOT

_LOADS = re.compile(
    r"<(?:script|img|iframe|link|source|video)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)
"""What a page makes its browser fetch from elsewhere; links that are clicked are no such thing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    assert pages >= {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")}
    assert pages >= {f"results/{page.stem}.html" for page in (ROOT / "results").glob("*.md")}
    fetched = {
        (page, address) for page in pages for address in _LOADS.findall((site / page).read_text())
    }
    assert fetched == set()
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?:|@import [\"']https?:", styles) == []


@pytest.mark.slow
def test_public_names_have_their_docstrings_on_the_page_of_python(site: Path) -> None:
    import ossa

    page = (site / "api.html").read_text()
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for name in ossa.__all__:
        assert f"{ossa._HOMES[name]}.{name}" in page, f"{name} is missing in docs/api.md"
        summary = (inspect.getdoc(getattr(ossa, name)) or "").splitlines()[0].replace("`", "")
        assert summary in text, f"the docstring of {name} is missing on the page"


def test_an_address_that_a_browser_would_fetch_is_seen() -> None:
    page = '<link rel="stylesheet" href="https://fonts.example.org/a.css"><a href="https://x.org">'
    assert _LOADS.findall(page) == ["https://fonts.example.org/a.css"]
