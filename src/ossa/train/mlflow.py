"""The logger for MLflow: settings, epochs, figures, the confusion matrix, and the weights."""

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ossa.files import read_regular, write_text_atomically
from ossa.train.callbacks import RunStart
from ossa.train.loggers import (
    Counts,
    Logger,
    numeric_values,
    require_package,
    settings_and_cost,
    status_and_environment,
)
from ossa.types import Record

_RUN_FILE: Final = "mlflow-run"
"""In the run's folder: the id by which MLflow knows it."""
_LONGEST_VALUE: Final = 500
"""Characters of a parameter, in every version of MLflow's server."""


class MLflowLogger(Logger):
    """Logs to the server of MLFLOW_TRACKING_URI, else into a database in the run's folder."""

    name = "mlflow"

    def __init__(self, *, project: str | None = None) -> None:
        """`project` is MLflow's experiment; that of MLFLOW_EXPERIMENT_NAME where left out."""
        require_package(self.name, "mlflow", install="mlflow")
        self._project = project
        self._mlflow: Any = None

    def start(self, run: RunStart) -> str:
        self._mlflow = importlib.import_module("mlflow")
        own = f"sqlite:///{(run.folder / 'mlflow.db').absolute()}"
        address = os.environ.get("MLFLOW_TRACKING_URI") or own
        self._mlflow.set_tracking_uri(address)
        project = self._project or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if address == own:  # whose files would lie in the current folder
            project = project or "ossa"
            if self._mlflow.get_experiment_by_name(project) is None:
                place = (run.folder / "mlflow-files").absolute().as_uri()
                self._mlflow.create_experiment(project, artifact_location=place)
        if project is not None:
            self._mlflow.set_experiment(project)
        file = run.folder / _RUN_FILE
        known = None
        if file.exists():
            known = read_regular(file, most_bytes=_LONGEST_VALUE).decode().strip()
        begun = self._mlflow.start_run(run_id=known, run_name=None if known else run.folder.name)
        if known is None:
            write_text_atomically(file, begun.info.run_id + "\n")
            values = settings_and_cost(run).items()
            self._mlflow.log_params({key: str(value)[:_LONGEST_VALUE] for key, value in values})
        return f"mlflow ui --backend-store-uri {address}" if address == own else address

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(numeric_values(row), step=row["epoch"])

    def log_figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._mlflow.log_artifact(str(path), artifact_path="figures")

    def log_confusion_matrix(self, names: Sequence[str], counts: Counts, *, epoch: int) -> None:
        table = {"classes": list(names), "counts": [list(row) for row in counts], "epoch": epoch}
        self._mlflow.log_dict(table, "confusion.json")

    def log_weights(self, path: Path) -> None:
        self._mlflow.log_artifact(str(path))

    def finish(self, record: Record | None) -> None:
        if record is not None:
            self._mlflow.set_tags(status_and_environment(record))
        is_done = record is not None and record.status == "done"
        self._mlflow.end_run("FINISHED" if is_done else "FAILED")
