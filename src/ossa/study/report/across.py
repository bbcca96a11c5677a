"""Sections of the report across machines."""

from collections.abc import Sequence

from ossa.study.pack import Machine
from ossa.study.report.tables import Column, ReportFiles, ReportTable, bullets
from ossa.study.report.text import probability
from ossa.viz.page import Section

_MACHINE_COLUMNS = (
    *(Column("machine"), Column("model")),
    Column("ms_per_image", "ms per image, median", write=lambda ms: f"{ms:.2f}", best="lowest"),
    Column("p95_ms", "ms per image, 95% quantile", write=lambda ms: f"{ms:.2f}"),
    Column("ap", "AP50-95", decimals=3, best="highest"),
    Column("probability", "Pareto", write=probability),
)


def machines_section(machines: Sequence[Machine], files: ReportFiles) -> Section | None:
    """Returns quality against time on each other machine, None without any."""
    if not machines:
        return None
    rows = [row for machine in machines for row in machine.rows()]
    table = ReportTable("machines", _MACHINE_COLUMNS, rows, caption="Times on other machines")
    first, *others = [machine.sentence() for machine in machines]
    return Section(
        "Other machines", [bullets("", others), files.table(table)], text=first, folded=True
    )
