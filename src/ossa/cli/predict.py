"""`ossa predict`: find objects in pictures and videos, draw them, write them to files."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from ossa.cli import options
from ossa.cli import predict_options as said
from ossa.cli.command import command
from ossa.errors import ConfigError, RunFailed
from ossa.escaping import hide_credentials

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.cli.predict_output import Outputs, Stdout
    from ossa.predict.predictor import Predictor
    from ossa.predict.results import Results
    from ossa.predict.sources import AnnotatedImages, Frame, Source


@command()
def predict(
    source: said.SourceArgument = None,
    *,
    source_option: said.SourceOption = None,
    weights: said.Weights,
    imgsz: said.ImgSize = None,
    conf: said.Confidence = None,
    iou: said.NmsIou = None,
    classes: said.Classes = None,
    max_det: said.MostDetections = 300,
    batch: said.Batch = 1,
    every: said.Every = 1,
    show: said.Show = False,
    pictures: said.Pictures = True,
    show_truth: said.ShowTruth = None,
    save_txt: said.SaveTxt = False,
    save_conf: said.SaveConf = False,
    save_json: said.SaveJson = False,
    save_csv: said.SaveCsv = False,
    save_crops: said.SaveCrops = False,
    output: said.Output = Path("runs/predict"),
    device: options.Device = None,
    runtime: said.Runtime = "auto",
    precision: said.Precision = None,
    allow_outside: options.AllowOutside = False,
    as_json: options.AsJson = False,
    as_json_lines: said.AsJsonLines = False,
) -> None:
    """Find objects in pictures and videos, draw them, write them to files.

    [bold]Examples[/bold]

      ossa predict photos --weights runs/yolov5n/best.safetensors

      ossa predict "photos/*.jpg" --weights yolov5n.pt --classes person,dog --save-txt

      ossa predict street.mp4 --weights yolov5n.pt --every 2 --save-csv

      ossa predict 0 --weights yolov5n.pt --no-pictures --jsonl

      ossa predict cells/images/val --weights best.safetensors --show-truth cells
    """
    from ossa.cli.console import Console
    from ossa.cli.predict_output import Outputs, Stdout
    from ossa.files import folder_of_results
    from ossa.predict.predictor import load, predict_frames
    from ossa.predict.sources import find_sources, read_frames
    from ossa.predict.writer import ResultFolder, SaveOptions, Window

    if as_json and as_json_lines:
        raise ConfigError("--json prints one document, --jsonl a line a picture: choose one")
    stdout = Stdout(as_document=as_json, as_lines=as_json_lines)
    named = _one_source(source, source_option)
    sources = find_sources(named)
    window = Window() if show else None
    device = options.choose_device_for(weights, device)
    wanted = SaveOptions(
        pictures, save_txt or save_conf, save_conf, save_json, save_csv, save_crops
    )
    with Console() as console, ExitStack() as ends:
        predictor = load(
            weights, device, imgsz, runtime=runtime, precision=precision, on_conversion=console.note
        )
        settings = {
            "confidence": conf,
            "nms_iou": iou,
            "classes": _class_list(classes, predictor),
            "max_detections": max_det,
        }
        predictor.predict([], **settings)  # refuses a wrong setting before a folder is made
        _note_choices(weights, predictor, conf, console)
        truth = _read_truth(show_truth, sources, console) if show_truth else None
        if save_json and truth is not None:
            _check_classes(truth, predictor, show_truth)
        folder = None
        if any(wanted):
            place = ends.enter_context(folder_of_results(output))
            folder = ResultFolder(place, wanted, every=every, ground_truth=truth)
        frames = read_frames(
            sources, every=every, on_warning=console.note, on_unreadable=stdout.lose
        )
        answers = predict_frames(frames, predictor, batch=batch, **settings)
        with Outputs(stdout, folder, window) as outputs:
            stopped = _take_each(answers, sources, outputs, console)
        if folder is not None and stdout.num_shots:
            console.note(f"results in {folder.folder}")
    _check_end(stdout, sources, named, stopped=stopped)


def _note_choices(
    weights: Path, predictor: "Predictor", conf: float | None, console: "Console"
) -> None:
    """Says which confidence counts, and whether a file sees something else than its checkpoint."""
    if conf is None:
        console.note(f"detections from a score of {predictor.confidence:g}; --conf sets another")
    about = getattr(predictor.runtime, "description", None)
    if about is not None and not (about.rectangular or about.only_squares):
        console.note(
            f"{weights} sees squares of {about.imgsz} px, its checkpoint rectangles: of other "
            "pictures scores and boxes differ (ossa export says by how much; --dynamic size makes "
            "a file that sees rectangles)"
        )


def _one_source(argument: str | None, option: str | None) -> str:
    if (argument is None) == (option is None):
        raise ConfigError(
            "expected one source (a picture, a video, a folder, a pattern in quotes, the number of "
            f"a camera or the address of a stream), found {'none' if option is None else 'two'}"
        )
    return argument or option or ""


def _class_list(texts: list[str] | None, predictor: "Predictor") -> list[str] | None:
    """Returns the classes of all options; a text that is no name is split at its commas."""
    if texts is None:
        return None
    lists = [[text] if text in predictor.names else text.split(",") for text in texts]
    return [name.strip() for names in lists for name in names]


def _read_truth(data: str, sources: "Sequence[Source]", console: "Console") -> "AnnotatedImages":
    """Returns what a data set knows, having told of its faults and of pictures it lacks."""
    from ossa.predict.sources import read_annotated

    truth = read_annotated(data)
    console.issues(truth.issues)
    pictures = [Path(source.address) for source in sources if source.kind == "image"]
    strangers = [picture for picture in pictures if truth.find(picture) is None]
    if strangers:
        console.note(
            f"{len(strangers)} of {len(pictures)} pictures are in no split of {data}, so that no "
            f"truth is shown with them and predictions.json lacks them: {strangers[0]}"
            + (", ..." if len(strangers) > 1 else "")
        )
    return truth


def _check_classes(truth: "AnnotatedImages", predictor: "Predictor", data: str | None) -> None:
    """Raises ConfigError unless detections can be stated by the ids of the data set's classes."""
    if truth.names != predictor.names:
        raise ConfigError(
            f"--save-json states the ids of {data}, but its {len(truth.names)} classes are not "
            f"the {len(predictor.names)} of the detector: leave --save-json or --show-truth out"
        )


