"""Reading lists of a JSON file piece by piece: what the whole file says, wherever it is cut."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossa.data.formats import json_stream
from ossa.data.formats.json_stream import stream_lists
from ossa.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def streamed(file: Path, text: str, *keys: str) -> dict[str, list[Any]]:
    file.write_text(text, encoding="utf-8")
    found: dict[str, list[Any]] = {key: [] for key in keys}
    for key, _, value in stream_lists(file, keys):
        found[key].append(value)
    return found


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    content=st.fixed_dictionaries({"a": st.lists(values), "x": values, "b": st.lists(values)}),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    piece=st.integers(1, 9),
)
def test_lists_are_those_that_the_whole_file_has_wherever_it_is_cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, Any],
    indent: int | None,
    ascii_only: bool,
    piece: int,
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    expected = {key: content[key] for key in ("a", "b")}
    assert streamed(tmp_path / "x.json", text, "a", "b") == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": [1,\n2,\n3 4]}', 3),
        ('{"a": [1]\n', 2),
        ('{"a": [{"b": 1,\n "c" 2}]}', 2),
        ('{"a": []}\n\nmore', 3),
        ('{"a": [1,]}', 1),
        ('{"a"\n= []}', 2),
        ("{\n1: []}", 2),
        ('{"a":\n\n }', 3),
        ("", 1),
        ("nonsense", 1),
    ],
)
@pytest.mark.parametrize("piece", [3, 1000])
def test_a_syntax_error_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: int, piece: int
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    with pytest.raises(DataError, match="found a syntax error: ") as raised:
        streamed(tmp_path / "x.json", text, "a")
    assert (raised.value.path, raised.value.line) == (tmp_path / "x.json", line)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"b": []}', r", found none .*x\.json"),
        ("[1, 2]", r", found none .*x\.json"),
        ('{"a":\n5}', r", found no list .*x\.json, line 2"),
        ('{"a": [],\n"a": []}', r", found a second .*x\.json, line 2"),
    ],
)
def test_a_list_that_is_not_there_once_is_an_error(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(DataError, match=f"list of objects as 'a'.*{found}"):
        streamed(tmp_path / "x.json", text, "a")


def test_a_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": [\n"\xc3\xa9\n\xff"]}')
    with pytest.raises(DataError, match=r"JSON in UTF-8, found another byte .*x\.json, line 3"):
        list(stream_lists(tmp_path / "x.json", ("a",)))


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_every_element_comes_with_the_line_that_it_begins_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    text = '{"x": [1,\n2],\n"a": [{"b":\n1}, {},\n\n 5\n],\n"c": [\n6]}'
    (tmp_path / "x.json").write_text(text)
    lines = [(key, line) for key, line, _ in stream_lists(tmp_path / "x.json", ("a", "c"))]
    assert lines == [("a", 3), ("a", 4), ("a", 6), ("c", 9)]


def test_an_error_is_told_before_the_rest_of_the_file_is_read(tmp_path: Path) -> None:
    """A wrong word in the first line of 48 MB: never over three pieces of 4 MB in memory."""
    with (tmp_path / "x.json").open("w") as file:
        file.write('{"a": [wrong,\n' + ("1" * 1000 + ",\n") * 48_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"Expecting value .*x\.json, line 1"):
        list(stream_lists(tmp_path / "x.json", ("a",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


@pytest.mark.parametrize(
    ("value", "what"),
    [("[" * 100_000, "nested too deeply"), ("9" * 5000, "a number of too many digits")],
)
def test_what_python_cannot_hold_is_a_syntax_error(tmp_path: Path, value: str, what: str) -> None:
    with pytest.raises(DataError, match=rf"{what} .*x\.json, line 2"):
        streamed(tmp_path / "x.json", '{"a":\n[' + value, "a")


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 MB of elements of 1 kB pass through pieces of 256 kB: never over six of them at once."""
    monkeypatch.setattr(json_stream, "_PIECE", 1 << 18)
    element = json.dumps({"points": "1" * 1000})
    with (tmp_path / "x.json").open("w") as file:
        file.write('{"a": [' + ", ".join([element] * 12_000) + "]}")
    tracemalloc.start()
    count = sum(1 for _ in stream_lists(tmp_path / "x.json", ("a",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12_000
    assert peak < 6 << 18
