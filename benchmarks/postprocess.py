"""How long decoding and suppression take, beside the plain method and within a validation.

    python benchmarks/postprocess.py --weights yolov5n.pt --data coco128 --split train --threads 1

Prints one JSON object with
- `ours` and `plain`: milliseconds per image of `non_max_suppression` and of the plain
  method, `plain_detect` below, on the same predictions: wall, and CPU of all threads together. The
  two take turns, batch by batch; of --repeats rounds the median of every batch counts.
- `ratio`: ours / plain. `identical_images`: in which the two find the same boxes, labels and order
  to the last bit; `largest_score_difference`, relative: the plain method's sigmoids are float32.
- `validation`: milliseconds an image of a whole `evaluate` without worker processes, of the
  network's forward and of decoding image files in it, and what remains of it without the forward
  (`beyond_forward`) and without decoding, too (`beyond_forward_and_decoding`: letterboxing,
  batching, post-processing and metrics).
No time is promised by a test: machines differ, the ratio hardly does.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, ParamSpec, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ossa.boxes import cxcywh_to_xyxy
from ossa.config import EvaluateConfig
from ossa.cost.benchmark import using_threads
from ossa.data import letterbox as resized
from ossa.data.annotations import DatasetIndex
from ossa.data.dataset import LetterboxedDataset
from ossa.data.loader import evaluation_loader
from ossa.data.reading import read_data
from ossa.evaluate.evaluator import detector_for_evaluation, evaluate
from ossa.models.checkpoint import read_checkpoint
from ossa.models.postprocess import non_max_suppression
from ossa.models.predictions import AnchorPredictions, decode_boxes_in_cells
from ossa.train.provenance import environment
from ossa.types import Batch, Detections, Letterbox, RawPredictions

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def plain_detect(
    raw: AnchorPredictions,
    letterboxes: Sequence[Letterbox],
    config: EvaluateConfig,
    *,
    scores_in: torch.dtype = torch.float32,
) -> list[Detections]:
    """Returns what is found by thresholds, a sort and torchvision's suppression of everything.

    Args:
        raw: predictions for B images.
        letterboxes: B.
        config: confidence, suppression and limits.
        scores_in: precision of the sigmoids and their product.
    """
    found = []
    for image, letterbox in enumerate(letterboxes):
        of_levels = [
            _boxes_and_scores(*level, confidence=config.confidence, scores_in=scores_in)
            for level in zip(
                (logits[image] for logits in raw.logits), raw.anchors_wh, raw.strides, strict=True
            )
        ]
        boxes_xyxy, scores = (torch.cat(column) for column in zip(*of_levels, strict=True))
        box_index, labels = (scores > config.confidence).nonzero(as_tuple=True)
        order = scores[box_index, labels].argsort(descending=True, stable=True)
        order = order[: config.max_candidates]
        box_index, labels = box_index[order], labels[order]
        boxes, of_classes = boxes_xyxy[box_index], scores[box_index, labels]
        # Sorted again: torchvision's own order of equal scores is left to chance.
        kept = batched_nms(boxes, of_classes, labels, config.nms_iou).sort().values
        kept = kept[: config.max_detections]
        found.append(
            Detections(
                letterbox.boxes_to_image(boxes[kept].numpy()),
                of_classes[kept].numpy(),
                labels[kept].numpy(),
            )
        )
    return found


def _boxes_and_scores(
    logits: Tensor, anchors_wh: Tensor, stride: int, *, confidence: float, scores_in: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns boxes (P, 4) and scores (P, K) of one level (A, H, W, 5 + K) of one image."""
    cells = logits.permute(1, 2, 0, 3)
    where = (cells[..., 4].sigmoid() > confidence).nonzero(as_tuple=True)
    rows, columns, anchor_index = where
    answers = cells[where]
    boxes_cxcywh = decode_boxes_in_cells(answers[:, :4], anchors_wh[anchor_index] / stride)
    corners = torch.stack((columns, rows), dim=1)
    boxes_cxcywh = torch.cat((boxes_cxcywh[:, :2] + corners, boxes_cxcywh[:, 2:]), dim=1)
    fractions = answers[:, 4:].to(scores_in).sigmoid()
    scores = (fractions[:, 1:] * fractions[:, :1]).float()
    return cxcywh_to_xyxy(boxes_cxcywh * stride), scores


class Seconds(NamedTuple):
    wall: float
    cpu: float


