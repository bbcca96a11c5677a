"""Runs in Comet (https://www.comet.com), or in its files where there is no key or no network.

While a run goes on, Comet keeps what it has yet to send or to pack in the system's folder for
temporary files; what stays is written into the run's folder.
"""

import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ossa.train.callbacks import RunStart
from ossa.train.loggers import (
    Counts,
    Logger,
    is_reachable,
    numeric_values,
    require_package,
    settings_and_cost,
    status_and_environment,
    tracking_key,
)
from ossa.types import Record

_ENVIRONMENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # patches torch, and wants to be imported before it
    "COMET_DISABLE_ANNOUNCEMENT": "true",
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_INTERNAL_REPORTING": "false",
    "COMET_LOGGING_CONSOLE": "CRITICAL",
    # A training that is to start waits for one answer, and for no more than one other try.
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "0",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_STATUS": "1",
}
"""What Comet reads from the environment where the user has not set it."""
_AUTOMATIC = (
    *("log_code", "log_graph", "log_git_metadata", "log_git_patch", "log_env_details"),
    *("log_env_cpu", "log_env_disk", "log_env_gpu", "log_env_host", "log_env_network"),
    *("parse_args", "auto_output_logging", "auto_param_logging", "auto_metric_logging"),
    "auto_log_co2",
)
"""What Comet would log by itself."""


class CometLogger(Logger):
    """Logs to Comet, whose environment (COMET_API_KEY, COMET_WORKSPACE, ...) is honoured."""

    name = "comet"

    def __init__(self, *, project: str | None = None) -> None:
        """`project` is that of COMET_PROJECT_NAME, or Comet's default, where left out."""
        require_package(self.name, "comet_ml", install="comet-ml")
        self._project = project
        self._model = ""
        self._experiment: Any = None

    def start(self, run: RunStart) -> str:
        comet_ml = _import_quietly()
        self._model = run.config.model.name
        reason = _why_offline(comet_ml) or self._open(comet_ml, run.folder, online=True)
        if reason is not None:
            self._open(comet_ml, run.folder, online=False)
        self._experiment.log_parameters(settings_and_cost(run))
        if reason is None:
            return self._experiment.url
        folder = shlex.quote(str(run.folder))
        return (
            f"{reason}, so the run is packed into {folder} when it ends; "
            f"comet upload {folder}/{tracking_key(run.folder)}-*.zip sends it"
        )

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        self._experiment.log_metrics(numeric_values(row), step=row["epoch"], epoch=row["epoch"])

    def log_figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._experiment.log_image(str(path), name=name, step=epoch, overwrite=True)

    def log_confusion_matrix(self, names: Sequence[str], counts: Counts, *, epoch: int) -> None:
        self._experiment.log_confusion_matrix(
            matrix=[list(row) for row in counts],
            labels=list(names),
            row_label="Ground truth",
            column_label="Predicted",
            max_categories=len(names),  # of more than 25 it would show some
            step=epoch,
            overwrite=True,
        )

    def log_weights(self, path: Path) -> None:
        self._experiment.log_model(self._model, str(path), overwrite=True)

    def finish(self, record: Record | None) -> None:
        if record is not None:
            self._experiment.log_others(status_and_environment(record))
        self._experiment.end()
        shutil.rmtree(self._experiment.tmpdir, ignore_errors=True)

    def _open(self, comet_ml: ModuleType, folder: Path, *, online: bool) -> str | None:
        """Open the experiment, and return why Comet refuses it; None where it does not."""
        try:
            self._experiment = comet_ml.start(
                online=online,
                mode="get_or_create",
                experiment_key=tracking_key(folder),
                project_name=self._project,
                experiment_config=comet_ml.ExperimentConfig(
                    name=folder.name,
                    offline_directory=str(folder),
                    display_summary_level=0,
                    **dict.fromkeys(_AUTOMATIC, False),
                ),
            )
        except Exception as error:
            if not online:
                raise
            key = comet_ml.get_api_key(None, comet_ml.get_config())
            message = str(error).replace(key, "***")  # InvalidAPIKey contains the key
            return f"Comet refused the run ({type(error).__name__}: {' '.join(message.split())})"
        return None if self._experiment.alive else "Comet refused the run"


def _import_quietly() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hook = sys.excepthook
    try:
        return importlib.import_module("comet_ml")
    finally:
        sys.excepthook = hook  # Comet's sends the message of an error that ends the process


def _why_offline(comet_ml: ModuleType) -> str | None:
    """Return why Comet need not be asked for an online run; None where it can be."""
    config = comet_ml.get_config()
    if config.get_bool(None, "comet.start.online") is False:
        return "COMET_START_ONLINE is false"
    if not comet_ml.get_api_key(None, config):
        return "there is no COMET_API_KEY"
    address = comet_ml.get_backend_address()
    # With a key and no network, Comet's own start waits for half a minute and then logs nothing.
    return None if is_reachable(address) else f"{address} does not answer"
