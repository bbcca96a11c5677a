"""What the models see: confusion matrices and pictures from the detections that lie there."""

from collections.abc import Mapping, Sequence

from ossa.evaluate.coco import read_coco_results
from ossa.evaluate.confusion import CONFIDENCE, ConfusionMatrix, confusion_matrix
from ossa.evaluate.pictures import open_gallery
from ossa.report.drawing import encode_jpeg, picture_grid
from ossa.report.page import PictureBlock
from ossa.study.report.view import StudyView
from ossa.study.reported import detections_file
from ossa.types import Detections

_MOST_MODELS = 24
_IMAGES, _SIDE = 4, 420
"""Pictures in a row, and pixels of the longer side of each."""
_IN_A_GRID = 6
"""Models above one row of truths."""


def shown_models(view: StudyView, *, most: int = _MOST_MODELS) -> list[str]:
    """Returns the models of which pictures are shown, by their parameters.

    All, or of more than `most` the Pareto set of AP50-95 and parameters and then the best others.
    """
    names = view.names
    if len(names) > most:
        members = [row.model for row in view.relation("ap", "params").frontier.members]
        names = list(dict.fromkeys([*members[::-1], *view.best_first]))[:most]
    return sorted(names, key=lambda model: view.number(model, "params"))


def read_detections(view: StudyView, models: Sequence[str]) -> dict[str, dict[int, Detections]]:
    """Returns what the first finished run of each model found, by model and image id.

    Raises:
        DataError: a file that is gone or does not fit the split.
    """
    name = detections_file(view.results.study.reported)
    index = view.results.index
    return {
        model: read_coco_results(view.runs_of(model)[0].state.folder / name, index)
        for model in models
    }


def confusions_of(
    view: StudyView, detections: Mapping[str, Mapping[int, Detections]]
) -> dict[str, ConfusionMatrix]:
    """Returns the confusion matrix of each model."""
    index = view.results.index
    return {model: confusion_matrix(index, found) for model, found in detections.items()}


def picture_blocks(
    view: StudyView, detections: Mapping[str, Mapping[int, Detections]]
) -> list[PictureBlock]:
    """Returns the same images through every model, above the truth: six models a picture.

    Raises:
        DataError: an image that cannot be decoded.
    """
    gallery = open_gallery(view.results.index, most=_IMAGES, side=_SIDE)
    truths, models = gallery.with_truths(), list(detections)
    blocks = []
    for start in range(0, len(models), _IN_A_GRID):
        chosen = models[start : start + _IN_A_GRID]
        rows = [gallery.with_detections(detections[model]) for model in chosen]
        titles = [f"{model}, AP50-95 {view.number(model, 'ap'):.3f}" for model in chosen]
        picture = picture_grid([*rows, truths], row_titles=[*titles, "truth"])
        alt = f"Detections of {', '.join(chosen)} above the truth of the same images"
        blocks.append(PictureBlock(encode_jpeg(picture), alt=alt))
    return blocks


def seed_told(view: StudyView) -> str:
    """Returns of which runs the pictures and matrices are, in a sentence."""
    most = max(len(view.runs_of(model)) for model in view.names)
    which = "Of the first finished run of each model; d" if most > 1 else "D"
    return f"{which}etections with a confidence of {CONFIDENCE:g} or more."
