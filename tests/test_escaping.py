"""Text from strangers' files does nothing where it is written."""

import io
import json

import pytest

from ossa.cli.console import Console, new_table, print_table
from ossa.escaping import (
    escape_figure,
    escape_latex,
    escape_markdown,
    escape_terminal,
    hide_credentials,
    print_line,
    script_json,
    write_csv,
)
from ossa.viz.plots import Line, figure_svg, line_figure


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # the same in one character
        ("a\r\nerror: none", r"a\r\nerror: none"),
        ("cat\b\b\bdog", r"cat\x08\x08\x08dog"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("a\u2066b\u200fc", r"a\u2066b\u200fc"),
        ("x\u2028y", r"x\u2028y"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\U000e0041", r"\U000e0041"),
        ("\x7f\x00", r"\x7f\x00"),
        ("[bold]cat[/bold] :smile:", "[bold]cat[/bold] :smile:"),
        ("Ünïcødé 猫\u00a0😀", "Ünïcødé 猫\u00a0😀"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # written with a joiner
    ],
)
def test_a_terminal_is_given_no_commands(text: str, shown: str) -> None:
    assert escape_terminal(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.1:554/1", "rtsp://10.0.0.1:554/1"),
        ("rtsp://admin:se/c@ret@10.0.0.1/1", "rtsp://10.0.0.1/1"),
        ("rtsp://admin:secret?x@10.0.0.1/1", "rtsp://10.0.0.1/1"),
        ("https://h/live.m3u8?token=abc&x=1", "https://h/live.m3u8?***"),
        ("https://h/live#token=abc", "https://h/live#***"),
        ("found none at rtsp://u:p@h/1, look", "found none at rtsp://h/1, look"),
        ("https://tok3n@h/1", "https://h/1"),
        ("rtsp:/u:p@h/1", "rtsp:/***@h/1"),
        ("u:p@h", "***@h"),
        ("https://host:80/@user/live", "https://host:80/@user/live"),
        ("rtsp://u:p@[::1]:554/1", "rtsp://[::1]:554/1"),
        ("rtsp://u:1@2/3@h/1", "rtsp://h/1"),
        ("rtsp://u:12/3@h/1", "rtsp://h/1"),
        ("a@b.org at 12:30, C:/x", "a@b.org at 12:30, C:/x"),
        ("two http://a?k=1 and http://b?k=2", "two http://a?*** and http://b?***"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown
    assert escape_terminal(text) == shown


def test_a_long_hostile_text_is_cut_and_takes_no_time() -> None:
    for piece in ("a", "://", "a:", "@", "\x1b", "/", "a:@", "://a/", "?", "x@y:"):
        assert len(escape_terminal(piece * 200_000)) < 100_000


def test_every_printer_of_the_commands_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]\x1b[31mcat\u202e :smile:"
    with Console() as console:
        console.note(f"class {name}\nerror: forged")
    print_line(name)
    table = new_table(name, name)
    table.add_row(name, name)
    print_table(table)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert out.count("[red]") + err.count("[red]") == 6
    assert out.count("smile") == 5
    assert len(err.splitlines()) == 1


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    stream = io.StringIO()
    cells = [
        "=1+1",
        "+1+1",
        "-1-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "＝1",
        "-0.5",
        "+1e-3",
        "a=b",
        -2.5,
    ]
    write_csv(stream, [cells, [None, "\x1b[0m", 'say "a, b"']])
    assert stream.getvalue() == (
        "'=1+1,'+1+1,'-1-1,'@SUM(A1),'\t=1,'\\r=1,'＝1,-0.5,+1e-3,a=b,-2.5\n"
        ',\\x1b[0m,"say ""a, b"""\n'
    )


def test_a_name_in_a_figure_is_no_formula_and_no_tag() -> None:
    for name in (r"$\frac{1}{0}$", "$a$", "_hidden", "</svg><script>x</script>", "a\x1bb\nc"):
        svg = figure_svg(line_figure([Line(name, [0, 1], [0, 1])], x_label="x", y_label="y"))
        assert "<script" not in svg
    assert r"$\frac{1}{0}$" in figure_svg(
        line_figure([Line(r"$\frac{1}{0}$", [0, 1], [0, 1])], x_label="x", y_label="y")
    )
    assert escape_figure("_a" * 100, longest=5) == " _a_a…"


def test_latex_and_markdown_show_what_is_written() -> None:
    assert escape_latex(r"\input{/etc/passwd} 5%") == (r"\textbackslash{}input\{/etc/passwd\} 5\%")
    assert escape_markdown("a|b\n<img>[x](y)`") == r"a\|b\\n\<img\>\[x\](y)\`"


def test_json_in_a_script_ends_no_script() -> None:
    value = {"a": "</script><!--<script>&\u2028"}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
