"""Large images in windows: nothing is lost, nothing found twice, and one window is as none."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ossa.cli.options import choose_tiles
from ossa.config import AugmentConfig, EvaluateConfig, Tiles
from ossa.data.dataset import Draw, TrainingDataset
from ossa.data.reading import read_data
from ossa.data.tiles import InWindow, join_windows, sides_seen, window_corners
from ossa.errors import ConfigError
from ossa.evaluate.evaluator import Found, evaluate
from ossa.models.detector import Detector
from ossa.predict.predictor import Predictor
from ossa.types import Detections, Level

STILL = AugmentConfig(mosaic=0, mixup=0, translate=0, scale=0, flip=0, hue=0, saturation=0, value=0)
SAHI = Path(__file__).parents[1] / "data" / "tiles" / "sahi_merges.json"


class _Levels(nn.Module):
    levels = (Level(8, 1), Level(32, 1))


class _Seen(NamedTuple):
    """Predictions of boxes that are known."""

    boxes: list[Tensor]
    logits: tuple[Tensor, ...] = (torch.zeros(1),)
    strides: tuple[int, ...] = (8, 32)
    needs_nms: bool = True

    def possible_boxes(self, confidence: float) -> list[tuple[Tensor, ...]]:
        return [tuple(self.boxes)]


class WhiteDetector(nn.Module):
    """Sees every white rectangle of its input, and makes things hard at the seams.

    One that an edge cuts has a better score (0.9) than a whole one (0.8), and the whole input is an
    object of a score of 0.05.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Levels()

    def forward(self, images: Tensor) -> _Seen:
        height, width = images.shape[-2:]
        boxes = []
        for image in images[:, 0].cpu().numpy():
            white = (image > 200).astype(np.uint8)
            rows = [[0, 0, width, height, 0.05]]
            for x, y, w, h, _ in cv2.connectedComponentsWithStats(white)[2][1:].tolist():
                is_cut = x == 0 or y == 0 or x + w == width or y + h == height
                rows.append([x, y, x + w, y + h, 0.9 if is_cut else 0.8])
            answers = torch.tensor(rows, dtype=torch.float32)
            # The objectness is certain, so that the class has the score.
            certain = torch.full((len(rows), 1), 50.0)
            boxes.append(torch.cat((answers[:, :4], certain, answers[:, 4:].logit()), dim=1))
        return _Seen(boxes)


def predictor(imgsz: int = 640, tiles: Tiles | None = None) -> Predictor:
    detector = cast(Detector, WhiteDetector())
    return Predictor(detector, names=("thing",), imgsz=imgsz, tiles=tiles)


