"""`ossa predict`: find objects in images and videos, draw them, write them to files."""

import json
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.config import PREDICTION_NMS_IOU, EvaluateConfig
from ossa.errors import ConfigError, RunFailed
from ossa.escaping import hide_credentials, print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.predict.predictor import Predictor
    from ossa.predict.results import Results
    from ossa.predict.sources import AnnotatedImages, Frame, Source
    from ossa.predict.writer import ResultFolder, Window


@command(
    *options.nms_settings(
        confidence="that of the best F1 in training; 0.25 where the file has none",
        iou=str(PREDICTION_NMS_IOU),
    ),
    schema=EvaluateConfig,
    panels={
        "Videos, cameras and streams": "every show",
        "What is written": "pictures show_truth save_txt save_conf save_json save_csv save_crops "
        "output",
        options.MACHINE_PANEL: "runtime precision as_json_lines",
    },
)
def predict(
    *,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE"),
        "An image or video, a folder (with its subfolders), a .txt list of them, a pattern in "
        "quotes, the number of a camera, or the address of a stream (rtsp://, http://, ...).",
    ] = None,
    source_option: Annotated[str | None, typer.Option("--source", hidden=True)] = None,
    weights: options.AnyWeights,
    imgsz: options.TrainedSide = None,
    tiles: options.TileSide = None,
    overlap: options.Overlap = None,
    settings: dict[str, Any],
    classes: Annotated[
        list[str] | None, options.NAMES, "Look for these only: names or numbers."
    ] = None,
    batch: options.Batch = 1,
    every: Annotated[
        options.Count, typer.Option("--every", "--vid-stride"), "Look at every Nth frame."
    ] = 1,
    show: Annotated[
        bool, typer.Option("--show", "--view-img"), "Show them in a window, too: q ends."
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", " /--nosave"), "Annotated images and videos."
    ] = True,
    show_truth: Annotated[
        options.DataPath | None, "A data set whose boxes are drawn below the detections."
    ] = None,
    save_txt: Annotated[bool, "YOLO txt in labels/."] = False,
    save_conf: Annotated[bool, "YOLO txt with the score as a sixth column."] = False,
    save_json: Annotated[
        bool, "predictions.json, COCO results by the ids of --show-truth."
    ] = False,
    save_csv: Annotated[bool, "predictions.csv, one row per detection."] = False,
    save_crops: Annotated[
        bool, typer.Option("--save-crops", "--save-crop"), "Each box as an image in crops/."
    ] = False,
    output: Annotated[Path, "Folder for the results; in use, it gets -2, -3, ..."] = Path(
        "runs/predict"
    ),
    device: options.Device = None,
    runtime: options.Runtime = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        options.shown("fp32, or that of an exported file"),
        "Of the computation; only fp32 is as exact as the evaluation in training.",
    ] = None,
    threads: options.Threads = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
    as_json_lines: Annotated[
        bool, typer.Option("--jsonl"), "Print one line of JSON per image or frame at once."
    ] = False,
) -> None:
    """Find objects in images and videos, draw them, write them to files.

    [bold]Examples[/bold]

      ossa predict "photos/*.jpg" --weights yolov5n.pt --classes person,dog --save-txt

      ossa predict 0 --weights yolov5n.pt --no-pictures --jsonl

      ossa predict cells/images/val --weights best.safetensors --show-truth cells
    """
    from ossa.cli.console import Console
    from ossa.files import folder_of_results
    from ossa.predict import predictor as predicting
    from ossa.predict.sources import find_sources, read_frames
    from ossa.predict.writer import ResultFolder, SaveOptions, Window

    if as_json and as_json_lines:
        raise ConfigError(expected="--json or --jsonl", found="both")
    if (source is None) == (source_option is None):
        expected = "one picture, video, folder, pattern in quotes, camera number or stream address"
        raise ConfigError(expected=expected, found="none" if source is None else "two")
    named = source or source_option or ""
    sources = find_sources(named)
    wanted = SaveOptions(
        pictures, save_txt or save_conf, save_conf, save_json, save_csv, save_crops
    )
    outputs = Outputs(as_document=as_json, as_lines=as_json_lines)
    outputs.window = Window() if show else None
    device = options.choose_device_for(weights, device)
    options.set_threads(threads)
    with Console() as console, ExitStack() as ends:
        how: Any = {"runtime": runtime, "precision": precision, "threads": threads}
        predictor = predicting.load(weights, device, imgsz, **how, on_conversion=console.note)
        predictor.tiles = options.choose_tiles(tiles, overlap, predictor.tiles)
        if classes is not None:  # a text that is no name is split at its commas
            lists = [[text] if text in predictor.names else text.split(",") for text in classes]
            settings["classes"] = [name.strip() for names in lists for name in names]
        predictor.predict([], **settings)  # refuses a wrong setting before a folder is made
        _note_choices(weights, predictor, console, chosen="confidence" in settings)
        annotated = None
        if show_truth is not None:
            names = predictor.names if save_json else None
            annotated = _read_annotated(show_truth, sources, console, names=names)
        if any(wanted):
            place = ends.enter_context(folder_of_results(output))
            outputs.folder = ResultFolder(place, wanted, every=every, ground_truth=annotated)
        reports = {"on_warning": console.note, "on_unreadable": outputs.on_unreadable}
        frames = read_frames(sources, every=every, **reports)
        results = predicting.predict_frames(frames, predictor, batch=batch, **settings)
        started = time.perf_counter()
        with outputs:
            stopped = _write_all(results, sources, outputs, console)
        _note_cost(predictor, outputs, time.perf_counter() - started, console)
        if outputs.folder is not None and outputs.num_results:
            console.note(f"results in {outputs.folder.folder}")
    if not outputs.num_results and not stopped:
        raise RunFailed(f"nothing in {hide_credentials(named)} could be read")
    # A camera or stream has no other end than Ctrl-C, or its own.
    if stopped and sources[0].kind != "live":
        raise RunFailed(f"stopped before it was done, after {outputs.summary()}")


