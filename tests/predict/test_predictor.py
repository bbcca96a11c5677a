"""Pictures go in, detections come out in pixels of the picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_detector import NAMES, known_predictor
from PIL import Image
from torchvision.ops import box_iou

import ossa
from ossa.errors import CheckpointError, ConfigError, DataError
from ossa.export.graph import usual_confidence
from ossa.models.checkpoint import read_checkpoint
from ossa.models.detector import create_detector
from ossa.predict.predictor import Predictor, load
from ossa.predict.results import pixels_of


def grey(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ("size_wh", "only_squares", "expected"),
    [
        # 128 x 64 is halved to 64 x 32, a rectangle without any padding.
        ((128, 64), False, [[24, 16, 56, 32], [0, 0, 64, 64]]),
        # 40 x 80 becomes 32 x 64 at a scale of 0.8: (12, 8, 28, 16) / 0.8 = (15, 10, 35, 20).
        ((40, 80), False, [[15, 10, 35, 20], [0, 0, 40, 40]]),
        # 64 x 40 keeps its size on a canvas of 64 x 64, with 12 grey rows above: y moves up by 12,
        # and boxes are clipped to the image.
        ((64, 40), False, [[12, 0, 28, 4], [0, 0, 32, 20]]),
        # 128 x 64 is halved to 64 x 32 and stands 16 rows down on 64 x 64: (y - 16) x 2.
        ((128, 64), True, [[24, 0, 56, 0], [0, 0, 64, 32]]),
    ],
)
def test_boxes_are_in_pixels_of_the_image(
    size_wh: tuple[int, int], only_squares: bool, expected: list[list[int]]
) -> None:
    predictor = known_predictor(64, only_squares=only_squares)
    assert predictor.rectangular is not only_squares
    found = predictor.predict(grey(*size_wh))
    np.testing.assert_allclose(found.boxes_xyxy, expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.81, 0.40], atol=1e-6)
    # As cat the dog's box has 0.54, more than the fire truck; evaluation would count it twice.
    assert found.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "rectangular"),
    [("swin_tiny_patch4_window7_224", True), ("coatnet_0_rw_224", False)],
)
def test_timm_backbones_get_rectangles_where_they_take_them(name: str, rectangular: bool) -> None:
    with torch.device("meta"):
        detector = create_detector(name, num_classes=3, neck="n", imgsz=224)
        predictor = Predictor(detector, names=NAMES, imgsz=224, device="meta")
    assert predictor.rectangular is rectangular


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"classes": ["fire truck"]}, [2]),
        ({"classes": [2]}, [2]),
        ({"classes": "fire truck"}, [2]),
        ({"classes": 2}, [2]),
        ({"classes": ["cat"]}, []),
        ({"max_detections": 1}, [1]),
        # Other classes do not use up the detections.
        ({"max_detections": 1, "classes": ["fire truck"]}, [2]),
        ({"confidence": 0.41}, [1]),
        ({"confidence": 0.82}, []),
    ],
)
def test_classes_confidence_and_number_choose_the_detections(
    settings: dict[str, Any], labels: list[int]
) -> None:
    assert known_predictor().predict(grey(64, 64), **settings).labels.tolist() == labels


def test_without_a_confidence_the_predictor_s_own_counts() -> None:
    assert known_predictor().confidence == 0.25
    sure = Predictor(known_predictor().detector, names=NAMES, imgsz=64, confidence=0.41)
    assert len(sure.predict(grey(64, 64))) == 1
    assert len(sure.predict(grey(64, 64), confidence=0.1)) == 2


@pytest.mark.parametrize(
    ("details", "confidence"),
    [
        ({"metrics": {"ap": 0.5, "best_confidence": 0.412}}, 0.412),
        ({"metrics": {"ap": 0.0, "best_confidence": None}}, 0.25),
        ({"metrics": {"ap": 0.5, "best_confidence": 1.0}}, 0.25),
        ({"metrics": {"ap": 0.5}}, 0.25),
        ({}, 0.25),
    ],
)
def test_a_checkpoint_has_the_confidence_of_the_best_f1(
    weights: Path, details: dict[str, Any], confidence: float
) -> None:
    assert usual_confidence(replace(read_checkpoint(weights), details=details)) == confidence


def test_a_batch_of_pictures_of_many_sizes_gives_what_each_gives_alone(weights: Path) -> None:
    predictor = load(weights)
    generator = np.random.default_rng(0)
    sizes = [(64, 64), (32, 64), (64, 64), (48, 64), (64, 32), (64, 64), (128, 64)]
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    settings = {"confidence": 1e-4, "max_detections": 20}
    together = predictor.predict(pictures, batch=4, **settings)
    for picture, found in zip(pictures, together, strict=True):
        alone = predictor.predict(picture, **settings)
        assert len(alone) == 20
        assert found.image is picture
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4)
        np.testing.assert_allclose(found.boxes_xyxy, alone.boxes_xyxy, atol=1e-3)


def test_pictures_of_one_network_size_go_through_at_once() -> None:
    predictor, batches = known_predictor(), []
    forward = predictor.detector.forward
    predictor.detector.forward = lambda images: batches.append(len(images)) or forward(images)
    predictor.predict([grey(64, 64), grey(64, 32), grey(128, 128), grey(64, 64)], batch=3)
    assert batches == [2, 1, 1]
    with pytest.raises(ConfigError, match="a batch of at least 1 image, found 0"):
        predictor.predict([grey(64, 64)], batch=0)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (grey(4, 4).astype(np.float32), "float32"),
        (grey(4, 4)[..., [0, 0]], "uint8"),
        (torch.full((3, 4, 4), 1.5), "float32"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), "uint8"),
        (grey(4, 4)[None], "uint8"),
        (grey(0, 4), "uint8"),
        (None, "NoneType"),
        (7, "int"),
        (b"jpeg", "int"),
        ([None], "NoneType"),
    ],
)
def test_what_is_neither_a_file_nor_an_image_is_refused(source: Any, found: str) -> None:
    with pytest.raises(DataError, match=rf"as a tensor \(channels, height, width\), found {found}"):
        known_predictor().predict(source)


def test_a_picture_of_pillow_is_pixels_alone_and_in_a_list() -> None:
    picture: Any = Image.fromarray(grey(128, 64))
    alone, (in_list,) = known_predictor().predict(picture), known_predictor().predict([picture])
    for found in (alone, in_list):
        assert found.labels.tolist() == [1, 2]
        assert found.to_dataframe()["file"].tolist() == [None, None]
        assert found.draw().shape == (64, 128, 3)


@pytest.mark.parametrize(
    "convert",
    [
        lambda rgb: rgb[..., 0],
        lambda rgb: rgb[..., :1],
        lambda rgb: np.dstack((rgb, np.zeros_like(rgb[..., :1]))),  # transparent
        lambda rgb: rgb.astype(np.uint16) * 256 + 255,
        lambda rgb: torch.from_numpy(rgb).permute(2, 0, 1),
        lambda rgb: torch.from_numpy(rgb).permute(2, 0, 1)[:1] / 255,
        lambda rgb: Image.fromarray(rgb).convert("L"),
        lambda rgb: Image.fromarray(rgb).convert("RGBA"),
        lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 256),
    ],
)
def test_an_image_is_the_same_in_every_form(convert: Callable[[Any], Any]) -> None:
    rgb = np.repeat(np.arange(24, dtype=np.uint8).reshape(4, 6, 1), 3, axis=2)
    np.testing.assert_array_equal(pixels_of(convert(rgb)), rgb)


def test_nothing_is_fetched_from_an_address() -> None:
    with pytest.raises(DataError, match="nothing here loads from the network"):
        known_predictor().predict("https://example.org/photo.jpg")


def test_a_predictor_is_called_and_says_what_it_is() -> None:
    predictor = known_predictor()
    assert predictor(grey(128, 64)).labels.tolist() == [1, 2]
    expected = "<Predictor in memory: 3 classes (cat, dog, fire truck), 64 px, torch on cpu>"
    assert repr(predictor) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"confidence": 1.0}, "confidence: input should be less than 1, found 1.0"),
        ({"nms_iou": 0.0}, "nms_iou: input should be greater than 0, found 0.0"),
        ({"max_detections": 0}, "max_detections: .* greater than or equal to 1, found 0"),
        ({"classes": ["dgo"]}, "in 0..2, found 'dgo'. Did you mean dog?"),
        ({"classes": [3]}, "in 0..2, found 3"),
        ({"classes": [-1]}, "in 0..2, found -1"),
    ],
)
def test_a_setting_out_of_range_is_refused_even_without_pictures(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        known_predictor().predict([], **settings)  # type: ignore[arg-type]


def test_a_size_that_the_stride_does_not_divide_is_refused(weights: Path) -> None:
    said = "a multiple of the largest stride, 32, found 100: use 96 or 128"
    with pytest.raises(ConfigError, match=said):
        known_predictor(100)
    with pytest.raises(ConfigError, match=said):
        load(weights, imgsz=100)
    with pytest.raises(ConfigError, match="found 0: use 32 or 64"):
        load(weights, imgsz=0)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(weights: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"The device '{device}' cannot be used here"):
        load(weights, device=device)


def test_a_runtime_that_is_none_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"found 'opnvino'\. Did you mean openvino\?"):
        load(weights, runtime="opnvino")  # type: ignore[arg-type]


def test_for_the_folder_of_a_run_the_file_of_weights_is_named(
    weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "best.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=f"Name the file in it: {tmp_path}/best.safet"):
        load(tmp_path)


def test_a_checkpoint_has_its_classes_its_size_and_its_licence(weights: Path) -> None:
    predictor = load(weights)
    assert (predictor.names, predictor.imgsz, predictor.licence) == (NAMES, 64, "Apache-2.0")
    assert predictor.origin["file"] == str(weights)
    assert not predictor.detector.training
    assert load(weights, imgsz=96).imgsz == 96
    with pytest.raises(CheckpointError, match="expected a weights file at"):
        load(weights.with_name("absent.safetensors"))


@pytest.mark.realdata
def test_the_official_yolov5n_finds_the_zebra_and_both_horses(shared: Path) -> None:
    predictor = ossa.load(shared / "weights" / "yolov5n.pt")
    assert predictor.rectangular
    assert predictor.licence == "AGPL-3.0"
    index = ossa.read_data(shared / "data" / "coco128").index
    for stem, large in (("000000000034", ["zebra"]), ("000000000049", ["horse", "horse"])):
        position = index.image_ids.tolist().index(int(stem))
        rows = np.arange(len(index.labels))[index.gt_rows(position)]
        rows = rows[index.areas[rows] > 96 * 96]
        assert [index.names[label] for label in index.labels[rows]] == large
        found = predictor.predict(index.image_path(position))
        for row in rows:
            same = found.boxes_xyxy[found.labels == index.labels[row]]
            truth = torch.from_numpy(index.boxes_xyxy[row][None].astype(np.float32))
            assert box_iou(truth, torch.from_numpy(same)).max() > 0.5


def test_weights_that_overflow_in_the_network_are_an_error_and_not_nothing_found() -> None:
    detector = create_detector("yolov5n", num_classes=1, imgsz=64)
    for parameter in detector.parameters():
        parameter.data *= 1e4
    predictor = Predictor(detector, names=("a",), imgsz=64)
    with pytest.raises(CheckpointError, match="expected numbers from the network, found NaN"):
        predictor.predict(grey(64, 64))
