"""What a study is about to train on, and the proof that its runs are trained alike."""

from dataclasses import dataclass
from typing import Any

from ossa.data.api import read_data
from ossa.study.plan import Plan
from ossa.train.events import Silence
from ossa.train.setup import training_index


@dataclass(frozen=True)
class Prospect:
    """The data of a study."""

    train_images: int
    val_images: int
    num_classes: int
    data_fingerprint: str
    """As the records of the runs will have it."""

    def last_batch(self, plan: Plan) -> int:
        """Returns the images in the last batch of an epoch."""
        batch = plan.conditions.get("train.batch", plan.runs[0].config.train.batch)
        return self.train_images % batch or min(batch, self.train_images)

    def flat(self, plan: Plan) -> dict[str, Any]:
        """Returns the conditions that all runs share, and what differs, ready for JSON."""
        return {
            "recipe_hash": plan.recipe_hash,
            "data_fingerprint": self.data_fingerprint,
            "train_images": self.train_images,
            "val_images": self.val_images,
            "last_batch_images": self.last_batch(plan),
            "initial_weights": sorted({run.weights.policy for run in plan.runs}),
            "conditions": dict(plan.conditions),
            "exceptions": {key: dict(values) for key, values in plan.exceptions.items()},
            "varied": {key: list(values) for key, values in plan.study.vary.items()},
        }


def read_prospect(plan: Plan) -> Prospect:
    """Returns what the runs of a plan will be trained on: images that can be decoded.

    Raises:
        ConfigError, DataError: as `ossa train`.
    """
    config = plan.runs[0].config
    train = training_index(config, watcher=Silence(), strict=False)
    val = read_data(config.data, "val").index
    return Prospect(
        train_images=len(train),
        val_images=len(val),
        num_classes=len(train.names),
        data_fingerprint=f"{train.fingerprint()}-{val.fingerprint()}",
    )
