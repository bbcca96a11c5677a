"""Varied settings in the report: whether the order of the models depends on the head or others."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ossa.evaluate.statistics import Values
from ossa.study.interactions import Effect
from ossa.study.report.tables import Column, ReportFiles, ReportTable, bullets, interval_columns
from ossa.study.report.text import counted, listed, p_value, signed
from ossa.study.results import StudyResults
from ossa.viz.page import Block, Section

_MOST_NAMED = 3


def head_and_neck_sentences(results: StudyResults) -> list[str]:
    """Returns a sentence on the heads and one on the necks, for those that are varied.

    Of several levels, the one whose interaction is the surest.
    """
    found = {}
    for setting in ("model.head", "model.neck_type"):
        effects = [effect for effect in results.effects if effect.setting == setting]
        if effects:
            found[setting] = min(effects, key=lambda effect: effect.interaction.p)
    return [effect_sentence(results, effect) for effect in found.values()]


def effect_sentence(results: StudyResults, effect: Effect) -> str:
    """Returns whether the order of the models depends on a setting."""
    found, name = effect.interaction, effect.setting.removeprefix("model.")
    where = f"{name} {effect.level} in place of {effect.base}"
    pairs = [
        f"{before.model} − {before.reference} is {signed(before.difference)} with {effect.base} "
        f"and {signed(after.difference)} with {effect.level}"
        for before, after in found.certainly_reversed
    ]
    if pairs:
        start = f"With {where}, the order of the models changes: {listed(pairs, most=_MOST_NAMED)}"
    elif found.keeps_order:
        start = f"With {where}, the order of the models stays the same"
        start += ", though not all gain alike" if effect.is_found else ""
    elif effect.is_found:
        start = f"With {where}, not all models gain alike, but no pair certainly changes its order"
    else:
        start = f"Nothing shows that the order of the models depends on {where}"
    adjusted = ", adjusted" if len(results.effects) > 1 else ""
    tau = f"Kendall's tau {found.tau:.2f}".replace("-", "−")
    if found.tau_interval is not None:
        tau += " (95% CI {:.2f} to {:.2f})".format(*found.tau_interval).replace("-", "−")
    count = len(found.models)
    return (
        f"{start} (F test of the interaction: p {p_value(effect.p)}{adjusted}; {tau}; of "
        f"{counted(count * (count - 1) // 2, 'pair')}, {len(found.reversed_pairs)} reversed in the "
        f"means, {len(pairs)} for certain; {_evidence(results, effect)})."
    )


def _evidence(results: StudyResults, effect: Effect) -> str:
    runs = {int(runs) for level in effect.interaction.levels for runs in level.estimates.runs}
    least, most = min(runs), max(runs)
    seeds = counted(least, "seed") if least == most else f"{least} to {most} seeds"
    over = effect.interaction.gains.over
    covers = "" if over == "seeds and images" else f", intervals over {over}"
    return f"{seeds}, {counted(len(results.index), 'image')}{covers}"


def factors_section(results: StudyResults, files: ReportFiles) -> Section | None:
    """Returns whether the order depends on the varied settings, None if nothing is varied."""
    if not results.study.factors:
        return None
    sentences = [effect_sentence(results, effect) for effect in results.effects]
    blocks: list[Block] = [files.table(tuning_table(_by_combination(results)))]
    if results.effects:
        blocks.insert(0, files.table(gains_table(results.effects)))
    if len(sentences) > 1:
        blocks.insert(0, bullets("", sentences[1:]))
    return Section("Varied settings", blocks, " ".join(sentences[:1]), folded=True)


def gains_table(effects: tuple[Effect, ...]) -> ReportTable:
    """Returns what every model gains by every varied value, the models that gain most first."""
    rows = []
    for effect in effects:
        found = effect.interaction
        before, after = (level.estimates.means for level in found.levels)
        for i in (before - after).argsort():
            low, high = found.gain(found.models[i])
            rows.append(
                {"model": found.models[i], "setting": effect.setting, "value": str(effect.level)}
                | {"before": before[i], "after": after[i], "gain": after[i] - before[i]}
                | {"low": low, "high": high, "p": effect.p}
            )
    columns = [
        *map(Column, ("model", "setting", "value")),
        Column("before", "at the base value", decimals=3, minor=True),
        Column("after", "at this value", decimals=3, minor=True),
        *(Column("gain", write=signed), *interval_columns(write=signed)),
    ]
    note = "Simultaneous 95% intervals; the other varied settings have their base values."
    caption = "Gains in AP50-95 over the base value"
    return ReportTable("gains", columns, rows, caption=caption, note=note, in_files=("p",))


def _by_combination(results: StudyResults) -> dict[str, dict[str, Values]]:
    """Returns AP50-95 by model for each combination of the varied settings, the base first.

    Combinations have names such as 'train.lr 0.03'.
    """
    each = (results.folder.plan.base, *(run.state.run.varied for run in results.runs))
    names = {
        ", ".join(f"{key} {value}" for key, value in varied.items()): varied for varied in each
    }
    return {name: results.values("ap", varied=varied) for name, varied in names.items()}


def tuning_table(variations: Mapping[str, Mapping[str, Values]]) -> ReportTable:
    """Returns AP50-95 and rank of every model for every combination of the varied settings."""
    models = list(dict.fromkeys(model for by_model in variations.values() for model in by_model))
    rows: dict[str, dict[str, Any]] = {model: {"model": model} for model in models}
    columns = [Column("model")]
    for name, by_model in variations.items():
        means = pd.Series({model: float(values.plain.mean()) for model, values in by_model.items()})
        ranks = means.rank(ascending=False, method="min")
        for model, values in by_model.items():
            deviation = values.plain.std(ddof=1) if len(values.plain) > 1 else None
            rows[model] |= {name: means[model], f"{name}_std": deviation}
            rows[model][f"{name} rank"] = ranks[model]
        columns.append(Column(name, decimals=3, best="highest"))
        columns.append(Column(f"{name} rank", "rank", write=lambda rank: f"{rank:.0f}"))
    return ReportTable("tuning", columns, list(rows.values()), caption="AP50-95 by varied settings")
