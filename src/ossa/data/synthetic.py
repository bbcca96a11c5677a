"""Surfaces of generated scenes, and the clutter that must not be detected."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from ossa.boxes import xyxy_to_cxcywh
from ossa.errors import DataError
from ossa.types import Sample

_TEXTURE_SUBPIXEL_BITS = 4


def painted(texture: NDArray[np.float64], tones: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (H, W, 3): the first tone where `texture` is 0, the second where it is 1."""
    first, second = tones
    return first + texture[..., None] * (second - first)


def random_texture(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Returns (side, side) in 0..1: octaves of noise, blotches, a gradient or stripes."""
    kind = generator.integers(4)
    if kind == 0:
        octaves = [_noise(generator, side, cells) / cells for cells in (3, 6, 12, 24)]
        return np.sum(octaves, axis=0) / sum(1 / cells for cells in (3, 6, 12, 24))
    grain = 0.15 * _noise(generator, side, max(2, side // 3))
    if kind == 1:
        return 0.85 * (_noise(generator, side, 6) > 0.5) + grain
    angle = generator.uniform(0, 2 * math.pi)
    across = np.arange(side) / side
    ramp = across * math.cos(angle) + across[:, None] * math.sin(angle)
    if kind == 2:
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    else:
        ramp = np.abs((ramp * generator.uniform(3, 12)) % 2 - 1)
    return 0.85 * ramp + grain


def _noise(generator: np.random.Generator, side: int, cells: int) -> NDArray[np.float64]:
    """Returns (side, side) in 0..1: random values on a grid of cells, linear in between."""
    grid = generator.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8)
    # The exact variant gives the same bytes on every processor.
    fine = cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    return fine.astype(np.float64) / 255


def distracted(generator: np.random.Generator, canvas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the picture (H, W, 3) with soft blobs, bent lines and specks in it."""
    side = len(canvas)
    across = np.arange(side)
    blobs = np.zeros((side, side))
    for x, y, radius, strength in generator.uniform(0, 1, (int(generator.integers(0, 4)), 4)):
        distances = (across - x * side) ** 2 + ((across - y * side) ** 2)[:, None]
        reach = (0.04 + 0.12 * radius) * side
        blobs += 100 * (strength - 0.5) * np.maximum(1 - distances / reach**2, 0)
    canvas = np.clip(canvas + blobs[..., None], 0, 255)
    for _ in range(int(generator.integers(1, 5))):
        knots = (generator.uniform(0, 1, 2) + generator.uniform(-0.3, 0.3, (3, 2))) * side
        colour = generator.uniform(0, 255, 3).tolist()
        width = int(generator.integers(1, max(2, side // 64) + 1))
        line = np.rint(knots * 2**_TEXTURE_SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(canvas, [line], False, colour, width, cv2.LINE_8, _TEXTURE_SUBPIXEL_BITS)
    reach = max(1, side // 80)
    for _ in range(int(generator.integers(0, 7))):
        x, y = (int(value) for value in generator.integers(0, side, 2))
        colour = generator.uniform(0, 255, 3)
        canvas[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = colour
    return canvas


NAMES = ("disc", "triangle", "cross", "ring")

# The difficulty: lengths are fractions of the picture's side, colours are in 0..255. With these a
# detector of two million parameters comes to an AP50 of about 0.9 in some 600 steps from scratch.
SMALL_SHARE = 0.37
SMALL_SIDES = (0.086, 0.097)
LARGE_SIDES = (0.13, 0.36)
OVERLAP_SHARE = 0.12
"""How many objects are laid over an earlier one; about twice as many overlap another."""
VISIBLE_SHARE = 0.75
"""What later objects leave to be seen of each, at least."""
CONTRAST = 160.0
"""Distance in RGB between an object and what is behind it."""
SLANT = 0.92
"""Shortest length to which a direction is squeezed."""

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class _Scene:
    """A picture and the objects in it, the later ones before the earlier."""

    canvas: NDArray[np.float64]
    """(H, W, 3) RGB in 0..255."""
    owners: NDArray[np.int64]
    """(H, W) the object seen at each pixel, as a position in `labels`; -1 for background."""
    boxes_xyxy: NDArray[np.int64]
    """(N, 4) tight around the pixels of which the whole shape covers at least half."""
    labels: NDArray[np.int64]
    """(N,) in 0..K-1."""
    areas: NDArray[np.int64]
    """(N,) how many pixels those are, hidden or not."""


def draw_scene(generator: np.random.Generator, imgsz: int) -> Sample:
    """Returns one scene of `imgsz` x `imgsz` pixels; boxes enclose the whole shapes exactly.

    A box encloses the pixels that its shape, hidden parts included, covers by at least half; its
    right and bottom edges are the far edges of the last pixels, so every coordinate is whole.
    """
    scene = _compose(generator, imgsz)
    image = np.rint(scene.canvas).astype(np.uint8)
    return Sample(image, scene.boxes_xyxy.astype(np.float32), scene.labels)


def _compose(generator: np.random.Generator, imgsz: int) -> _Scene:
    tones = _background_tones(generator)
    canvas = distracted(generator, painted(random_texture(generator, imgsz), tones))
    scene = _Scene(
        canvas,
        owners=np.full((imgsz, imgsz), -1, dtype=np.int64),
        boxes_xyxy=np.zeros((0, 4), dtype=np.int64),
        labels=np.zeros(0, dtype=np.int64),
        areas=np.zeros(0, dtype=np.int64),
    )
    count = int(generator.integers(6, 13))
    # A shape that finds no place is drawn anew; the limit only keeps the loop finite.
    for _ in range(20 * count):
        label = int(generator.integers(len(NAMES)))
        coverage = _coverage(generator, NAMES[label], _longer_side(generator) * imgsz)
        corner = _free_corner(generator, scene, coverage >= 0.5)
        if corner is not None:
            scene = _with_object(generator, scene, label, coverage, corner, tones)
        if len(scene.labels) == count:
            break
    return scene


def _background_tones(generator: np.random.Generator) -> NDArray[np.float64]:
    """Returns two colours (2, 3), rather greyish so that objects may be bright."""
    first = generator.uniform(50, 205) + generator.uniform(-40, 40, 3)
    return np.stack([first, first + generator.uniform(-45, 45, 3)]).clip(0, 255)


def _with_object(
    generator: np.random.Generator,
    scene: _Scene,
    label: int,
    coverage: NDArray[np.float64],
    corner: tuple[int, int],
    background_tones: NDArray[np.float64],
) -> _Scene:
    """Returns the scene with one more object on top, its coverage placed at `corner`."""
    x, y = corner
    inside = coverage >= 0.5
    window = np.s_[y : y + coverage.shape[0], x : x + coverage.shape[1]]
    canvas, owners = scene.canvas.copy(), scene.owners.copy()
    canvas[window] = _covered(generator, canvas[window], coverage, background_tones)
    owners[window][inside] = len(scene.labels)
    return _Scene(
        canvas,
        owners,
        boxes_xyxy=np.vstack([scene.boxes_xyxy, _box_at(x, y, inside)]),
        labels=np.append(scene.labels, label),
        areas=np.append(scene.areas, inside.sum()),
    )


def _longer_side(generator: np.random.Generator) -> float:
    """Returns the longer side of an object as a fraction of the picture's side."""
    low, high = SMALL_SIDES if generator.random() < SMALL_SHARE else LARGE_SIDES
    return float(low * (high / low) ** generator.random())


def _box_at(x: int, y: int, inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns the tight box of a mask that has an empty margin of one pixel, placed at (x, y)."""
    return x + 1, y + 1, x + inside.shape[1] - 1, y + inside.shape[0] - 1


def _free_corner(
    generator: np.random.Generator, scene: _Scene, inside: NDArray[np.bool_]
) -> tuple[int, int] | None:
    """Returns a left top corner for the mask `inside`, or None where it found no place.

    A share of the objects is laid over an earlier one and hides none by more than it may; the
    boxes of all others keep clear of each other.
    """
    shape_wh = np.array(inside.shape[::-1])
    limit = np.array(scene.owners.shape[::-1]) - shape_wh
    low, high = np.zeros(2, dtype=np.int64), limit
    overlap = len(scene.labels) > 0 and generator.random() < OVERLAP_SHARE
    if overlap:
        partner = scene.boxes_xyxy[generator.integers(len(scene.labels))]
        low = np.clip(partner[:2] - shape_wh + 2, 0, limit)
        high = np.clip(partner[2:] - 2, low, limit)
    for x, y in generator.integers(low, high, (20, 2), endpoint=True).tolist():
        if overlap and _leaves_all_visible(scene, x, y, inside):
            return x, y
        if not overlap and not _touches(_box_at(x, y, inside), scene.boxes_xyxy):
            return x, y
    return None


def _leaves_all_visible(scene: _Scene, x: int, y: int, inside: NDArray[np.bool_]) -> bool:
    owners = scene.owners.copy()
    owners[y : y + inside.shape[0], x : x + inside.shape[1]][inside] = -1
    visible = np.bincount(owners[owners >= 0], minlength=len(scene.labels))
    return bool(np.all(visible >= VISIBLE_SHARE * scene.areas))


def _touches(box_xyxy: tuple[int, int, int, int], boxes_xyxy: NDArray[np.int64]) -> bool:
    x0, y0, x1, y1 = box_xyxy
    apart_x = (boxes_xyxy[:, 2] <= x0) | (boxes_xyxy[:, 0] >= x1)
    apart_y = (boxes_xyxy[:, 3] <= y0) | (boxes_xyxy[:, 1] >= y1)
    return not bool(np.all(apart_x | apart_y))


def _contours(name: str) -> list[NDArray[np.float64]]:
    """Returns closed contours (M, 2) about the origin; a second one is a hole."""
    circle = _regular_polygon(64)
    if name == "disc":
        return [circle]
    if name == "ring":
        return [circle, 0.52 * circle]
    if name == "triangle":
        return [_regular_polygon(3)]
    arm = 0.3
    quarter = np.array([(arm, arm), (arm, 1.0), (-arm, 1.0)])
    turns = (quarter, quarter[:, ::-1] * (-1, 1), -quarter, quarter[:, ::-1] * (1, -1))
    return [np.concatenate(turns)]


def _regular_polygon(corners: int) -> NDArray[np.float64]:
    angles = 2 * math.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _coverage(generator: np.random.Generator, name: str, longer_side: float) -> NDArray[np.float64]:
    """Returns the fraction 0..1 of each pixel that a shape covers, turned and slanted at random.

    The array is as large as the pixels covered by half or more, and one more pixel on each side.
    """
    angle, slant_angle = generator.uniform(0, 2 * math.pi, 2)
    squeeze = np.diag([1.0, generator.uniform(SLANT, 1.0)])
    contours = [line @ _turn(angle) @ squeeze @ _turn(slant_angle) for line in _contours(name)]
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale = longer_side / float((high - low).max())
    side = math.ceil(longer_side) + 4
    centre = side / 2 + generator.uniform(-0.5, 0.5, 2)

    unit = _SUPERSAMPLING * 2**_SUBPIXEL_BITS
    points = [
        np.rint(((line - (low + high) / 2) * scale + centre) * unit).astype(np.int32)
        for line in contours
    ]
    fine = np.zeros((side * _SUPERSAMPLING,) * 2, dtype=np.uint8)
    cv2.fillPoly(fine, points, 1, shift=_SUBPIXEL_BITS)  # even-odd: the second contour is a hole
    coverage = fine.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING).mean(axis=(1, 3))
    rows = np.flatnonzero((coverage >= 0.5).any(axis=1))
    columns = np.flatnonzero((coverage >= 0.5).any(axis=0))
    return coverage[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]


def _turn(angle: float) -> NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _covered(
    generator: np.random.Generator,
    behind: NDArray[np.float64],
    coverage: NDArray[np.float64],
    background_tones: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Returns the patch `behind` (h, w, 3) with a textured object laid over it."""
    hidden = behind[coverage >= 0.5].mean(axis=0)
    avoided = np.vstack([background_tones, background_tones.mean(axis=0), hidden])
    candidates = generator.uniform(0, 255, (32, 3))
    distances = np.linalg.norm(candidates[:, None] - avoided, axis=2).min(axis=1)
    # The first that stands out enough, not the one that does so most: colours stay varied.
    enough = np.flatnonzero(distances >= CONTRAST)
    tone = candidates[enough[0] if len(enough) else distances.argmax()]
    tones = np.stack([tone, np.clip(tone + generator.uniform(-35, 35, 3), 0, 255)])
    fill = painted(random_texture(generator, max(coverage.shape)), tones)
    fill = fill[: coverage.shape[0], : coverage.shape[1]]
    alpha = coverage[..., None]
    return behind * (1 - alpha) + fill * alpha


VERSION = 1
"""Counts the changes that alter the pictures of a given seed."""
SPLITS = ("train", "val", "test")

_SMALLEST_PICTURE = 128


def write_scenes(
    folder: Path,
    *,
    images: Mapping[str, int] | None = None,
    imgsz: int = 160,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a data set of generated scenes as YOLO txt and returns the path of its data.yaml.

    The same scenes already at `folder` are left as they are.

    Args:
        folder: becomes the data set; must be absent, empty, or hold the very same scenes.
        images: number of images of each split; 600 of train and 120 of val when not given.
        imgsz: width and height of every image in pixels, at least 128.
        seed: of all pictures.
        on_image: called after every image with the number done and the number in all.

    Raises:
        DataError: `folder` holds something else, or a split or the size is out of range.
    """
    images = {"train": 600, "val": 120} if images is None else dict(images)
    _check_request(images, imgsz)
    identity = {"version": VERSION, "images": images, "imgsz": imgsz, "seed": seed}
    folder = Path(folder)
    if _already_written(folder, identity):
        return folder / "data.yaml"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved into place, so that an interrupted call leaves no half data set.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".scenes-") as unfinished:
        root = Path(unfinished) / "scenes"
        for split in images:
            (root / "images" / split).mkdir(parents=True)
            (root / "labels" / split).mkdir(parents=True)
        places = [(split, position) for split in images for position in range(images[split])]
        for done, (split, position) in enumerate(places, start=1):
            generator = np.random.default_rng((seed, SPLITS.index(split), position))
            _write_sample(root, split, position, draw_scene(generator, imgsz))
            if on_image is not None:
                on_image(done, len(places))
        splits = {split: f"images/{split}" for split in images}
        settings = {"format": "yolo", "path": ".", **splits, "names": list(NAMES)}
        (root / "data.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (root / "scenes.json").write_text(json.dumps(identity, indent=2) + "\n")
        os.replace(root, folder)
    return folder / "data.yaml"


def _check_request(images: Mapping[str, int], imgsz: int) -> None:
    for split, count in images.items():
        if split not in SPLITS:
            raise DataError(f"Expected splits among {', '.join(SPLITS)}, found '{split}'.")
        if count < 1:
            raise DataError(f"Expected at least one image of '{split}', found {count}.")
    if imgsz < _SMALLEST_PICTURE:
        raise DataError(
            f"Expected scenes of at least {_SMALLEST_PICTURE} pixels, found imgsz {imgsz}: "
            "the small objects would have too few pixels to show their shape."
        )


def _already_written(folder: Path, identity: dict[str, object]) -> bool:
    """Returns whether `folder` holds exactly these scenes; refuses one that holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "scenes.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == identity:
        return True
    raise DataError(
        f"Expected an empty folder or the scenes {json.dumps(identity)} at {folder}, found "
        f"{'other files' if found is None else json.dumps(found)}; "
        "choose another folder or delete this one."
    )


def _write_sample(root: Path, split: str, position: int, sample: Sample) -> None:
    bgr = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
    png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    (root / "images" / split / f"{position:06d}.png").write_bytes(png.tobytes())
    boxes = xyxy_to_cxcywh(sample.boxes_xyxy.astype(np.float64)) / sample.image.shape[0]
    lines = [
        f"{label} " + " ".join(f"{value:.8f}" for value in box) + "\n"
        for label, box in zip(sample.labels, boxes, strict=True)
    ]
    (root / "labels" / split / f"{position:06d}.txt").write_text("".join(lines))


__all__ = ["NAMES", "draw_scene", "write_scenes"]