class Outputs:
    """Prints results, and hands them to a folder and a window; leaving the `with` ends these.

    On stdout they are one JSON document, one line each, or counts at the end. Each is printed as
    soon as it is known, and none is kept.
    """

    def __init__(self, *, as_document: bool, as_lines: bool) -> None:
        self.folder: ResultFolder | None = None
        self.window: Window | None = None
        self.sizes_wh: Counter[tuple[int, ...]] = Counter()
        self._as_document, self._as_lines = as_document, as_lines
        self._counts: Counter[str] = Counter()
        self._num_images = self._num_frames = self._num_unreadable = 0
        self._open = ExitStack()

    @property
    def num_results(self) -> int:
        """Number of images and frames so far."""
        return self._num_images + self._num_frames

    def __enter__(self) -> Self:
        if self.folder is not None:
            self._open.enter_context(self.folder)
        if self.window is not None:
            self._open.callback(self.window.close)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._open.close()
        if isinstance(error, BrokenPipeError) or not self.num_results:
            return
        if self._as_document:
            print_line()
            print_line("]")
        elif not self._as_lines:
            print_line(self.summary())

    def on_unreadable(self, source: "Source") -> None:
        """Counts a source that cannot be read."""
        self._num_unreadable += 1

    def add(self, frame: "Frame", found: "Results") -> bool:
        """Prints and hands on the results of an image; returns False once the user ends it."""
        from ossa.cli.console import plain

        if self._as_document or self._as_lines:
            text = json.dumps(plain(found.to_dict(**frame.location)))
            if self._as_document:
                text = (",\n" if self.num_results else "[\n") + text
            print(text, end="" if self._as_document else "\n", flush=True)  # noqa: T201 - JSON
        self._counts.update(found.names[label] for label in found.labels)
        self.sizes_wh[frame.image.shape[1::-1]] += 1
        self._num_images += frame.number is None
        self._num_frames += frame.number is not None
        drawing = None if self.folder is None else self.folder.add(frame, found)
        if self.window is None:
            return True
        drawing = found.draw() if drawing is None else drawing
        return self.window.show(drawing, wait=frame.number is None)

    def summary(self) -> str:
        """Returns '2 pictures (1 file unreadable): 3 person, 1 dog', the most frequent first."""
        if not self.num_results:
            return "nothing was looked at"
        kinds = ((self._num_images, "picture"), (self._num_frames, "frame"))
        counts = [f"{count} {kind}{'s' * (count > 1)}" for count, kind in kinds if count]
        names = [f"{count} {name}" for name, count in self._counts.most_common()]
        lost = self._num_unreadable
        missing = f" ({lost} {'files' if lost > 1 else 'file'} unreadable)" if lost else ""
        return f"{', '.join(counts)}{missing}: {', '.join(names) or 'nothing found'}"


