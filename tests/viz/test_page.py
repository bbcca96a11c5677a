"""Pages that need nothing beside them."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ossa.viz.draw import encode_png
from ossa.viz.page import (
    Block,
    Column,
    FigureBlock,
    KeyValues,
    Page,
    PictureBlock,
    Section,
    Table,
    TextBlock,
    Written,
    render_page,
    write_page,
)
from ossa.viz.plots import Line, figure_svg, line_figure


def page_of(*blocks: Block) -> Page:
    return Page(title="Four backbones", sections=[Section("Result", blocks)])


def cells_of(html: str) -> list[list[tuple[str, str]]]:
    """Returns class and text of every cell, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cell = re.compile(r'<td data-key="[^"]*"(?: class="([^"]*)")?>(.*?)</td>')
    return [cell.findall(row) for row in rows if "<td" in row]


SIZES = Table(
    [Column("Backbone"), Column("AP", ".3f", "highest"), Column("Parameters", ",d", "lowest")],
    [
        ["a", 0.51349, 1872157],
        ["b", 0.51301, 3774024],
        ["c", None, 900],
        ["d", -0.5, 11689512],
    ],
    caption="Accuracy and size",
    note="One seed.",
)


def test_numbers_are_written_as_their_column_says_and_what_is_missing_is_a_dash():
    rows = cells_of(render_page(page_of(SIZES)))
    assert [[text for _, text in row] for row in rows] == [
        ["a", "0.513", "1,872,157"],
        ["b", "0.513", "3,774,024"],
        ["c", "–", "900"],
        ["d", "−0.500", "11,689,512"],
    ]


def test_the_best_are_marked_and_those_that_read_alike_are_equally_good():
    rows = cells_of(render_page(page_of(SIZES)))
    best = [["best" in style for style, _ in row] for row in rows]
    assert best == [[False, True, False], [False, True, False], [False, False, True], [False] * 3]


def test_a_number_may_be_written_with_its_error_and_still_counts_by_its_value():
    cells = [[Written(0.9, "0.9 ± 0.2")], [Written(0.12, "0.12 ± 0.01")], [0.5]]
    html = render_page(page_of(Table([Column("AP", ".1f", "highest")], cells)))
    assert '<td data-key="0.9" class="number best">0.9 ± 0.2</td>' in html
    assert '<td data-key="0.12" class="number">0.12 ± 0.01</td>' in html


def test_all_text_is_escaped():
    evil = '<img src=x onerror="alert(1)">&'
    page = Page(
        title=evil,
        subtitle=evil,
        footer=evil,
        sections=[
            Section(
                evil,
                text=evil,
                blocks=[
                    Table([Column(evil, note=evil)], [[evil]], caption=evil, note=evil),
                    KeyValues([(evil, evil)], caption=evil),
                    TextBlock(evil),
                    FigureBlock("<svg></svg>", caption=evil),
                    PictureBlock(b"\xff\xd8", caption=evil, alt=evil),
                ],
            )
        ]
        * 3,
    )
    html = render_page(page)
    assert "<img src=x" not in html
    assert 'onerror="' not in html
    assert html.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;") == 4 + 3 * 16


class _Addresses(HTMLParser):
    """Collects every address that a browser would load, and checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_loads_nothing_and_closes_every_tag():
    grey = np.full((8, 8, 3), 99, np.uint8)
    svg = figure_svg(line_figure([Line("a", [1, 2], [1, 2])], x_label="x", y_label="y"))
    blocks = [SIZES, FigureBlock(svg), PictureBlock(encode_png(grey), "grey"), KeyValues([])]
    html = render_page(Page("T", [Section(name, blocks) for name in "abc"]))
    parser = _Addresses()
    parser.feed(html)
    assert parser.open == []
    loaded = [address for address in parser.addresses if not address.startswith("#")]
    assert len(loaded) == 3
    assert all(address.startswith("data:image/png;base64,") for address in loaded)
    assert "default-src 'none'" in html


def test_a_blank_line_begins_a_paragraph():
    html = render_page(page_of(TextBlock("One\nline.\n\n\n\nTwo.\n")))
    assert re.findall(r"<p>(.*?)</p>", html, re.DOTALL) == ["One\nline.", "Two."]


def test_sections_are_listed_only_where_there_are_several():
    one, four = Page("T", [Section("a", [])]), Page("T", [Section(name, []) for name in "abcd"])
    assert "<nav" not in render_page(one)
    assert re.findall(r'<a href="(#.*?)">', render_page(four)) == [
        f"#section-{number}" for number in (1, 2, 3, 4)
    ]


def test_a_row_with_a_cell_too_many_is_an_error_rather_than_a_cut_table():
    with pytest.raises(ValueError, match=r"expected 1 cells.* found 2 in row 2"):
        render_page(page_of(Table([Column("a")], [[1], [1, 2]])))


def test_a_file_name_that_is_no_utf_8_is_written_escaped(tmp_path: Path):
    page = write_page(Page("caf\udce9.jpg", []), tmp_path / "page.html")
    assert "<h1>caf\\udce9.jpg</h1>" in page.read_text(encoding="utf-8")


def test_a_page_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "report" / "index.html"
    write_page(Page("Old", []), path)
    assert write_page(Page("Neu: größer", []), path) == path
    assert "<title>Neu: größer</title>" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("column", "clicks", "order"),
    [
        (0, 1, ["a", "b", "c", "d"]),
        (0, 2, ["d", "c", "b", "a"]),
        (1, 1, ["a", "b", "d", "c"]),  # the missing one last
        (1, 2, ["d", "b", "a", "c"]),  # the missing one last here too
        (2, 1, ["d", "b", "a", "c"]),
        (2, 2, ["c", "a", "b", "d"]),
    ],
)
def test_a_click_on_a_heading_sorts_the_rows(
    tmp_path: Path, column: int, clicks: int, order: list[str]
):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    click = f'document.querySelectorAll("th button")[{column}].click();' * clicks
    html = render_page(page_of(SIZES)).replace("</body>", f"<script>{click}</script></body>")
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    sorted_html = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert [row[0][1] for row in cells_of(sorted_html)] == order
