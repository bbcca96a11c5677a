"""`ossa backbones`: which architectures can be a backbone, what they cost, and their weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from rich.table import Table

    from ossa.models.backbones.catalog import CatalogRow
    from ossa.models.backbones.pretrained import PretrainedTag

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_NUMBER_OPTION = typer.Option(metavar="N")
_NUMBER = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?) ?([kmgt]?)", re.IGNORECASE)


@command(panels={"Which of them": "supported max_params max_flops commercial"})
def backbones(
    *,
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN"),
        "Part of a name, or a shell wildcard for the whole name ('convnext*_tiny').",
    ] = None,
    supported: Annotated[bool, "Only those that work."] = False,
    max_params: Annotated[str | None, _NUMBER_OPTION, "At most N parameters (30M, 5.5e6)."] = None,
    max_flops: Annotated[str | None, _NUMBER_OPTION, "At most N FLOPs at the image size."] = None,
    commercial: Annotated[
        bool,
        "Only those with weights whose licence allows commercial use to everybody: Apache-2.0, "
        "MIT, BSD or CC-BY.",
    ] = False,
    imgsz: Annotated[
        options.Side,
        "Side of the image whose FLOPs are shown; another than 640 takes a second per model.",
    ] = 640,
    sort: Annotated[Literal["name", "params", "flops"], "Smallest first."] = "name",
    tags: Annotated[bool, "One line per pretrained weights: licence, data, input."] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the architectures that can be the backbone of a detector.

    Supported is what has maps at strides 8, 16 and 32 for images of 320 x 320, 640 x 640 and
    384 x 672 pixels. Parameters and FLOPs (2 a multiply-add) are those of the backbone alone. All
    comes from a table made with one version of timm; with another version installed, what the
    filters leave is tried out here, about two seconds a model. Nothing is downloaded.

    [bold]Examples[/bold]

      ossa backbones 'vit_small*' --tags

      ossa backbones --supported --commercial --max-params 30M --max-flops 40G --sort flops
    """
    import timm

    from ossa.cli.console import print_json, print_table
    from ossa.config import check_imgsz
    from ossa.models.backbones.catalog import TABLE_IMGSZ, TABLE_TIMM
    from ossa.models.backbones.pretrained import pretrained_tags
    from ossa.models.probe import known_rows, probe_backbone, with_flops_at

    check_imgsz(imgsz, stride=32)
    params, flops = _number("--max-params", max_params), _number("--max-flops", max_flops)
    names, known_tags = _matching(pattern), pretrained_tags()
    if commercial:
        names = [n for n in names if any(tag.commercial for tag in known_tags.get(n, ()))]

    def keep(row: "CatalogRow") -> bool:
        small = _at_most(row.params, params) and (
            imgsz != TABLE_IMGSZ or _at_most(row.flops, flops)
        )
        return small and (row.supported or not supported)

    known, unknown = known_rows(names, keep)
    doing = f"trying out what the table of timm {TABLE_TIMM} does not tell of {timm.__version__}"
    rows = [*known, *filter(keep, _each(doing, probe_backbone, unknown))]
    rows.sort(key=lambda row: row.model)
    if imgsz != TABLE_IMGSZ:
        rows = _each(f"counting FLOPs at {imgsz} px", partial(with_flops_at, imgsz=imgsz), rows)
        rows = [row for row in rows if _at_most(row.flops, flops)]
    if sort != "name":  # unknown numbers last
        rows.sort(key=lambda row: (getattr(row, sort) is None, getattr(row, sort)))
    if as_json:
        print_json([_as_json(row, imgsz, known_tags.get(row.model, [])) for row in rows])
    else:
        print_table(_tags_table(rows, imgsz, known_tags) if tags else _rows_table(rows, imgsz))
        print_line(
            f"{len(rows)} architectures, {sum(row.supported for row in rows)} of them supported"
        )


