"""Runs in Comet (https://www.comet.com), or in its files where there is no key or no network.

Sent: the resolved configuration with the paths of data and weights as they were given, cost, the
row of every epoch, the PNGs of the run's figures, the confusion matrix, and at the end the status,
hashes, hardware and versions of the record. The checkpoint only where the user asks for it.

Not sent: code, git, the command line, terminal output, installed packages, names of host and user.
Comet's automatic logging is off, and so are its reports of its own errors and use.

While a run goes on, Comet keeps what it has yet to send or to pack in the system's folder for
temporary files; what stays is written into the folder of the run.
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
from ossa.train.trackers.callback import numbers, outcome, settings_and_cost, tracking_key
from ossa.train.trackers.network import answers
from ossa.types import Record

_ENVIRONMENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # patches torch, and wants to be imported before it
    "COMET_DISABLE_ANNOUNCEMENT": "true",
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_INTERNAL_REPORTING": "false",
    "COMET_LOGGING_CONSOLE": "CRITICAL",
    # A training that is to begin waits for one answer, and for no more than one other try.
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "0",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_STATUS": "1",
}
"""What Comet reads from the environment where the user has not set it."""


class CometTracker:
    """Logs a run to Comet, whose environment (COMET_API_KEY, COMET_WORKSPACE, ...) is honoured."""

    name = "comet"

    def __init__(self, *, project: str | None = None) -> None:
        """`project` is that of COMET_PROJECT_NAME, or Comet's default, where left out."""
        self._project = project
        self._model = ""
        self._experiment: Any = None

    def begin(self, start: RunStart) -> str:
        comet_ml = _import_quietly()
        self._model = start.config.model.name
        reason = _why_offline(comet_ml)
        if reason is None:
            reason = self._start(comet_ml, start, online=True)
        if reason is not None:
            self._start(comet_ml, start, online=False)
        self._experiment.log_parameters(settings_and_cost(start))
        if reason is None:
            return self._experiment.url
        folder = shlex.quote(str(start.folder))
        return (
            f"{reason}, so the run is packed into {folder} when it ends; "
            f"comet upload {folder}/{tracking_key(start.folder)}-*.zip sends it"
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._experiment.log_metrics(numbers(row), step=row["epoch"], epoch=row["epoch"])

    def figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._experiment.log_image(str(path), name=name, step=epoch, overwrite=True)

    def confusion(
        self, names: Sequence[str], counts: Sequence[Sequence[int]], *, epoch: int
    ) -> None:
        self._experiment.log_confusion_matrix(
            matrix=[list(row) for row in counts],
            labels=list(names),
            row_label="Truth",
            column_label="Predicted",
            max_categories=len(names),  # of more than 25 it would show some
            step=epoch,
            overwrite=True,
        )

    def weights(self, path: Path) -> None:
        self._experiment.log_model(self._model, str(path), overwrite=True)

    def end(self, record: Record | None) -> None:
        if record is not None:
            self._experiment.log_others(outcome(record))
        self._experiment.end()
        shutil.rmtree(self._experiment.tmpdir, ignore_errors=True)

    def _start(self, comet_ml: ModuleType, start: RunStart, *, online: bool) -> str | None:
        """Opens the experiment, and returns why Comet takes none; None where it does."""
        try:
            self._experiment = comet_ml.start(
                online=online,
                mode="get_or_create",
                experiment_key=tracking_key(start.folder),
                project_name=self._project,
                experiment_config=_nothing_by_itself(comet_ml, start.folder),
            )
        except Exception as refusal:
            if not online:
                raise
            key = comet_ml.get_api_key(None, comet_ml.get_config())
            words = str(refusal).replace(key, "***")  # InvalidAPIKey tells the key
            return f"Comet took no run ({type(refusal).__name__}: {' '.join(words.split())})"
        return None if self._experiment.alive else "Comet took no run"


def _import_quietly() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hook = sys.excepthook
    try:
        return importlib.import_module("comet_ml")
    finally:
        sys.excepthook = hook  # Comet's sends the message of an error that ends the process


def _why_offline(comet_ml: ModuleType) -> str | None:
    """Returns why Comet need not be asked for an online run; None where it can be."""
    config = comet_ml.get_config()
    if config.get_bool(None, "comet.start.online") is False:
        return "COMET_START_ONLINE is false"
    if not comet_ml.get_api_key(None, config):
        return "there is no COMET_API_KEY"
    address = comet_ml.get_backend_address()
    # With a key and no network, Comet's own start waits for half a minute and then logs nothing.
    return None if answers(address) else f"{address} does not answer"


def _nothing_by_itself(comet_ml: ModuleType, folder: Path) -> Any:
    """Returns a configuration by which Comet logs only what it is told."""
    return comet_ml.ExperimentConfig(
        name=folder.name,
        offline_directory=str(folder),
        display_summary_level=0,
        log_code=False,
        log_graph=False,
        log_git_metadata=False,
        log_git_patch=False,
        log_env_details=False,
        log_env_cpu=False,
        log_env_disk=False,
        log_env_gpu=False,
        log_env_host=False,
        log_env_network=False,
        parse_args=False,
        auto_output_logging=False,
        auto_param_logging=False,
        auto_metric_logging=False,
        auto_log_co2=False,
    )
