"""A trained detector, ready for images.

Dimensions: H W pixels, K classes.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ossa.config import PREDICTION_NMS_IOU, EvaluateConfig, Tiles, check_imgsz
from ossa.data.letterbox import resize_long_side
from ossa.data.tiles import (
    InWindow,
    in_window,
    join_windows,
    place_window,
    sides_seen,
    window_corners,
)
from ossa.errors import ConfigError, suggestion
from ossa.export.backends import AnyRuntime, NMSRuntime, TorchRuntime, find
from ossa.export.graph import (
    CONFIDENCE,
    NMSSettings,
    Precision,
    strides_of,
    takes_rectangles,
    usual_confidence,
)
from ossa.export.select import (
    RuntimeName,
    input_side,
    is_exported,
    open_exported,
    runtime_for_checkpoint,
)
from ossa.models.checkpoint import read_checkpoint
from ossa.models.detector import Detector
from ossa.predict.hub import HUB_PREFIX, fetch_from_hub
from ossa.predict.results import Image, Results, labels_of, pixels_of
from ossa.predict.sources import Frame
from ossa.schema import validated
from ossa.types import Letterbox

MAX_DETECTIONS = 300
_NAMES_SHOWN = 5

Images: TypeAlias = (
    list[str] | tuple[str, ...] | Sequence[Path] | Sequence[NDArray[np.uint8]] | list[Image]
)


def load(
    path: Path | str,
    device: torch.device | str | None = None,
    imgsz: int | None = None,
    *,
    tiles: Tiles | None = None,
    runtime: RuntimeName | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    on_conversion: Callable[[str], object] = lambda sentence: None,
) -> "Predictor":
    """Returns a predictor with the weights of a file.

    Args:
        path: a checkpoint, an official `yolov5*.pt` (read without running its code), or a file
            of `ossa export`: an .onnx, or an OpenVINO .xml or its folder; or
            `hf://user/name`, which is fetched from the Hugging Face hub (`push_to_hub`).
        device: 'cpu', 'cuda', 'cuda:1', ...; by default the first GPU where there is one for a
            checkpoint, and the CPU for an exported file.
        imgsz: longer side of the network input in pixels; by default that of the training.
        tiles: in whose windows larger images are seen; by default those of the training.
        runtime: 'torch', 'onnxruntime', 'openvino', or 'auto' for the fastest of those installed.
            By default 'torch' for a checkpoint and 'auto' for an exported file.
        precision: of the computation; by default that of the file. Only fp32 is as exact as the
            evaluation in training.
        threads: of ONNX Runtime and OpenVINO; PyTorch's are for the process.
        on_conversion: called with a sentence before a checkpoint is converted for `runtime`,
            which takes seconds and happens once.

    Raises:
        CheckpointError: the file is missing, damaged, of another program, or unsafe.
        ConfigError: `imgsz` is not a multiple of the largest stride, there is no such device, or
            the runtime is not installed or does not run this file.
        UnsupportedBackbone: the backbone cannot take images of `imgsz`.

    Examples:
        >>> import ossa
        >>> predictor = ossa.load("best.safetensors")
        >>> results = predictor.predict("photo.png", confidence=0.4)
    """
    _check_runtime(runtime)
    if str(path).startswith(HUB_PREFIX):
        path = fetch_from_hub(str(path))
    if device is None:
        device = "cuda" if torch.cuda.is_available() and not is_exported(path) else "cpu"
    how: Any = {"precision": precision, "threads": threads}
    if is_exported(path):
        network = open_exported(path, runtime=runtime or "auto", **how)
        names, origin = network.description.names, network.description.origin
        imgsz = input_side(network, imgsz, device=device)
        confidence = network.description.confidence
    else:
        checkpoint = read_checkpoint(path)
        names, origin = checkpoint.names, checkpoint.origin
        imgsz = checkpoint.imgsz if imgsz is None else imgsz
        check_imgsz(imgsz, stride=max(checkpoint.model.strides))
        confidence, tiles = usual_confidence(checkpoint), tiles or checkpoint.tiles
        network = runtime_for_checkpoint(
            checkpoint,
            imgsz=imgsz,
            device=device,
            runtime=runtime or "torch",
            on_conversion=on_conversion,
            **how,
        )
    how = {"origin": origin, "confidence": confidence, "tiles": tiles}
    return Predictor(network, names=names, imgsz=imgsz, **how)


def _check_runtime(name: str | None) -> None:
    known = get_args(RuntimeName)
    if name is not None and name not in known:
        raise ConfigError(
            expected=f"a runtime of {', '.join(known)}",
            found=repr(name),
            advice=suggestion(str(name), known).strip(),
        )


class Predictor:
    """Finds objects in images. It is immutable, so threads may share one.

    An image is resized to `imgsz` pixels on its longer side, and its shorter side padded with
    grey to the next multiple of the largest stride, as YOLOv5 does. Backbones that were built for
    one image size, or whose windows do not divide every rectangle, get squares instead, as do
    exported files of one size: see `rectangular`.

    With `tiles`, an image that is larger than one is seen in overlapping windows, and what was
    found in them is joined (`ossa.data.tiles`).

    Examples:
        >>> import numpy as np, ossa
        >>> detector = ossa.create_detector("yolov5n", num_classes=2, imgsz=64)
        >>> predictor = ossa.Predictor(detector, names=("cat", "dog"), imgsz=64)
        >>> results = predictor.predict(np.zeros((48, 64, 3), np.uint8), confidence=0.9)
        >>> len(results), results.draw().shape
        (0, (48, 64, 3))
    """

    def __init__(
        self,
        detector: Detector | AnyRuntime,
        *,
        names: Sequence[str],
        imgsz: int,
        device: torch.device | str = "cpu",
        origin: Mapping[str, Any] | None = None,
        confidence: float = CONFIDENCE,
        tiles: Tiles | None = None,
    ) -> None:
        """Args:
            detector: a network, which is moved to `device` and set to evaluation mode, or a
                runtime with a device of its own.
            names: K class names.
            imgsz: longer side of the network input in pixels.
            device: 'cpu', 'cuda', 'cuda:1', ...
            origin: file, sha256, pretraining and licence of the weights, where known.
            confidence: 0..1, the default of `predict`.
            tiles: their side and overlap; None to see every image whole.

        Raises:
            ConfigError: `imgsz` is not a multiple of the largest stride, or there is no such
                device.
        """
        if isinstance(detector, nn.Module):
            detector = TorchRuntime(detector, device=device)
        self.runtime: AnyRuntime = detector
        about: Any = getattr(detector, "description", None)
        network: Any = getattr(detector, "detector", None)
        self.stride = max(strides_of(network) if about is None else about.strides)
        check_imgsz(imgsz, stride=self.stride)
        self.rectangular = (
            takes_rectangles(network, imgsz=imgsz) if about is None else about.rectangular
        )
        self.device = detector.device
        self.names = tuple(names)
        self.imgsz = imgsz
        self.tiles = tiles
        self.origin = dict(origin or {})
        self.confidence = confidence
        inside = isinstance(detector, NMSRuntime)
        self.nms_iou: float = detector.nms.nms_iou if inside else PREDICTION_NMS_IOU

    def __repr__(self) -> str:
        names = ", ".join(self.names[:_NAMES_SHOWN]) + ", ..." * (len(self.names) > _NAMES_SHOWN)
        weights = Path(self.origin.get("file", "in memory")).name
        return (
            f"<Predictor {weights}: {len(self.names)} classes ({names}), {self.imgsz} px, "
            f"{self.runtime.name} on {self.device}>"
        )

    @property
    def detector(self) -> Detector:
        """The network in PyTorch.

        Raises:
            ConfigError: the predictor runs an exported file.
        """
        if isinstance(self.runtime, TorchRuntime):
            return self.runtime.detector
        raise ConfigError(
            f"{self.runtime.name} runs this detector, not PyTorch", advice="load a checkpoint"
        )

    @property
    def licence(self) -> str | None:
        """The licence of the weights, where known."""
        return self.origin.get("licence")

    @overload
    def predict(
        self,
        source: Image,
        *,
        confidence: float | None = ...,
        nms_iou: float | None = ...,
        classes: Sequence[str | int] | str | int | None = ...,
        max_detections: int = ...,
        batch: int = ...,
    ) -> Results: ...

    @overload
    def predict(
        self,
        source: Images,
        *,
        confidence: float | None = ...,
        nms_iou: float | None = ...,
        classes: Sequence[str | int] | str | int | None = ...,
        max_detections: int = ...,
        batch: int = ...,
    ) -> list[Results]: ...

    def predict(
        self,
        source: Image | Images,
        *,
        confidence: float | None = None,
        nms_iou: float | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch: int = 1,
    ) -> Results | list[Results]:
        """Returns the detections of an image, or a list of them for a list of images.

        Unlike in evaluation, which follows COCO, a box has one class: its best.

        Args:
            source: an image file, an array (H, W, 3) RGB, grey or with alpha, of uint8 or uint16,
                a Pillow image, a tensor (C, H, W), or a list of these
                (`ossa.predict.results.pixels_of`).
            confidence: 0..1; detections with a lower score are dropped. By default that of the
                best F1 on val, which training stores in the checkpoint, or else 0.25.
            nms_iou: of two boxes of one class that overlap more, the better is kept. By default
                0.45, or that of a file with NMS in its graph.
            classes: names or labels of the classes to detect, or one of these; by default all.
            max_detections: maximum per image.
            batch: number of images of a list in memory at a time, and of images or windows of one
                network input size that are computed together.

        Raises:
            DataError: an image cannot be read, or an array is not an image.
            ConfigError: a value is out of range or contradicts the NMS in the graph, or a class
                is unknown.
        """
        given = {
            "confidence": self.confidence if confidence is None else confidence,
            "nms_iou": self.nms_iou if nms_iou is None else nms_iou,
            "max_detections": max_detections,
        }
        settings = validated(EvaluateConfig, given, where="predict")
        if isinstance(self.runtime, NMSRuntime):
            _check_within(settings, self.runtime.nms)
        wanted = torch.zeros(len(self.names), dtype=torch.bool)
        wanted[self.labels_of(classes)] = True
        one_image = str | Path | np.ndarray | Tensor
        if isinstance(source, one_image) or not isinstance(source, Iterable):
            alone: Any = source
            return self._predict_batch([alone], settings, wanted, batch)[0]
        if batch < 1:
            raise ConfigError(expected="a batch of at least 1 image", found=str(batch))
        images, results = iter(source), []
        while some := list(islice(images, batch)):
            results += self._predict_batch(some, settings, wanted, batch)
        return results

    __call__ = predict

    def labels_of(self, classes: Sequence[str | int] | str | int | None) -> list[int]:
        """Returns the labels of classes, or of one, given by name or label; of all for None.

        Raises:
            ConfigError: there is no such class.
        """
        return labels_of(classes, self.names)

    def prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Letterbox]:
        """Returns the network input (H, W, 3) of the image, and how the image lies in it.

        With tiles it is that of the first window.
        """
        return next(self._windows(image))

    def _windows(self, image: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], Letterbox]]:
        """Yields the network inputs of all windows of an image, each with its placement."""
        size_wh = (image.shape[1], image.shape[0])
        (side,) = sides_seen(np.array([size_wh]), self.imgsz, self.tiles).tolist()
        resized = resize_long_side(image, side)
        seen_wh = (resized.shape[1], resized.shape[0])
        stride = self.stride if self.rectangular else None
        for corner_xy in window_corners(seen_wh, self.imgsz, self.tiles):
            yield place_window(resized, corner_xy, self.imgsz, original_wh=size_wh, stride=stride)

    @torch.inference_mode()
    def _predict_batch(
        self, images: Sequence[Image], settings: EvaluateConfig, wanted: Tensor, batch: int
    ) -> list[Results]:
        windows = [list(self._windows(pixels_of(image))) for image in images]
        prepared = list(chain.from_iterable(windows))
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, (canvas, _) in enumerate(prepared):
            by_shape.setdefault(canvas.shape, []).append(position)
        shown: dict[int, InWindow] = {}
        for shape, members in by_shape.items():
            for positions in (members[at : at + batch] for at in range(0, len(members), batch)):
                canvases, letterboxes = zip(*(prepared[one] for one in positions), strict=True)
                inputs = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).to(self.device)
                found = find(self.runtime, inputs, letterboxes, settings, wanted=wanted)
                for position, placed, one in zip(positions, letterboxes, found, strict=True):
                    shown[position] = in_window(one, placed, shape)
        results, at = [], 0
        for image, mine in zip(images, windows, strict=True):
            placed = mine[0][1]
            joined = join_windows(
                [shown[number] for number in range(at, at + len(mine))],
                size_wh=(placed.width, placed.height),
                max_detections=settings.max_detections,
            )
            results.append(Results(**vars(joined), image=image, names=self.names))
            at += len(mine)
        return results


def predict_frames(
    frames: Iterable[Frame], predictor: Predictor, *, batch: int = 1, **settings: Any
) -> Generator[tuple[Frame, Results]]:
    """Yields each frame with its results.

    Args:
        frames: at most `batch` of them are held at a time.
        predictor: a predictor.
        batch: number of frames that are predicted together.
        settings: further arguments of `Predictor.predict`.
    """
    frames = iter(frames)
    while some := list(islice(frames, batch)):
        images = [frame.image for frame in some]
        yield from zip(some, predictor.predict(images, batch=batch, **settings), strict=True)


def _check_within(settings: EvaluateConfig, inside: NMSSettings) -> None:
    """Raises ConfigError for settings that contradict the NMS in the graph."""
    confidence, nms_iou = settings.confidence, settings.nms_iou
    for what, wanted, found, is_right in (
        (
            "a confidence of at least",
            inside.confidence,
            confidence,
            confidence >= inside.confidence,
        ),
        ("an IoU of", inside.nms_iou, nms_iou, nms_iou == inside.nms_iou),
    ):
        if not is_right:
            raise ConfigError(
                expected=f"{what} {wanted:g}, as the NMS in this file has",
                found=f"{found:g}",
                advice="export it again with other settings",
            )
