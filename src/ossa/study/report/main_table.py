"""The main table: what each model buys and costs."""

from ossa.study.report.tables import ReportTable, TableColumn
from ossa.study.report.view import StudyView, is_known
from ossa.study.report.words import compact, duration

_COLUMNS = (
    TableColumn("model", "model"),
    TableColumn("family", "family"),
    TableColumn("runs", "seeds", write=str),
    TableColumn("ap", "AP50-95", decimals=3, best="highest"),
    TableColumn("ap50", "AP50", decimals=3, best="highest"),
    TableColumn("ap_small", "AP small", decimals=3, best="highest"),
    TableColumn("ap_medium", "AP medium", decimals=3, best="highest"),
    TableColumn("ap_large", "AP large", decimals=3, best="highest"),
    TableColumn(
        *("ap_crowded", "AP crowded"),
        decimals=3,
        best="highest",
        note="of objects that a neighbour of any class overlaps much",
    ),
    TableColumn(
        *("recall", "recall"),
        decimals=3,
        best="highest",
        note="at the confidence of the best mean F1, IoU 0.5",
    ),
    TableColumn("params", "parameters", write=compact, best="lowest"),
    TableColumn("flops", "FLOPs", write=compact, best="lowest", note="of one image"),
    TableColumn("macs", "MACs", write=compact, best="lowest", note="multiply-adds of one image"),
    TableColumn(
        *("ms_per_image", "ms an image"),
        write=lambda milliseconds: f"{milliseconds:.1f}",
        best="lowest",
        note="batch 1, with decoding of the predictions and NMS",
    ),
    TableColumn(
        *("train_seconds", "training"),
        write=duration,
        best="lowest",
        note="of one run, without evaluation",
    ),
    TableColumn("policy", "starts from"),
    TableColumn("weights", "initial weights"),
    TableColumn("licence", "their licence"),
)
_ALWAYS = ("model", "family", "runs", "policy", "weights", "licence")


def policy_columns(view: StudyView) -> list[TableColumn]:
    """Returns the column that declares initial weights where the models' differ, else none."""
    return [TableColumn("policy", "starts from")] if len(view.policies) > 1 else []


def main_table(view: StudyView) -> ReportTable:
    """Returns a row a model; columns of what was not measured are left out."""
    models = view.models
    columns = [
        column for column in _COLUMNS if column.key in _ALWAYS or is_known(models, column.key)
    ]
    rows = [{str(key): value for key, value in row.items()} for row in models.to_dict("records")]
    most = max(models["runs"].tolist())
    deviation = "± is the standard deviation over seeds. " if most > 1 else ""
    return ReportTable(
        "models",
        columns,
        rows,
        note=f"{deviation}{_of_what(view)} A click on a heading sorts; in bold the best.",
    )


def _of_what(view: StudyView) -> str:
    reported = view.results.study.reported
    weights = "the last weights (their running average)"
    if reported.weights == "best":
        weights = "the weights of the epoch that was best on val"
    return f"Metrics are those of {weights} on the {reported.split} split."


def absent_sentences(view: StudyView) -> list[str]:
    """Returns what the table lacks, and why."""
    sentences = []
    if "ap_crowded" not in view.values:
        sentences.append("The split has no crowded objects, so there is no AP of them.")
    for size in ("small", "medium", "large"):
        if f"ap_{size}" not in view.values:
            sentences.append(f"The split has no {size} objects, so there is no AP of them.")
    if "ms_per_image" not in view.complexities:
        sentences.append("Milliseconds and memory of an image were not measured.")
    else:
        unmeasured = view.models[view.models["ms_per_image"].isna()]["model"].tolist()
        if unmeasured:
            sentences.append(f"Milliseconds were not measured of {', '.join(unmeasured)}.")
    if len(view.policies) > 1:
        sentences.append(
            "The models start from weights of different data: a difference between them is not "
            "that of the backbones alone."
        )
    return sentences
