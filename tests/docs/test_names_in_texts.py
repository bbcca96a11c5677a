"""Names in docstrings and on pages are those of the code, and so are the numbers of recipes."""

import re
from importlib import import_module

import pytest
from documentation import PAGES, ROOT

from ossa.train.setup import run_config

_RECIPE = re.compile(r"^\| `([\w-]+)` \| (\d.*) \|$", re.MULTILINE)
_NAME = re.compile(r"`(ossa(?:\.\w+)+)`")
FILES = (*PAGES, *(str(f.relative_to(ROOT)) for f in sorted((ROOT / "src").rglob("*.py"))))


def is_there(name: str) -> bool:
    """Returns whether a dotted name is a module, or leads from one to something it has."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize(
    "file", [file for file in FILES if _NAME.search((ROOT / file).read_text())]
)
def test_every_dotted_name_leads_somewhere(file: str) -> None:
    names = set(_NAME.findall((ROOT / file).read_text()))
    assert [name for name in sorted(names) if not is_there(name)] == []


def test_a_name_that_is_gone_is_found() -> None:
    assert is_there("ossa.study.estimates.draw_qualities")
    assert not is_there("ossa.study.comparisons.draw_all")


def test_the_table_of_recipes_has_their_numbers() -> None:
    stated = dict(_RECIPE.findall((ROOT / "docs" / "training.md").read_text()))
    recipes = (ROOT / "src" / "ossa" / "recipes").glob("*.yaml")
    configs = {
        path.stem: run_config(data="bccd", model="yolov5n", recipe=path.stem) for path in recipes
    }
    assert stated == {
        name: f"{run.train.epochs} | {run.train.imgsz} | {run.train.batch} | "
        f"{run.train.optimizer} | {run.train.lr} | {run.augment.mosaic}"
        for name, run in configs.items()
    }
