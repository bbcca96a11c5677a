"""Strict pydantic schemas, and their validation errors as one sentence."""

from collections.abc import Mapping
from datetime import date
from pathlib import PurePath
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ossa.errors import ConfigError, legible, suggestion

_SHOWN = 120
"""Characters of a value or a message that an error shows."""
_LARGEST_INTEGER = 2**63 - 1
_PLAIN = (str, bytes, int, float, list, tuple, set, dict, date, PurePath, type(None))
Settings = TypeVar("Settings", bound=BaseModel)


class Section(BaseModel):
    """Settings that belong together; a key that is not among them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _refuse_huge_integers(cls, value: Any) -> Any:
        """What torch and NumPy count by has 64 bits."""
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            raise ValueError(f"expected an integer of at most {_LARGEST_INTEGER}")
        return value


def validated(schema: type[Settings], settings: Mapping[str, Any], *, where: str) -> Settings:
    """Returns the settings as the schema has them.

    Raises:
        ConfigError: naming the first key that is misspelt, missing or out of range.
    """
    try:
        return schema.model_validate(settings)
    except ValidationError as problems:
        raise ConfigError(f"{where}: {first_problem(problems, schema)}") from None


def first_problem(problems: ValidationError, schema: type[Any]) -> str:
    """Returns which key is wrong, in which way, and the beginning of what was found there."""
    problem = problems.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = legible(".".join(path))
    if problem["type"] == "extra_forbidden":
        known = _known_keys(schema, path[:-1])
        return f"there is no setting '{key}'.{suggestion(path[-1][:_SHOWN], known)}"
    message = legible(without_kind(problem["msg"]), _SHOWN)
    return f"{key}: {message[0].lower()}{message[1:]}, found {shown(problem['input'])}"


def without_kind(message: str) -> str:
    """Returns a message of pydantic without the kind of error that it may begin with."""
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def shown(value: Any) -> str:
    """Returns how a value is written, a long one shortened; of other objects the type."""
    if not isinstance(value, _PLAIN):
        return f"an object of type {type(value).__name__}"
    try:
        return legible(repr(value), _SHOWN)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return f"a {type(value).__name__} that is too large to be shown"


def _known_keys(schema: Any, path: list[str]) -> list[str]:
    """Returns the keys that the section at `path` may have."""
    for part in path:
        schema = schema.model_fields[part].annotation
    sections = get_args(schema) or (schema,)  # a section, or a section or None
    return [
        key
        for section in sections
        for key in getattr(section, "model_fields", None) or getattr(section, "__annotations__", ())
    ]
