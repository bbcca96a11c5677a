"""YAML from anywhere: bounded, without surprises, told in short sentences."""

from pathlib import Path

import pytest

from ossa.config import parse_settings
from ossa.errors import ConfigError
from ossa.recipes import load_recipe
from ossa.safe_yaml import parse_yaml, read_yaml
from ossa.study.config import read_study

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_values_are_those_of_json_and_dates_stay_texts() -> None:
    text = "{a: 1, b: 1.5, c: yes, d: null, e: [x], f: 2020-01-01, g: '7', h: =}"
    expected = {"a": 1, "b": 1.5, "c": True, "d": None, "e": ["x"], "f": "2020-01-01", "g": "7"}
    assert parse_yaml(text, where="a test") == {**expected, "h": "="}


def test_a_few_aliases_and_merges_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    first = {"x": 1, "y": 2}
    expected = {"a": first, "b": {"x": 1, "y": 3}, "c": [first, first]}
    assert parse_yaml(text, where="a test") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more values.* .line 6"),
        ("a: &a [*a]", "alias a of nothing"),
        ("a: *b", "undefined alias|alias b of nothing"),
        ("a: &a " + "x" * 10_000 + "\nb: [" + "*a, " * 1000 + "]", "more values.* .line 2"),
        ("[" * 30 + "]" * 30, "more than 20 deep"),
        ("{a: 1, a: 2}", "key a again"),
        ("a:\n  ? [x]\n  : 1", "a list or mapping as a key.* .line 2"),
        ("a: 0x" + "f" * 200, "a number of 202 characters"),
        ("a: " + "1:" * 200 + "1", "a number of 401 characters"),
        ("!!binary aGk=", "binary"),
        ("!!python/name:os.system x", "python/name:os.system"),
        ("!!set {a}", "set"),
        ("!!int x", "invalid literal"),
        ("a: 1\nb: !!int ''", "'' said to be of the kind int.* .line 2"),
        ("!!float _", "'_' said to be of the kind float"),
        ("!!bool maybe: 1", "'maybe' said to be of the kind bool"),
        ("a: [1", "line 1"),
        ("a: \x07", "special characters.* .line 1"),
    ],
)
def test_what_json_has_not_or_what_multiplies_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_yaml(text, where="a test")
    assert len(str(refused.value)) < 400


def test_a_file_of_more_than_two_megabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("#" * 3_000_000)
    with pytest.raises(OSError, match="3,000,000 bytes"):
        read_yaml(file)


@pytest.mark.parametrize("content", [BOMB, "name: x\ndata: d\nmodels: [" + "a, " * 20_000 + "]"])
def test_recipes_and_studies_are_refused_in_a_short_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_study(file)
    assert len(str(refused.value)) < 400
    if content is BOMB:
        with pytest.raises(ConfigError, match="more values"):
            load_recipe(str(file))


def test_a_study_of_absurdly_many_runs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    seeds = ", ".join(map(str, range(10_001)))
    file.write_text(f"name: x\ndata: d\nmodels: [a]\nseeds: [{seeds}]\n")
    with pytest.raises(ConfigError, match="at most 10,000 runs, found 10,001"):
        read_study(file)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lr=" + "[" * 5000, "more than 20 deep"),
        ("train.lr=*a", "alias"),
        (".".join("a" * 5000) + "=1", "expected SECTION.KEY=VALUE"),
    ],
)
def test_a_setting_nested_too_deeply_is_a_sentence(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_settings([setting])
    assert len(str(refused.value)) < 400
