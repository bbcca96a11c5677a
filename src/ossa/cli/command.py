"""How a command declares its options: in its signature, or by keys of the configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, ParameterInfo

from ossa.errors import legible


@dataclass(frozen=True)
class Setting:
    """An option that sets a key of the configuration; name, type, help and check are the schema's.

    The value is validated with all other settings when the configuration is built.
    """

    key: str
    """Such as 'train.imgsz'."""
    names: tuple[str, ...] = ()
    """Instead of the last part of the key."""
    metavar: str | None = None
    panel: str | None = None
    shown: str | None = None
    """Shown as the default; that of the schema if None."""
    parse: Callable[[str], Any] | None = None
    """Returns the value of a text; None where the type of the field says how."""
    note: str = ""
    """Added to the description of the schema."""
    const: Any = None
    """The value that the option stands for, which then takes none itself."""

    @property
    def argument(self) -> str:
        """The name of the parameter that typer makes the option of."""
        return self.key.replace(".", "__")

    def parameter(self, schema: Any) -> inspect.Parameter:
        """Returns the parameter, whose value is None or False where the option was not given."""
        field = _field(schema, self.key)
        kind = _without_none(field.annotation)
        default = None if field.is_required() else field.get_default()
        flag = kind is bool or self.const is not None
        text = self.parse is not None or not _is_scalar(kind)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        info = typer.Option(
            *(self.names or ("--" + self.key.rpartition(".")[2].replace("_", "-"),)),
            metavar=self.metavar,
            help=f"{field.description or ''} {self.note}".strip(),
            rich_help_panel=self.panel,
            show_default=not flag and (self.shown or (default is not None and shown)),
        )
        kind = bool if flag else (str if text else kind) | None
        return _parameter(self.argument, Annotated[kind, info], False if flag else None)

    def value(self, given: Any, schema: Any) -> Any:
        """Returns the value to validate of what was given on the command line."""
        if self.const is not None:
            return self.const
        if self.parse is not None:
            return self.parse(given)
        kind = _without_none(_field(schema, self.key).annotation)
        if get_origin(kind) is tuple:
            return given.split(",") if get_args(kind)[0] is str else parse_value(f"[{given}]")
        return given if _is_scalar(kind) else parse_value(given)


def command(
    *settings: Setting, schema: Any = None, panels: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator for the function of a command, whose signature declares its options.

    A parameter is `Annotated[type, ..., help]`: the type, any number of `typer.Option` whose
    settings add up, so that commands share them, and the help as a text. A parameter `settings`
    receives the values of `settings` that were given, nested by section.

    Args:
        settings: options of the command that set keys of `schema`.
        schema: model of pydantic that has these keys.
        panels: names of parameters, separated by blanks, by the title of their panel in the help.
    """
    titles = {name: title for title, names in (panels or {}).items() for name in names.split()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == "settings":
                parameters += [setting.parameter(schema) for setting in settings]
            else:
                parameters.append(_declared(parameter, titles.get(parameter.name)))

        @functools.wraps(function)
        def run(**values: Any) -> None:
            if settings:
                values["settings"] = _nested(settings, schema, values)
            function(**values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _nested(settings: Sequence[Setting], schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the given settings by section, and takes them out of `values`."""
    nested: dict[str, Any] = {}
    for setting in settings:
        given = values.pop(setting.argument)
        if was_given(given):
            *sections, name = setting.key.split(".")
            section = nested
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = setting.value(given, schema)
    return nested


def was_given(value: Any) -> bool:
    """Returns whether an option was given; '' is how users of YOLOv5 say none, 0 is a value."""
    return value is not None and value is not False and value not in ("", [], ())


def parse_value(text: str) -> Any:
    """Returns the value of a text in YAML, a superset of JSON; the schema refuses wrong types."""
    from ossa.safe_yaml import parse_yaml

    return parse_yaml(text, where=f"'{legible(text)}'")


def _field(schema: Any, key: str) -> Any:
    *sections, name = key.split(".")
    for section in sections:
        schema = schema.model_fields[section].annotation
    return schema.model_fields[name]


def _without_none(annotation: Any) -> Any:
    """Returns a type without None and without what stands beside it in Annotated."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_scalar(kind: Any) -> bool:
    return kind in (bool, int, float, str) or get_origin(kind) is Literal


def _declared(parameter: inspect.Parameter, panel: str | None) -> inspect.Parameter:
    """Returns a parameter whose one `typer.Option` or `Argument` has all that was declared."""
    kind, metadata = _split(parameter.annotation)
    if not metadata:
        return _parameter(parameter.name, kind, parameter.default)
    infos = [one for one in metadata if isinstance(one, ParameterInfo)]
    is_argument = any(isinstance(one, ArgumentInfo) for one in infos)
    merged, unset = (typer.Argument if is_argument else typer.Option)(), vars(typer.Option())
    for info in infos:
        vars(merged).update({k: v for k, v in vars(info).items() if v != unset.get(k)})
        if merged.default is not ...:  # within Annotated the first of the names
            merged.param_decls = (merged.default, *(merged.param_decls or ()))
            merged.default = ...
    merged.help = next((one for one in reversed(metadata) if isinstance(one, str)), merged.help)
    merged.rich_help_panel = panel or merged.rich_help_panel
    if kind is bool and parameter.default is False and not merged.param_decls:
        merged.param_decls = ("--" + parameter.name.replace("_", "-"),)
    return _parameter(parameter.name, Annotated[kind, merged], parameter.default)


def _split(annotation: Any) -> tuple[Any, list[Any]]:
    """Returns a type, and what stands beside it in Annotated, also within a union."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        kind, inner_metadata = _split(inner)
        return kind, inner_metadata + metadata
    if get_origin(annotation) in (Union, UnionType):
        parts = [_split(part) for part in get_args(annotation)]
        kinds = tuple(kind for kind, _ in parts)
        return Union[kinds], [one for _, metadata in parts for one in metadata]  # noqa: UP007
    return annotation, []


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)
