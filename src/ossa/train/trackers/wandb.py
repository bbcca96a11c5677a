"""Runs in Weights & Biases (https://wandb.ai), or in its files: `pip install 'ossa[wandb]'`.

What is sent and what is not is as for Comet (`ossa.train.trackers.comet`). The run's files lie in
`wandb/` in its folder; the library keeps caches of its own where WANDB_CACHE_DIR and
WANDB_DATA_DIR say.
"""

import importlib
import importlib.util
import netrc
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ossa.errors import ConfigError
from ossa.train.callbacks import RunStart
from ossa.train.trackers.callback import numbers, outcome, settings_and_cost, tracking_key
from ossa.train.trackers.network import answers
from ossa.types import Record

_CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class WandbTracker:
    """Logs a run to W&B, whose environment (WANDB_API_KEY, WANDB_MODE, ...) is honoured."""

    name = "wandb"

    def __init__(self, *, project: str | None = None) -> None:
        """`project` is that of WANDB_PROJECT, or W&B's default, where left out.

        Raises:
            ConfigError: the package is not installed.
        """
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                "the tracker wandb needs the package of that name, found none: "
                "pip install 'ossa[wandb]'"
            )
        self._project = project
        self._wandb: Any = None
        self._run: Any = None

    def begin(self, start: RunStart) -> str:
        self._wandb = importlib.import_module("wandb")
        reason = _why_offline()
        self._run = self._wandb.init(
            project=self._project,
            dir=str(start.folder),
            id=tracking_key(start.folder),
            name=start.folder.name,
            resume="allow",
            config=settings_and_cost(start),
            mode=None if reason is None else "offline",
            settings=self._wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        if reason is None and not self._run.offline:
            return self._run.url or f"no address, by WANDB_MODE={os.environ['WANDB_MODE']}"
        folder = shlex.quote(f"{start.folder}/wandb")
        return (
            f"{reason or 'WANDB_MODE is offline'}, so the run is kept in {folder}; "
            f"wandb sync {folder}/offline-run-* sends it"
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._run.log(numbers(row), step=row["epoch"])

    def figure(self, name: str, path: Path, *, epoch: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=epoch)

    def confusion(
        self, names: Sequence[str], counts: Sequence[Sequence[int]], *, epoch: int
    ) -> None:
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        table = self._wandb.Table(columns=["truth", *names], data=rows)
        self._run.log({"confusion": table}, step=epoch)

    def weights(self, path: Path) -> None:
        if not self._run.save(str(path), base_path=str(path.parent), policy="now"):
            raise OSError(f"W&B found no file for the pattern {path}")

    def end(self, record: Record | None) -> None:
        if record is not None:
            self._run.summary.update(outcome(record))
        self._run.finish(exit_code=0 if record is not None and record.status == "done" else 1)


def _why_offline() -> str | None:
    """Returns why no server need be asked; None where WANDB_MODE decides, or it can be."""
    if os.environ.get("WANDB_MODE"):
        return None
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    # Without a key W&B asks for one at the terminal, where a training would wait for the answer.
    if not (any(map(os.environ.get, _CREDENTIALS)) or _is_in_netrc(address)):
        return "there is no WANDB_API_KEY"
    return None if answers(address) else f"{address} does not answer"


def _is_in_netrc(address: str) -> bool:
    """Whether `wandb login` has left a key for the server."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(urlsplit(address).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False
