"""What a study is about to train on, and the proof that its runs are trained alike."""

from dataclasses import dataclass
from typing import Any

from ossa.study.plan import Plan
from ossa.train.events import Silence, Watcher
from ossa.train.setup import read_training_data


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


def read_prospect(
    plan: Plan, *, allow_unlabeled: bool = False, watcher: Watcher | None = None
) -> Prospect:
    """Returns what the runs of a plan will be trained on: images that can be decoded.

    Args:
        plan: of a study.
        allow_unlabeled: more than half of the training images may be without a label.
        watcher: is told what the data lack.

    Raises:
        ConfigError, DataError: as `ossa train`.
    """
    config = plan.runs[0].config
    read = read_training_data(config, watcher=watcher or Silence(), allow_unlabeled=allow_unlabeled)
    train, val = (split.index for split in read)
    return Prospect(
        train_images=len(train),
        val_images=len(val),
        num_classes=len(train.names),
        data_fingerprint=f"{train.fingerprint()}-{val.fingerprint()}",
    )