class Stopwatch:
    """Notes the seconds of every call of the functions it times, by name."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Seconds]] = {}

    def timed(self, name: str, function: Callable[Given, Answer]) -> Callable[Given, Answer]:
        """Returns the function with its calls timed."""

        def call(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
            started, started_cpu = time.perf_counter(), time.process_time()
            answer = function(*args, **kwargs)
            taken = Seconds(time.perf_counter() - started, time.process_time() - started_cpu)
            self.calls.setdefault(name, []).append(taken)
            return answer

        return call

    def total(self, name: str) -> Seconds:
        return Seconds(*map(sum, zip(*self.calls[name], strict=True)))


class TimedDetector(nn.Module):
    """A detector whose forwards are timed."""

    def __init__(self, detector: nn.Module, watch: Stopwatch) -> None:
        super().__init__()
        self.detector = detector
        self._timed = watch.timed("forward", detector)

    def forward(self, images: Tensor) -> RawPredictions:
        return self._timed(images)


def compare(
    detector: nn.Module, batches: Sequence[Batch], config: EvaluateConfig, *, repeats: int
) -> dict[str, Any]:
    """Returns the times of both methods on the same predictions, and whether they agree."""
    totals = {"ours": np.zeros(2), "plain": np.zeros(2)}
    identical, difference, images = 0, 0.0, 0
    for batch in batches:
        raw = detector(batch.images)
        watch = Stopwatch()
        methods = {"ours": non_max_suppression, "plain": plain_detect}
        found: dict[str, list[Detections]] = {}
        for _ in range(repeats):
            for name, method in methods.items():
                found[name] = watch.timed(name, method)(raw, batch.letterboxes, config)
        pairs = zip(found["ours"], found["plain"], strict=True)
        agreeing = [pair for pair in pairs if same_boxes(*pair)]
        gaps = [np.abs(a.scores / b.scores - 1).max(initial=0) for a, b in agreeing]
        difference = max(difference, *map(float, gaps))
        identical += len(agreeing)
        images += len(batch.image_ids)
        for name, calls in watch.calls.items():
            totals[name] += [median(seconds) for seconds in zip(*calls, strict=True)]
    return {
        **{name: _ms_per_image(Seconds(*total), images) for name, total in totals.items()},
        "ratio": Seconds(*(totals["ours"] / totals["plain"]))._asdict(),
        "images": images,
        "identical_images": identical,
        "largest_score_difference": difference,
    }


def same_boxes(a: Detections, b: Detections) -> bool:
    """Returns whether two have the same boxes and labels in the same order, to the last bit."""
    return np.array_equal(a.boxes_xyxy, b.boxes_xyxy) and np.array_equal(a.labels, b.labels)


def validate(
    detector: nn.Module, index: DatasetIndex, config: EvaluateConfig, *, imgsz: int, batch: int
) -> dict[str, Any]:
    """Returns milliseconds an image of a validation and its parts, and its metrics."""
    watch = Stopwatch()
    decode = watch.timed("decoding", resized.decode_image)
    whole = watch.timed("whole", evaluate)
    with mock.patch.object(resized, "decode_image", decode):
        metrics = whole(
            TimedDetector(detector, watch), index, imgsz=imgsz, config=config, batch=batch
        ).metrics
    times = {name: np.array(watch.total(name)) for name in ("whole", "forward", "decoding")}
    times["beyond_forward"] = times["whole"] - times["forward"]
    times["beyond_forward_and_decoding"] = times["beyond_forward"] - times["decoding"]
    rows = {name: _ms_per_image(Seconds(*time), len(index)) for name, time in times.items()}
    return {**rows, "ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75}


def _ms_per_image(seconds: Seconds, images: int) -> dict[str, float]:
    return {name: 1000 * value / images for name, value in seconds._asdict().items()}


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config = EvaluateConfig(confidence=arguments.conf, nms_iou=arguments.iou)
    checkpoint = read_checkpoint(arguments.weights)
    index = read_data(arguments.data, arguments.split).index
    detector = detector_for_evaluation(checkpoint, imgsz=arguments.imgsz, device="cpu").eval()
    batches = list(
        evaluation_loader(
            LetterboxedDataset(index, imgsz=arguments.imgsz),
            batch=arguments.batch,
            workers=0,
        )
    )
    with using_threads(arguments.threads):
        compared = compare(detector, batches, config, repeats=arguments.repeats)
        validation = validate(detector, index, config, imgsz=arguments.imgsz, batch=arguments.batch)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    return {**compared, "validation": validation, **settings, "environment": environment()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--conf", type=float, default=0.001)
    parser.add_argument("--iou", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice if not given")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
