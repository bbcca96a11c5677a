"""Experiment loggers: a run's settings, metrics and figures in Comet, MLflow, TensorBoard or W&B.

Logged: the resolved configuration with the paths of data and weights as they were given, the cost,
the row of every epoch, the PNGs of the run's figures, the confusion matrix, and at the end the
status, hashes, hardware and versions of the record. The checkpoint only where the user asks for it.

Not logged: code, git, the command line, terminal output, installed packages, names of host and
user. The automatic logging of the libraries is off, and so are their reports to their makers.
"""

import importlib
import json
import netrc
import os
import secrets
import shlex
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2

from ossa.config import flattened
from ossa.errors import ConfigError, suggestion
from ossa.evaluate.evaluator import Evaluation
from ossa.files import write_text_atomically
from ossa.train.callbacks import Callback, RunStart
from ossa.train.run_folder import BEST_WEIGHTS, FIGURES_FOLDER
from ossa.types import Record

Counts: TypeAlias = Sequence[Sequence[int]]
"""A confusion matrix: a row per ground-truth class, a column per predicted one; the last is
background."""


class Logger(Protocol):
    """Logs a run somewhere. A subclass overrides the methods that it needs.

    An exception of a method ends the logging of the run by this logger, and never the run.

    Examples:
        >>> class APLogger(Logger):
        ...     name = "ap"
        ...     def log_metrics(self, row):
        ...         print(f"epoch {row['epoch'] + 1}: AP {row['ap']:.3f}")
        >>> APLogger().log_metrics({"epoch": 0, "ap": 0.25})
        epoch 1: AP 0.250
    """

    name: str
    """As the user calls it, such as 'comet'."""

    def start(self, run: RunStart) -> str:
        """Open the run, or go on with it, and return where it can be seen, or ''."""
        return ""

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Log an epoch's line of `log.jsonl`; values can be None."""

    def log_figure(self, name: str, path: Path, *, epoch: int) -> None:
        """Log a PNG, which replaces the previous one of its name ('curves', 'predictions', ...)."""

    def log_confusion_matrix(self, names: Sequence[str], counts: Counts, *, epoch: int) -> None:
        """Log a confusion matrix, which replaces the previous one."""

    def log_weights(self, path: Path) -> None:
        """Upload the checkpoint of the best epoch. Called only where the user wants it."""

    def finish(self, record: Record | None) -> None:
        """Close the run; `record` is None where it broke off without one."""


class LoggerCallback(Callback):
    """Drives loggers: every epoch's row, and every tenth epoch the figures that have changed.

    Use it as a context manager, so that the loggers are closed when a run is interrupted. A logger
    that fails is reported once and not called again; the run goes on.

    Examples:
        >>> with LoggerCallback([TensorBoardLogger()]) as callback:
        ...     isinstance(callback, Callback)  # pass it to ossa.train_detector(callback=...)
        True
    """

    def __init__(
        self,
        loggers: Iterable[Logger],
        report: Callable[[str], None] = print,
        *,
        log_weights: bool = False,
    ) -> None:
        """`report` receives where each logger's run can be seen, and failures; with `log_weights`
        the checkpoint of the best epoch is uploaded when the run ends.
        """
        self._loggers = tuple(loggers)
        self._report = report
        self._log_weights = log_weights
        self._active: list[Logger] = []
        self._folder = Path()
        self._epoch = 0
        self._logged: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish(None)

    def on_start(self, start: RunStart) -> None:
        self._folder, self._epoch = start.folder, max(0, start.epochs_done - 1)
        self._active, self._logged = list(self._loggers), {}

        def open_run(logger: Logger) -> None:
            if place := logger.start(start):
                self._report(f"{logger.name}: {place}")

        self._call(open_run)

    def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
        self._epoch = row["epoch"]
        self._call(lambda logger: logger.log_metrics(row))
        if self._epoch % 10 == 0:
            self._log_figures()

    def on_end(self, record: Record) -> None:
        self._log_figures()
        best = self._folder / BEST_WEIGHTS
        if self._log_weights and best.is_file():
            self._call(lambda logger: logger.log_weights(best))
        self._finish(record)

    def _finish(self, record: Record | None) -> None:
        self._call(lambda logger: logger.finish(record))
        self._active = []

    def _log_figures(self) -> None:
        """Logs the figures that have changed since they were logged."""
        folder, epoch = self._folder / FIGURES_FOLDER, self._epoch
        for path in (*sorted(folder.glob("*.png")), *folder.glob("confusion.json")):
            written = path.stat().st_mtime_ns
            if self._logged.get(path) == written:
                continue
            self._logged[path] = written
            if path.suffix == ".png":
                self._call(lambda it, path=path: it.log_figure(path.stem, path, epoch=epoch))
                continue
            found = json.loads(path.read_text())
            names, counts = found["names"], found["matrix"]
            self._call(lambda it, n=names, c=counts: it.log_confusion_matrix(n, c, epoch=epoch))

    def _call(self, method: Callable[[Logger], None]) -> None:
        for logger in tuple(self._active):
            try:
                method(logger)
            except Exception as error:
                self._active.remove(logger)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._report(f"{logger.name}: logging stopped, the run goes on ({reason})")


