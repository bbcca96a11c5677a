"""The state of a training from which it goes on exactly as if it had never stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ossa.errors import CheckpointError
from ossa.files import write_atomically
from ossa.models.loss import LossTerms
from ossa.train.distributed import ALONE, Processes
from ossa.train.ema import ModelAverage

STATE_FILE = "last.state.pt"


@dataclass
class Progress:
    """Where a training stands. Changes with every batch."""

    batch_number: int = 0
    """Batches done since the start of the training."""
    last_step_batch: int = -1
    """Number of the batch behind which the optimiser last stepped."""
    best_fitness: float = -1.0
    best_epoch: int = -1
    skipped: int = 0
    """Batches left out because their losses or gradients were not finite."""
    train_seconds: float = 0.0
    """Without evaluation."""
    evaluate_seconds: float = 0.0
    epoch_seconds: float = 0.0
    """Of the epoch in progress, without evaluation."""
    loss_sums: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(LossTerms._fields, 0.0)
    )
    """Of the epoch in progress, over images."""
    images_seen: int = 0
    """In the epoch in progress."""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """'last' and 'best': flat metrics."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of `log.jsonl`, one per epoch that is done; empty in states of before they were kept here."""


def save_state(
    folder: Path,
    *,
    progress: Progress,
    detector: nn.Module,
    optimizer: Optimizer,
    average: ModelAverage[Any],
    identity: dict[str, str],
    processes: Processes = ALONE,
) -> None:
    """Writes the training state whole; gradients still waiting for a step are part of it.

    Args:
        folder: of the run.
        identity: what must be the same when the run is resumed (hashes of settings and data).
        processes: of which the first writes the state of all; none of them may be left out, and
            none goes on before it is written.

    Raises:
        OssaError: in every process, where the state could not be written.
    """
    own = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    gradients = processes.gather(own)

    def write() -> None:
        state = {
            "identity": identity,
            "progress": vars(progress),
            "detector": detector.state_dict(),
            "gradients": gradients,
            "optimizer": optimizer.state_dict(),
            "average": average.network.state_dict(),
            "average_updates": average.updates,
        }
        write_atomically(folder / STATE_FILE, lambda file: torch.save(state, file))

    processes.from_first(write)


def load_state(
    folder: Path,
    *,
    detector: nn.Module,
    optimizer: Optimizer,
    average: ModelAverage[Any],
    identity: dict[str, str],
    processes: Processes = ALONE,
) -> Progress:
    """Brings detector, optimiser and average to where they were, and returns the progress.

    Raises:
        CheckpointError: no state, a damaged one, or one of other settings or data.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(f"expected the state of a run to resume at {file}, found none")
    device = next(detector.parameters()).device
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as damage:
        raise CheckpointError(
            f"{file} is damaged and cannot be resumed from: {damage}; start a new run, with "
            f"--weights {folder / 'last.safetensors'} to begin from what this one has learnt"
        ) from None
    for what, expected in identity.items():
        # A state of before images were hashed says nothing about them.
        if state["identity"].get(what, expected if what == "images" else None) != expected:
            raise CheckpointError(
                f"{file} was saved with other {what} than are given now: "
                "resume with what the run started with, or start a new run"
            )
    detector.load_state_dict(state["detector"])
    gradients = _own_gradients(state["gradients"], processes)
    for name, parameter in detector.named_parameters():
        parameter.grad = gradients.get(name)
    optimizer.load_state_dict(state["optimizer"])
    average.network.load_state_dict(state["average"])
    average.updates = state["average_updates"]
    return Progress(**state["progress"])


def _own_gradients(saved: list[dict[str, Tensor]], processes: Processes) -> dict[str, Tensor]:
    """Returns this process's gradients, of which each process saved its own.

    Where there are more or fewer processes now, the sum lies with the first.
    """
    if len(saved) == processes.count:
        return saved[processes.rank]
    if not processes.is_first:
        return {}
    names = {name for gradients in saved for name in gradients}
    return {name: sum(g[name] for g in saved if name in g) for name in names}  # type: ignore[misc]