def _write_all(
    results: "Generator[tuple[Frame, Results]]",
    sources: "Sequence[Source]",
    outputs: Outputs,
    console: "Console",
) -> bool:
    """Hands every result to the outputs; returns whether Ctrl-C came before the last."""
    from ossa.train.distributed import StopRequest

    positions = {source: number for number, source in enumerate(sources, start=1)}
    with StopRequest() as stop, console.progress("predicting") as on_frame, closing(results):
        for frame, found in results:
            wants_more = outputs.add(frame, found)
            if len(sources) == 1 and frame.number is not None and frame.video is not None:
                done = frame.number + 1
                on_frame(done, frame.video.num_frames or done)
            else:
                on_frame(positions[frame.source], len(sources))
            if stop.requested or not wants_more:
                break
    return stop.requested


def _note_cost(
    predictor: "Predictor", outputs: Outputs, seconds: float, console: "Console"
) -> None:
    """Prints how many windows an image has, and what it takes, where images are cut."""
    import numpy as np

    from ossa.data.tiles import num_windows

    count = outputs.sizes_wh.total()
    if predictor.tiles is None or not count:
        return
    sizes_wh = np.array(list(outputs.sizes_wh))
    windows = num_windows(sizes_wh, predictor.imgsz, predictor.tiles)
    mean = windows @ np.array(list(outputs.sizes_wh.values())) / count
    console.note(
        f"{predictor.tiles}: {mean:.1f} windows and {1000 * seconds / count:.1f} ms an image on "
        "average, with reading and writing"
    )


def _note_choices(
    weights: Path, predictor: "Predictor", console: "Console", *, chosen: bool
) -> None:
    """Prints a confidence that was not chosen, and whether a file resizes as its checkpoint."""
    if not chosen:
        console.note(f"detections from a score of {predictor.confidence:g}; --conf sets another")
    about = getattr(predictor.runtime, "description", None)
    if about is not None and not (about.rectangular or about.only_squares):
        console.note(
            f"{weights} sees squares of {about.imgsz} px, its checkpoint rectangles: of other "
            "pictures scores and boxes differ (ossa export says by how much; --dynamic size makes "
            "a file that sees rectangles)"
        )


def _read_annotated(
    data: str, sources: "Sequence[Source]", console: "Console", *, names: tuple[str, ...] | None
) -> "AnnotatedImages":
    """Returns the ground truth of a data set; prints its issues, and which images it lacks.

    Raises:
        ConfigError: its classes, and so their ids, are not `names`.
    """
    from ossa.predict.sources import read_annotated

    annotated = read_annotated(data)
    if names is not None and annotated.names != names:
        raise ConfigError(
            expected=f"the {len(names)} classes of the detector for --save-json",
            found=f"{len(annotated.names)} others",
            path=data,
            advice="leave --save-json or --show-truth out",
        )
    console.issues(annotated.issues)
    images = [Path(str(source.address)) for source in sources if source.kind == "image"]
    others = [image for image in images if annotated.find(image) is None]
    if others:
        console.note(
            f"{len(others)} of {len(images)} pictures are in no split of {data}, so that no "
            f"ground truth is shown with them and predictions.json lacks them: {others[0]}"
            + (", ..." if len(others) > 1 else "")
        )
    return annotated