class TensorBoardLogger(Logger):
    """Writes event files into the run's folder; tables are Markdown, and weights have no place."""

    name = "tensorboard"

    def __init__(self) -> None:
        require_package(self.name, "tensorboard", install="tensorboard")
        self._writer: Any = None

    def start(self, run: RunStart) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder))
        self._add_table("settings", ("setting", "value"), settings_and_cost(run).items())
        return f"tensorboard --logdir {folder}"

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        for key, value in numeric_values(row).items():
            self._writer.add_scalar(key, value, row["epoch"])
        self._writer.flush()

    def log_figure(self, name: str, path: Path, *, epoch: int) -> None:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise OSError(f"{path} cannot be decoded")
        self._writer.add_image(name, image, epoch, dataformats="HWC")

    def log_confusion_matrix(self, names: Sequence[str], counts: Counts, *, epoch: int) -> None:
        rows = [(name, *row) for name, row in zip(names, counts, strict=True)]
        self._add_table("confusion", ("ground truth \\ predicted", *names), rows, epoch=epoch)

    def finish(self, record: Record | None) -> None:
        if record is not None:
            self._add_table("outcome", ("what", "value"), status_and_environment(record).items())
        self._writer.close()

    def _add_table(
        self, tag: str, head: Sequence[str], rows: Iterable[Iterable[Any]], *, epoch: int = 0
    ) -> None:
        lines = [head, ["---"] * len(head), *rows]
        text = "\n".join("|" + "|".join(map(str, line)) + "|" for line in lines)
        self._writer.add_text(tag, text, epoch)


class WandbLogger(Logger):
    """Logs to Weights & Biases, whose environment (WANDB_API_KEY, WANDB_MODE, ...) is honoured.

    The files lie in `wandb/` in the run's folder; the library keeps its caches where
    WANDB_CACHE_DIR and WANDB_DATA_DIR say.
    """

    name = "wandb"

    def __init__(self, *, project: str | None = None) -> None:
        """`project` is that of WANDB_PROJECT, or W&B's default, where left out."""
        require_package(self.name, "wandb", install="'ossa[wandb]'")
        self._project = project
        self._wandb: Any = None
        self._run: Any = None

    def start(self, run: RunStart) -> str:
        self._wandb = importlib.import_module("wandb")
        reason = _why_wandb_is_offline()
        self._run = self._wandb.init(
            project=self._project,
            dir=str(run.folder),
            id=tracking_key(run.folder),
            name=run.folder.name,
            resume="allow",
            config=settings_and_cost(run),
            mode=None if reason is None else "offline",
            settings=self._wandb.Settings(
                console="off",
                silent=True,
                **dict.fromkeys(("save_code", "x_save_requirements"), False),
                **dict.fromkeys(("disable_code", "disable_git", "x_disable_machine_info"), True),
                **dict.fromkeys(("x_disable_meta", "x_disable_stats"), True),
            ),
        )
        if reason is None and not self._run.offline:
            return self._run.url or f"no address, by WANDB_MODE={os.environ['WANDB_MODE']}"
        folder = shlex.quote(f"{run.folder}/wandb")
        return (
            f"{reason or 'WANDB_MODE is offline'}, so the run is kept in {folder}; "
            f"wandb sync {folder}/offline-run-* sends it"
        )

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        self._run.log(numeric_values(row), step=row["epoch"])

    def log_figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=epoch)

    def log_confusion_matrix(self, names: Sequence[str], counts: Counts, *, epoch: int) -> None:
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        table = self._wandb.Table(columns=["ground truth", *names], data=rows)
        self._run.log({"confusion": table}, step=epoch)

    def log_weights(self, path: Path) -> None:
        if not self._run.save(str(path), base_path=str(path.parent), policy="now"):
            raise OSError(f"W&B found no file for the pattern {path}")

    def finish(self, record: Record | None) -> None:
        if record is not None:
            self._run.summary.update(status_and_environment(record))
        self._run.finish(exit_code=0 if record is not None and record.status == "done" else 1)


