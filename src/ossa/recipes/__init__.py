"""Recipes: YAML files of settings in up to five sections; one may name another as `base`."""

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ossa.config import merge
from ossa.errors import ConfigError, legible, suggestion
from ossa.safe_yaml import read_yaml
from ossa.schema import shown

_SECTIONS = ("model", "train", "loss", "augment", "evaluate")


def recipe_names() -> list[str]:
    """Returns the recipes that are shipped with the package."""
    folder = resources.files("ossa") / "recipes"
    return sorted(
        Path(str(entry)).stem for entry in folder.iterdir() if str(entry).endswith("yaml")
    )


def load_recipe(name: str, *, below: Path | None = None) -> dict[str, Any]:
    """Returns the sections of a recipe, those of its `base` underneath.

    Args:
        name: a shipped recipe, or the path of a YAML file.
        below: the folder of the file that names the recipe, where a file does: a recipe that is
            not shipped lies in it or below it. So does every base, from the recipe that names it.

    Raises:
        ConfigError: no such recipe, not YAML, not sections of settings, or its own base.
    """
    sections: dict[str, Any] = {}
    names: list[str] = []
    base: str | None = name
    while base is not None:
        file = _recipe_file(base, below)
        if str(file) in names:
            raise ConfigError(f"recipe {base} is its own base: {' on '.join([*names, str(file)])}")
        names.append(str(file))
        content, below = _read_recipe(file, base), file.parent
        base = content.pop("base", None)
        if not isinstance(base, str | None):
            raise ConfigError(f"recipe {file}: expected the name of a base, found {shown(base)}")
        sections = merge(_with_own_weights(content, file), sections)
    return sections


def file_below(folder: Path, name: str, *, where: str) -> Path:
    """Returns the file that another file names, which has to lie in `folder` or below it.

    Raises:
        ConfigError: a path that leaves the folder; `where` says who names it.
    """
    path = Path(os.path.normpath(folder.absolute() / name))
    if not path.is_relative_to(os.path.normpath(folder.absolute())):
        raise ConfigError(
            f"{where}: expected a path below {folder}, since a file may name no others, found "
            f"{legible(name)!r}"
        )
    return path


def _recipe_file(name: str, below: Path | None) -> Path:
    """Returns the file of a recipe that is shipped, that an option names, or that another names."""
    if name in recipe_names():
        return Path(str(resources.files("ossa") / "recipes" / f"{name}.yaml"))
    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        file = file if below is None else file_below(below, name, where="the name of a recipe")
        if os.path.isfile(file):  # which, unlike Path's, takes any text
            return file
    hint = suggestion(name, recipe_names()) or f" There are {', '.join(recipe_names())}."
    raise ConfigError(f"no recipe named {legible(name)!r} and no such YAML file.{hint}")


def _read_recipe(file: Path, name: str) -> dict[str, Any]:
    """Returns the content of one recipe as it is written."""
    try:
        content = read_yaml(file).value or {}
    except OSError as error:
        raise ConfigError(f"recipe {name} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {name}: expected sections of settings, found {shown(content)}")
    for key, section in content.items():
        if key in _SECTIONS and not isinstance(section, Mapping):
            raise ConfigError(f"recipe {name}: expected settings as {key}, found {shown(section)}")
    return content


def _with_own_weights(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """Returns a recipe whose weights, where it names any, are files below its own folder."""
    model = content.get("model")
    if not isinstance(model, Mapping):
        return content
    found = {
        key: str(file_below(file.parent, model[key], where=f"recipe {file}: model.{key}"))
        for key in ("weights", "backbone_weights")
        if isinstance(model.get(key), str)
    }
    return {**content, "model": {**model, **found}}