def _take_each(
    answers: "Generator[tuple[Frame, Results]]",
    sources: "Sequence[Source]",
    outputs: "Outputs",
    console: "Console",
) -> bool:
    """Hands every answer to the outputs; returns whether Ctrl-C came before the last."""
    from ossa.train.distributed import StopRequest

    positions = {source: number for number, source in enumerate(sources, start=1)}
    with StopRequest() as stop, console.progress("predicting") as on_shot, closing(answers):
        for frame, found in answers:
            wants_more = outputs.add(frame, found)
            if len(sources) == 1 and frame.number is not None and frame.video is not None:
                done = frame.number + 1
                on_shot(done, frame.video.num_frames or done)
            else:
                on_shot(positions[frame.source], len(sources))
            if stop.requested or not wants_more:
                break
    return stop.requested


def _check_end(stdout: "Stdout", sources: "Sequence[Source]", named: str, *, stopped: bool) -> None:
    """Raises RunFailed if there is no result, or not all of them.

    A camera or stream has no other end than Ctrl-C, or its own.
    """
    if not stdout.num_shots and not stopped:
        raise RunFailed(f"nothing in {hide_credentials(named)} could be read")
    if stopped and sources[0].kind != "live":
        raise RunFailed(f"stopped before it was done, after {stdout.summary()}")