def _matching(pattern: str | None) -> list[str]:
    """Returns the architectures that a pattern means, sorted; without wildcards it is a part.

    Raises:
        ConfigError: it means none.
    """
    from fnmatch import fnmatchcase

    from ossa.errors import suggestion
    from ossa.models.backbones.cspdarknet import cspdarknet_scale
    from ossa.models.detector import known_backbones

    if pattern is not None and cspdarknet_scale(pattern) is not None:
        return [pattern]
    known = sorted(known_backbones())
    if pattern is None:
        return known
    wildcard = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    matching = [name for name in known if fnmatchcase(name, wildcard)]
    if not matching:
        hint = suggestion(re.sub(r"[*?\[\]]", "", pattern), known)
        raise ConfigError(f"no architecture matches {pattern!r}.{hint}")
    return matching


def _number(option: str, text: str | None) -> float | None:
    """Returns the number that an option was given: 30M is 3e7.

    Raises:
        ConfigError: it is no number.
    """
    if text is None:
        return None
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        expected = f"a number such as 30M or 5.5e6 for {option}"
        raise ConfigError(expected=expected, found=repr(text))
    return float(found[1]) * _UNITS[found[2].lower()]


def _at_most(number: int | None, limit: float | None) -> bool:
    return limit is None or (number is not None and number <= limit)


def _each(doing: str, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Returns what `work` makes of each item, with a progress bar."""
    from ossa.cli.console import Console

    if not items:
        return []
    rows = []
    with Console() as console, console.progress(doing) as progress:
        for item in items:
            rows.append(work(item))
            progress(len(rows), len(items))
    return rows


def _as_json(row: "CatalogRow", imgsz: int, tags: "list[PretrainedTag]") -> dict[str, Any]:
    return {
        "model": row.model,
        "source": _source(row.model),
        "supported": row.supported,
        "reason": row.reason,
        "strides": [level.stride for level in row.levels] or None,
        "channels": [level.channels for level in row.levels] or None,
        "params": row.params,
        "imgsz": imgsz,
        "flops": row.flops,
        "macs": row.macs,
        "tags": [tag.flat() for tag in tags],
    }


def _source(model: str) -> str:
    """Returns whose implementation it is; that of both is under Apache-2.0."""
    from ossa.models.backbones.cspdarknet import cspdarknet_scale
    from ossa.models.backbones.roadmap import ROADMAP

    is_own = cspdarknet_scale(model) is not None or model in {step.name for step in ROADMAP}
    return "ossa" if is_own else "timm"


def _rows_table(rows: "list[CatalogRow]", imgsz: int) -> "Table":
    """Returns a line for each architecture."""
    from ossa.cli.console import new_table

    titles = ("parameters", f"FLOPs at {imgsz} px", "channels at 8, 16, 32", "supported")
    table = new_table("model", *titles)
    table.columns[0].no_wrap, table.columns[-1].justify = True, "left"
    for row in rows:
        channels = ", ".join(str(level.channels) for level in row.levels) or "–"
        works = "yes" if _source(row.model) == "timm" else "yes, ossa's own"
        works = works if row.supported else f"no: {row.reason}"
        table.add_row(row.model, *_figures(row), channels, works)
    return table


def _tags_table(
    rows: "list[CatalogRow]", imgsz: int, tags: "Mapping[str, list[PretrainedTag]]"
) -> "Table":
    """Returns a line for each of the weights, and one for each architecture without any."""
    from ossa.cli.console import new_table

    titles = ("licence", "data", "input", "mean", "deviation")
    table = new_table("model", "parameters", f"FLOPs at {imgsz} px", "supported", *titles)
    for column in table.columns[3:]:
        column.justify = "left"
    for column in (table.columns[0], *table.columns[-2:]):  # as they can be copied
        column.no_wrap = True
    for row in rows:
        known = (*_figures(row), "yes" if row.supported else "no")
        for tag in tags.get(row.model, []):
            height, width = tag.input_size
            table.add_row(
                *(f"{row.model}.{tag.tag}", *known, tag.licence or "unknown"),
                ", ".join(tag.data) or "not stated",
                f"{height} x {width}",
                *(" ".join(f"{n:.3g}" for n in numbers) for numbers in (tag.mean, tag.std)),
            )
        if row.model not in tags:
            table.add_row(row.model, *known, *["–"] * len(titles))
    return table


def _figures(row: "CatalogRow") -> list[str]:
    from ossa.cli.console import with_unit

    return ["–" if number is None else with_unit(number) for number in (row.params, row.flops)]