def _why_wandb_is_offline() -> str | None:
    """Return why no server need be asked; None where WANDB_MODE decides, or it can be."""
    if os.environ.get("WANDB_MODE"):
        return None
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    has_key = any(map(os.environ.get, ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")))
    with suppress(OSError, netrc.NetrcParseError):  # where `wandb login` leaves a key
        file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        has_key |= netrc.netrc(file).authenticators(urlsplit(address).netloc) is not None
    # Without a key W&B asks for one at the terminal, where a training would wait for the answer.
    if not has_key:
        return "there is no WANDB_API_KEY"
    return None if is_reachable(address) else f"{address} does not answer"


def create_loggers(names: Iterable[str], *, project: str | None = None) -> list[Logger]:
    """Return one logger for each different name ('comet', 'mlflow', 'tensorboard', 'wandb').

    `project` is for those that have projects; None for what their environment says.

    Raises:
        ConfigError: a name is misspelt, or the package of a logger is not installed.
    """
    from ossa.train.comet import CometLogger  # they import this module
    from ossa.train.mlflow import MLflowLogger

    constructors: dict[str, Callable[[], Logger]] = {
        "comet": lambda: CometLogger(project=project),
        "mlflow": lambda: MLflowLogger(project=project),
        "tensorboard": TensorBoardLogger,
        "wandb": lambda: WandbLogger(project=project),
    }
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in constructors:
            hint = suggestion(name, constructors) or f" There are {', '.join(constructors)}."
            raise ConfigError(f"no logger named {name!r}.{hint}")
    return [constructors[name]() for name in names]


def require_package(logger: str, package: str, *, install: str) -> None:
    """Raise ConfigError, with the line that installs it, if a logger's package is missing."""
    if find_spec(package) is None:
        raise ConfigError(
            f"the logger {logger} needs the package {package}, found none: pip install {install}"
        )


def settings_and_cost(run: RunStart) -> dict[str, str | int | float]:
    """Return the resolved configuration, flat ('train.lr', ...), and 'cost.params' and the like.

    What is neither text nor number (None, anchors) becomes JSON.
    """
    nested = {**run.config.model_dump(mode="json"), "cost": run.cost}
    return {
        key: value if isinstance(value, str | int | float) else json.dumps(value)
        for key, value in flattened(nested).items()
    }


def numeric_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what can be drawn as a curve: no None (a metric without ground truth), no text."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def status_and_environment(record: Record) -> dict[str, str]:
    """Return how a run ended and in which environment: hardware and versions, no paths."""
    hashes = {"config_hash": record.config_hash, "data_fingerprint": record.data_fingerprint}
    return {"status": record.status, "reason": record.reason or "", **hashes, **record.environment}


def tracking_key(folder: Path) -> str:
    """Return the 32 hexadecimal digits by which a service knows a run again when it is resumed.

    They are drawn at the first call and kept in the run's folder.
    """
    file = folder / "tracking-key"
    if not file.is_file():
        write_text_atomically(file, secrets.token_hex(16) + "\n")
    return file.read_text().strip()


def is_reachable(url: str, *, seconds: float = 3.0) -> bool:
    """Return whether a server answers within so many seconds, through the environment's proxies.

    An answer of a proxy that reaches no server (502 and the like) is none.
    """
    answered = threading.Event()
    # No secret is sent and no answer is read, so any certificate will do here: some servers have
    # one of their own, which the logger's library is configured to trust.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=seconds, context=context).close()
        except Exception as error:  # no network, no such host, not a URL: none has a status
            if getattr(error, "code", 500) >= 500:
                return
        answered.set()

    # Looking up a name has no time limit of its own, so the whole request gets a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
