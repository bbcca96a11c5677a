"""A network runs once a picture; thresholds are applied to what it said, again and again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from known_models import (
    CAT,
    DOG,
    NAMES,
    SIDE,
    first_model,
    known_model,
    second_model,
)

from ossa.app.inference import (
    LOWEST_CONFIDENCE,
    PageModel,
    Settings,
    class_names,
    load_models,
    model_titles,
)
from ossa.data.decode import decode_image
from ossa.errors import ConfigError
from ossa.export.backends import NMSRuntime
from ossa.export.graph import ExportDescription, NMSSettings
from ossa.predict.predictor import Predictor

IMAGE = np.full((SIDE, SIDE, 3), 120, np.uint8)


def found(model: PageModel, **settings: object) -> list[tuple[str, float]]:
    chosen = Settings((), **{"confidence": 0.2, "nms_iou": 0.45, **settings})  # type: ignore[arg-type]
    seen = model.infer(IMAGE).detections(chosen)
    return [
        (NAMES[i], round(float(score), 2))
        for i, score in zip(seen.labels, seen.scores, strict=True)
    ]


def test_confidence_overlap_and_classes_choose_among_the_boxes() -> None:
    model = first_model()
    assert found(model) == [("dog", 0.81), ("dog", 0.64), ("bird", 0.25)]
    assert found(model, confidence=0.7) == [("dog", 0.81)]
    assert found(model, nms_iou=0.3) == [("dog", 0.81), ("bird", 0.25)]  # the two dogs: IoU 1/3
    assert found(model, classes=("bird", "unknown")) == [("bird", 0.25)]


@pytest.mark.parametrize("confidence", [LOWEST_CONFIDENCE, 0.25, 0.49, 0.7])
@pytest.mark.parametrize("nms_iou", [0.1, 0.4])
@pytest.mark.parametrize("classes", [None, ["dog"]])
def test_what_is_shown_is_what_ossa_predict_finds(
    confidence: float, nms_iou: float, classes: list[str] | None
) -> None:
    model = first_model()
    image = np.random.default_rng(0).integers(0, 255, (40, 100, 3), np.uint8)  # not of the input
    expected = model.predictor.predict(
        image, confidence=confidence, nms_iou=nms_iou, classes=classes
    )
    thresholds = Settings((), confidence, nms_iou, tuple(classes or ()))
    seen = model.infer(image).detections(thresholds)
    np.testing.assert_array_equal(seen.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(seen.scores, expected.scores)
    np.testing.assert_array_equal(seen.labels, expected.labels)


def test_what_a_file_with_nms_inside_has_suppressed_stays_so() -> None:
    # Two dogs on top of each other: NMS in the graph let both through, so no slider removes one.
    boxes = torch.tensor([[12.0, 8, 28, 16], [12, 8, 28, 16], [36, 40, 52, 48]])
    answer = (boxes, torch.tensor([0.5, 0.8, 0.3]), torch.tensor([1, 1, 0]), torch.zeros(3).long())
    description = ExportDescription(
        names=NAMES,
        imgsz=SIDE,
        batch=1,
        any_size=False,
        rectangular=False,
        strides=(8,),
        anchors_wh=(((16.0, 8.0),),),
        nms=NMSSettings(),
    )
    runtime = NMSRuntime(lambda images: answer, description, name="openvino", precision="fp32")
    model = PageModel("exported", Predictor(runtime, names=NAMES, imgsz=SIDE))
    assert found(model, nms_iou=0.1) == [("dog", 0.8), ("dog", 0.5), ("cat", 0.3)]
    assert found(model, confidence=0.4) == [("dog", 0.8), ("dog", 0.5)]
    assert model.about.endswith("NMS in the file at 0.45")


@pytest.mark.realdata
def test_what_is_shown_of_a_photograph_is_what_ossa_predict_finds(shared: Path) -> None:
    (model,) = load_models([shared / "weights" / "yolov5n.pt"])
    image = decode_image(sorted((shared / "data" / "coco128" / "images").glob("*.jpg"))[0])
    seen = model.infer(image)
    for confidence, nms_iou in ((0.05, 0.45), (0.25, 0.45), (0.25, 0.7)):
        expected = model.predictor.predict(image, confidence=confidence, nms_iou=nms_iou)
        shown = seen.detections(Settings((), confidence, nms_iou))
        assert len(shown) >= 3
        np.testing.assert_array_equal(shown.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(shown.scores, expected.scores)


def test_a_file_that_is_called_best_is_named_by_its_folder() -> None:
    assert model_titles([Path("runs/yolov5n/best.safetensors"), Path("yolov5s.pt")]) == [
        "yolov5n",
        "yolov5s",
    ]


def test_titles_that_would_be_alike_get_more_of_the_path() -> None:
    files = [Path("/a/n/best.safetensors"), Path("/b/n/best.safetensors")]
    assert model_titles(files) == ["a/n/best", "b/n/best"]


def test_a_file_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"each --weights once, found a\.pt twice"):
        load_models([Path("a.pt"), Path("a.pt")])


def test_checkpoints_go_to_the_device_and_exported_files_stay_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = []

    def load(file: Path, device: str, imgsz: int | None, *, runtime: None) -> Predictor:
        devices.append((file.name, device))
        return first_model().predictor

    monkeypatch.setattr("ossa.app.inference.load", load)
    load_models([Path("a.pt"), Path("b.onnx")], device="cuda:0")
    assert devices == [("a.pt", "cuda:0"), ("b.onnx", "cpu")]


def test_the_classes_of_all_models_are_listed_once() -> None:
    other = known_model("other", [DOG, CAT._replace(label=0)], ("wolf", "dog"))
    assert class_names([second_model(), other]) == ["cat", "dog", "bird", "wolf"]