def drawn_scene(side: int, count: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Returns a black picture with white rectangles of 20 to 110 px, none of which touch."""
    generator = np.random.default_rng(seed)
    image, boxes = np.zeros((side, side, 3), np.uint8), []
    while len(boxes) < count:
        width, height = generator.integers(20, 111, size=2).tolist()
        left, top = (int(generator.integers(2, side - 2 - size)) for size in (width, height))
        if not image[top - 2 : top + height + 2, left - 2 : left + width + 2].any():
            image[top : top + height, left : left + width] = 255
            boxes.append([left, top, left + width, top + height])
    return image, np.array(boxes)


def ious(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    common = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - starts
    both = common.clip(0).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (boxes, others)]
    return both / (areas[0][:, None] + areas[1] - both)


def test_windows_that_would_take_gigabytes_are_refused():
    # A checkpoint may say so: 4,000 px would be seen as 512,000.
    sizes_wh = np.array([[64, 64], [4000, 3000]])
    with pytest.raises(ConfigError, match="for one of 4000 x 3000 with tiles of 32 px"):
        sides_seen(sizes_wh, 4096, Tiles(side=32))
    assert sides_seen(sizes_wh, 640, Tiles(side=320)).tolist() == [640, 8000]


def test_windows_lie_in_equal_steps_from_edge_to_edge_and_share_the_overlap():
    tiles = Tiles(side=640, overlap=0.2)  # steps of 512 px at most
    assert window_corners((640, 300), 640, tiles) == [(0, 0)]
    assert window_corners((1000, 641), 640, tiles) == [(0, 0), (360, 0), (0, 1), (360, 1)]
    assert [left for left, _ in window_corners((3000, 100), 640, tiles)] == [
        *(0, 472, 944, 1416, 1888, 2360)
    ]


@pytest.mark.parametrize(
    ("imgsz", "least_iou"),
    [(640, 1.0), (320, 0.75)],  # at half the size the edges of an object lie on every second pixel
)
def test_every_object_of_a_scene_of_3000_px_is_found_once(imgsz: int, least_iou: float):
    image, boxes = drawn_scene(3000, 250)
    found = predictor(imgsz, Tiles(side=640)).predict(image, confidence=0.5)
    assert len(found) == 250
    assert (ious(boxes, found.boxes_xyxy).max(axis=1) >= least_iou).all()


def test_boxes_of_a_low_score_that_cover_others_change_nothing():
    image, boxes = drawn_scene(1500, 80)
    found = predictor(tiles=Tiles(side=640)).predict(image, confidence=0.001)
    assert 0 < (found.scores < 0.1).sum() <= 9
    best = found.above(0.5)
    assert len(best) == 80
    assert (ious(boxes, best.boxes_xyxy).max(axis=1) == 1).all()


def test_a_scene_keeps_its_detections_wherever_it_lies():
    image, boxes = drawn_scene(900, 40)
    tiled, kept = predictor(tiles=Tiles(side=640)), 0
    for left, top in np.random.default_rng(1).integers(0, 513, size=(10, 2)).tolist():
        moved = np.zeros((1500, 1500, 3), np.uint8)
        moved[top : top + 900, left : left + 900] = image
        found = tiled.predict(moved, confidence=0.5)
        kept += (ious(boxes + [left, top] * 2, found.boxes_xyxy).max(axis=1) >= 0.9).sum()
    assert kept >= 0.99 * 400


@pytest.mark.parametrize("case", json.loads(SAHI.read_text()), ids=lambda c: str(len(c["boxes"])))
def test_boxes_that_fill_their_windows_are_joined_as_sahi_joins_them(case: dict[str, Any]):
    windows = [
        InWindow(
            np.array(row[:4]),
            Detections(np.array([row[:4]]), np.array([row[4]]), np.array([int(row[5])])),
        )
        for row in case["boxes"]
    ]
    joined = join_windows(windows, size_wh=(1000, 1000), max_detections=1000)
    expected = np.array(case["merged"])
    np.testing.assert_allclose(joined.boxes_xyxy, expected[:, :4])
    np.testing.assert_allclose(joined.scores, expected[:, 4])


def test_two_objects_that_one_window_tells_apart_stay_two():
    pair = Detections(
        np.array([[0, 0, 50, 50], [10, 0, 50, 50.0]]), np.array([0.9, 0.8]), np.zeros(2, int)
    )
    area = np.array([0, 0, 100, 100])
    nothing = InWindow(np.array([50, 0, 150, 100]), Detections.empty())
    joined = join_windows([InWindow(area, pair), nothing], size_wh=(150, 100), max_detections=9)
    assert len(joined) == 2


def test_an_image_no_larger_than_a_tile_gives_the_same_bytes():
    image, _ = drawn_scene(500, 20)
    whole, tiled = (predictor(320, tiles).predict(image) for tiles in (None, Tiles(side=500)))
    for name in ("boxes_xyxy", "scores", "labels"):
        assert getattr(whole, name).tobytes() == getattr(tiled, name).tobytes()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A data set of two pictures of 900 px with 40 objects each, and one of 600 px."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, (side, count) in enumerate([(900, 40), (600, 10), (900, 40)]):
        image, boxes = drawn_scene(side, count, seed=number)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        rows = np.concatenate((middles, boxes[:, 2:] - boxes[:, :2]), axis=1) / side
        lines = ["0 " + " ".join(map(repr, row)) + "\n" for row in rows.tolist()]
        (tmp_path / "labels" / f"{number}.txt").write_text("".join(lines))
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [thing]\n")
    return data


def test_ap_is_of_whole_images_also_where_two_processes_share_the_windows(scenes: Path):
    index, parts = read_data(scenes, "val").index, list[Found]()
    how: dict[str, Any] = {"imgsz": 640, "config": EvaluateConfig(), "batch": 3}
    how["tiles"] = Tiles(side=640)
    alone = evaluate(WhiteDetector(), index, **how)
    assert alone.metrics.ap == pytest.approx(1)
    assert sum(len(found.above(0.5)) for found in alone.detections.values()) == 90

    def wait(found: Found) -> list[Found]:
        parts.append(found)
        raise TimeoutError

    with pytest.raises(TimeoutError):  # the first process, which waits for the second
        evaluate(WhiteDetector(), index, **how, share=(0, 2), gather=wait)
    shared = evaluate(
        WhiteDetector(), index, **how, share=(1, 2), gather=lambda found: [found, *parts]
    )
    assert shared.metrics == alone.metrics


def test_training_sees_another_window_in_every_epoch_and_the_same_in_the_same(scenes: Path):
    index = read_data(scenes, "train").index
    seen: Any = {"imgsz": 320, "augment": STILL, "seed": 0}
    windows = TrainingDataset(index, **seen, tiles=Tiles(side=320))
    image = cv2.imread(str(scenes.parent / "images" / "0.png"))
    assert image is not None
    corners = set()
    for epoch in range(4):
        sample, _ = windows[Draw(epoch, 0)]
        again, _ = windows[Draw(epoch, 0)]
        np.testing.assert_array_equal(sample.image, again.image)
        place = cv2.minMaxLoc(cv2.matchTemplate(image, sample.image, cv2.TM_SQDIFF))[2]
        left, top = place
        np.testing.assert_array_equal(sample.image, image[top : top + 320, left : left + 320])
        corners.add(place)
        for x0, y0, x1, y1 in sample.boxes_xyxy.round().astype(int).tolist():
            assert (sample.image[y0:y1, x0:x1] == 255).all()
    assert len(corners) == 4
    larger = TrainingDataset(index, **seen, tiles=Tiles(side=900))
    np.testing.assert_array_equal(
        larger[Draw(0, 0)][0].image, TrainingDataset(index, **seen)[Draw(0, 0)][0].image
    )


@pytest.mark.parametrize(
    ("side", "overlap", "complaint"),
    [(0, None, "side"), (640, 1.0, "overlap"), (None, 0.2, "--tiles beside --overlap")],
)
def test_tiles_that_make_no_sense_are_refused(
    side: int | None, overlap: float | None, complaint: str
):
    with pytest.raises(ConfigError, match=complaint):
        choose_tiles(side, overlap, None)


def test_the_tiles_of_the_training_hold_unless_others_are_given():
    trained = Tiles(side=320, overlap=0.3)
    assert choose_tiles(None, None, trained) == trained
    assert choose_tiles(640, None, trained) == Tiles(side=640, overlap=0.3)
    assert choose_tiles(None, None, None) is None
