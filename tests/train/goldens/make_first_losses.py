"""Makes first_losses.json beside this file: the losses of the first 20 batches of a training.

A change that must not change the training (a refactoring, say) leaves them as they are; one that
means to makes them anew and says why. So does one that changes the pictures of generated scenes,
whose hash stands beside the losses:

    python tests/train/goldens/make_first_losses.py
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.data.decode import decode_image
from ossa.data.reading import read_data
from ossa.data.synthetic import write_scenes
from ossa.train.callbacks import Callback
from ossa.train.loop import train

GOLDEN = Path(__file__).with_name("first_losses.json")
_IMAGES, _BATCH = 80, 4
# Ten batches of warm-up and ten after it. With small steps rounding, which differs from one
# processor to the next, moves the last loss by 2e-6; a learning rate 5 % off moves it by 1e-3.
_TRAIN = TrainConfig(
    epochs=1,
    imgsz=64,
    batch=_BATCH,
    nominal_batch=2 * _BATCH,
    lr=1e-4,
    warmup_epochs=0.1,
    warmup_min_batches=10,
    warmup_limit=None,
    warmup_bias_lr=1e-3,
)


class _Losses(Callback):
    """Keeps the loss of every batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._sum_before = 0.0

    def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
        # The loop tells the mean of the epoch so far, and there is one epoch.
        self.losses.append(loss * batch - self._sum_before)
        self._sum_before = loss * batch


def first_losses(folder: Path) -> dict[str, Any]:
    """Returns the losses of 20 batches of 4 scenes at 64 px, and the hash of the scenes.

    Args:
        folder: an empty one, for scenes and the run.
    """
    data = write_scenes(folder / "scenes", images={"train": _IMAGES, "val": 1}, imgsz=128)
    config = RunConfig(model=ModelConfig(name="yolov5n", neck="own"), data=str(data), train=_TRAIN)
    run = folder / "run"
    run.mkdir()
    callback = _Losses()
    train(config, run, callback=callback)
    return {"scenes": _fingerprint(data), "losses": callback.losses}


def _fingerprint(data: Path) -> str:
    """Returns a sha256 over boxes and pixels of the training split."""
    index = read_data(data, "train").index
    digest = hashlib.sha256(index.fingerprint().encode())
    for position in range(len(index)):
        digest.update(decode_image(index.image_path(position)).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        found = first_losses(Path(temporary))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
