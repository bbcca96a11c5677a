"""The state of a training from which it goes on exactly as if it had never stopped."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ossa.errors import CheckpointError, legible
from ossa.files import write_atomically
from ossa.models.torch_pickle import read_torch_file
from ossa.schema import first_problem
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext
from ossa.train.optim import EMA
from ossa.train.run_folder import LogRow, Numbers

STATE_FILE = "last.state.pt"
_MAX_VALUES = 1_000_000
_MAX_DEPTH = 8
_Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
_Last: TypeAlias = Annotated[int, Field(ge=-1, lt=2**63)]
"""-1 where there was none."""
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=2**63)]


@dataclass
class Progress:
    """Where a training stands. Changes with every batch."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # where it is read from a state

    batch_number: _Count = 0
    """Batches done since the start of the training."""
    last_step_batch: _Last = -1
    """Number of the batch behind which the optimizer last stepped."""
    best_fitness: Annotated[float, Field(ge=-1, le=1)] = -1.0
    best_epoch: _Last = -1
    skipped: _Count = 0
    """Batches left out because their losses or gradients were not finite."""
    train_seconds: _Seconds = 0.0
    """Without evaluation."""
    evaluate_seconds: _Seconds = 0.0
    epoch_seconds: _Seconds = 0.0
    """Of the epoch in progress, without evaluation."""
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Of the epoch in progress, over images: the terms of the head's loss."""
    images_seen: _Count = 0
    """In the epoch in progress."""
    metrics: dict[str, Numbers] = field(default_factory=dict)
    """'last' and 'best' of the epochs that were evaluated: flat metrics."""
    environment: dict[str, str] = field(default_factory=dict)
    """`ossa.train.provenance` of the run so far; empty in states of before it was kept here."""
    rows: list[LogRow] = field(default_factory=list)
    """Of `log.jsonl`, one per epoch that is done; empty in states of before they were kept here."""

    def close_epoch(self, row: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Adds an epoch: its row of the log, and the flat metrics of its evaluation, if any."""
        epoch = row["epoch"]
        self.rows.append(row)
        if metrics:
            self.metrics["last"] = {"epoch": epoch, **metrics}
            fitness = 0.1 * (metrics["ap50"] or 0.0) + 0.9 * (metrics["ap"] or 0.0)
            if fitness > self.best_fitness:
                self.best_fitness, self.best_epoch = fitness, epoch
                self.metrics["best"] = self.metrics["last"]
        self.train_seconds += row["train_seconds"]
        self.evaluate_seconds += row["evaluate_seconds"]
        self.epoch_seconds, self.images_seen = 0.0, 0
        self.loss_sums = dict.fromkeys(self.loss_sums, 0.0)


def save_state(
    folder: Path,
    *,
    progress: Progress,
    detector: nn.Module,
    optimizer: Optimizer,
    ema: EMA[Any],
    identity: dict[str, str],
    distributed: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Writes the training state whole; gradients still waiting for a step are part of it.

    Args:
        folder: of the run.
        identity: what must be the same when the run is resumed (hashes of settings and data).
        distributed: the main process writes the state of all ranks; none goes on before that.

    Raises:
        OssaError: in every process, where the state could not be written.
    """
    own = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    gradients = distributed.gather(own)

    def write() -> None:
        state = {
            "identity": identity,
            "progress": vars(progress),
            "detector": detector.state_dict(),
            "gradients": gradients,
            "optimizer": optimizer.state_dict(),
            "average": ema.network.state_dict(),
            "average_updates": ema.updates,
        }
        write_atomically(folder / STATE_FILE, lambda file: torch.save(state, file))

    distributed.on_main(write)


def load_state(
    folder: Path,
    *,
    detector: nn.Module,
    optimizer: Optimizer,
    ema: EMA[Any],
    identity: dict[str, str],
    losses: Collection[str],
    older_settings: str | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Progress:
    """Brings detector, optimizer and EMA to where they were, and returns the progress.

    Args:
        folder: of the run.
        detector, optimizer, ema: of the run; changed.
        identity: as when it was saved.
        losses: names of the terms of the loss.
        older_settings: another digest of the same settings, under which a version that had fewer
            of them may have saved the state.
        distributed: of this process.

    Raises:
        CheckpointError: no state, a damaged one, or one of other settings or data.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(
            f"expected the state of a run to resume at {file}, found none: it ended before its "
            "first was saved, so start a new run"
        )
    try:
        state = read_torch_file(file)
        _check_alike(dict, state, "the state")
        _check_alike(dict, state.get("identity"), "the state.identity")
        # A state of before images were hashed says nothing about them.
        saved = {"images": identity.get("images"), **state["identity"]}
        if older_settings is not None and saved.get("settings") == older_settings:
            saved["settings"] = identity["settings"]
        others = [what for what, expected in identity.items() if saved.get(what) != expected]
        progress = Progress() if others else _checked(state, detector, optimizer, ema, losses)
    except (CheckpointError, _UnfitError) as fault:
        raise CheckpointError(
            f"{file} is damaged or of another version and cannot be resumed from: {fault}; start "
            f"a new run, with --weights {folder / 'last.safetensors'} to begin from what this one "
            "has learnt"
        ) from None
    if others:
        raise CheckpointError(
            f"{file} was saved with other {others[0]} than are given now: "
            "resume with what the run started with, or start a new run"
        )
    detector.load_state_dict(state["detector"])
    gradients = _own_gradients(state["gradients"], distributed)
    for name, parameter in detector.named_parameters():
        gradient = gradients.get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    _load_optimizer(optimizer, state["optimizer"]["state"])
    ema.network.load_state_dict(state["average"])
    ema.updates = state["average_updates"]
    return progress


class _UnfitError(Exception):
    """A state is not one of this training; the message says what was expected and found."""


def _checked(
    state: Any,
    detector: nn.Module,
    optimizer: Optimizer,
    ema: EMA[Any],
    losses: Collection[str],
) -> Progress:
    """Returns the progress of a state that has the structure of the training's own.

    Raises:
        _UnfitError: naming the first entry that is missing, of another type or of another shape.
    """
    own = {
        "identity": dict,
        "progress": dict,
        "detector": detector.state_dict(),
        "gradients": list,
        "optimizer": {"state": dict, "param_groups": list},
        "average": ema.network.state_dict(),
        "average_updates": ema.updates,
    }
    _check_alike(own, state, "the state")
    parameters = {name: parameter.detach() for name, parameter in detector.named_parameters()}
    for gradients in state["gradients"]:
        _check_some(parameters, gradients, "gradients")
    _check_some(_expected_state(optimizer), state["optimizer"]["state"], "optimizer.state")
    _check_plain(state["progress"])
    try:
        progress = TypeAdapter(Progress).validate_python(state["progress"])
    except ValidationError as problems:
        raise _UnfitError(f"progress.{first_problem(problems, Progress)}") from None
    _check_alike(dict.fromkeys(losses, 0.0), progress.loss_sums, "progress.loss_sums")
    return progress


def _expected_state(optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """Returns tensors like those that SGD or AdamW keep of each parameter, by its number."""
    learning = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, AdamW):
        step = torch.zeros(())
        return {i: {"step": step, "exp_avg": p, "exp_avg_sq": p} for i, p in enumerate(learning)}
    return {i: {"momentum_buffer": p} for i, p in enumerate(learning)}


def _load_optimizer(optimizer: Optimizer, kept: dict[int, dict[str, Tensor]]) -> None:
    """Loads what was kept of the parameters; the settings of the groups are those of today.

    SGD takes momenta of all parameters or of none: zeros are what one without gradients has.
    """
    if kept and not isinstance(optimizer, AdamW):
        zeros = {
            index: {"momentum_buffer": torch.zeros_like(of["momentum_buffer"])}
            for index, of in _expected_state(optimizer).items()
            if index not in kept
        }
        kept = {**kept, **zeros}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})


def _check_some(own: dict[Any, Any], saved: Any, where: str) -> None:
    """Raises _UnfitError unless a dict has some of our own entries and no others."""
    _check_alike(dict, saved, where)
    _check_alike({key: own[key] for key in saved if key in own}, saved, where)


def _check_alike(own: Any, saved: Any, where: str) -> None:
    """Raises _UnfitError unless a value has the type, keys and shapes of the training's own.

    A type among our own values stands for any value of it.
    """
    if _kind(own) != _kind(saved):
        raise _UnfitError(f"{where}: expected {_kind(own)}, found {_kind(saved)}")
    if not isinstance(own, dict):
        return
    for key in (*own, *saved):
        if key not in own or key not in saved:
            lack = "is missing" if key in own else "is not known"
            raise _UnfitError(f"{where}: {legible(repr(key))} {lack}")
    for key in own:
        _check_alike(own[key], saved[key], f"{where}.{key}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, dict):
        return "dict"
    kind = value if isinstance(value, type) else type(value)
    return "float" if kind is int else kind.__name__


def _check_plain(value: Any) -> None:
    """Raises _UnfitError unless a value is of numbers, words, lists and dicts, of a modest size.

    Small as a file, a list of lists that are all the same one can be endless when written out.
    """
    pending, count = [(value, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MAX_VALUES or depth > _MAX_DEPTH:
            raise _UnfitError("its progress has more values than any training writes")
        if isinstance(value, dict | list | tuple):
            inner = value.values() if isinstance(value, dict) else value
            pending.extend((item, depth + 1) for item in inner)
        elif not isinstance(value, str | int | float | None):
            raise _UnfitError(f"its progress holds a value of the type {type(value).__name__}")


def _own_gradients(
    saved: list[dict[str, Tensor]], distributed: DistributedContext
) -> dict[str, Tensor]:
    """Returns this process's gradients, of which each process saved its own.

    With another number of processes the main one gets the sum.
    """
    if len(saved) == distributed.world_size:
        return saved[distributed.rank]
    if not distributed.is_main:
        return {}
    names = {name for gradients in saved for name in gradients}
    return {name: sum(g[name] for g in saved if name in g) for name in names}  # type: ignore[misc]
