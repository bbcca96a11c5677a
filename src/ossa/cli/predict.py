"""`ossa predict`: find objects in pictures, draw them, write them to files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossa.cli import options
from ossa.errors import ConfigError

if TYPE_CHECKING:
    from ossa.cli.console import Console
    from ossa.predict.predictor import Predictor
    from ossa.predict.sources import AnnotatedPictures, PictureFile
    from ossa.predict.writers import ResultFolder

_FILES_PANEL = "What is written"


def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PICTURES",
            help="A picture, a folder (with its subfolders), or a pattern in quotes.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            help="A checkpoint of ossa, or an official yolov5*.pt.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    imgsz: Annotated[
        int | None,
        typer.Option(
            *options.IMGSZ_NAMES,
            metavar="PIXELS",
            help="Longer side of the network input in pixels.",
            show_default="that of the training",
        ),
    ] = None,
    conf: Annotated[
        float | None,
        typer.Option(
            "--conf",
            "--conf-thres",
            min=0,
            max=1,
            help="Leave out detections with a lower score.",
            show_default="that of the best F1 in training; 0.25 where the file has none",
        ),
    ] = None,
    iou: Annotated[
        float,
        typer.Option(
            "--iou",
            "--iou-thres",
            min=0,
            max=1,
            help="Of two boxes of a class that overlap more, one stays.",
        ),
    ] = 0.45,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Look for these only: names or numbers, with commas or the option repeated.",
            show_default=False,
        ),
    ] = None,
    max_det: Annotated[int, typer.Option(min=1, help="Most detections of an image.")] = 300,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures/--no-pictures",
            help="Annotated pictures, under the names of the originals.",
            rich_help_panel=_FILES_PANEL,
        ),
    ] = True,
    show_truth: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A data set (data.yaml or its folder) whose boxes are drawn below the detections.",
            rich_help_panel=_FILES_PANEL,
            show_default=False,
        ),
    ] = None,
    save_txt: Annotated[
        bool,
        typer.Option("--save-txt", help="YOLO txt in labels/.", rich_help_panel=_FILES_PANEL),
    ] = False,
    save_conf: Annotated[
        bool,
        typer.Option(
            "--save-conf",
            help="YOLO txt with the score as a sixth column.",
            rich_help_panel=_FILES_PANEL,
        ),
    ] = False,
    save_json: Annotated[
        bool,
        typer.Option(
            "--save-json",
            help="predictions.json, a COCO results file: with the ids of the data set of "
            "--show-truth, else with pictures counted from 1 and classes from 0.",
            rich_help_panel=_FILES_PANEL,
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the results; where it is in use, the first free of -2, -3, ...",
            rich_help_panel=_FILES_PANEL,
        ),
    ] = Path("runs/predict"),
    device: options.Device = None,
    as_json: options.AsJson = False,
) -> None:
    """Find objects in pictures, draw them, write them to files.

    [bold]Examples[/bold]

      ossa predict photos --weights runs/yolov5n/best.safetensors

      ossa predict "photos/*.jpg" --weights yolov5n.pt --classes person,dog --save-txt

      ossa predict cells/images/val --weights best.safetensors --show-truth cells
    """
    from ossa.cli.console import Console
    from ossa.cli.output import print_json
    from ossa.errors import RunFailed
    from ossa.files import new_folder
    from ossa.predict.predictor import load
    from ossa.predict.sources import find_pictures
    from ossa.predict.writers import ResultFolder

    found = find_pictures(source)
    predictor = load(weights, options.choose_device(device), imgsz)
    settings = {
        "confidence": conf,
        "nms_iou": iou,
        "classes": _class_list(classes, predictor),
        "max_detections": max_det,
    }
    predictor.predict([], **settings)  # refuses a wrong setting before a folder is made
    folder = None
    with Console() as console:
        if conf is None:
            console.note(
                f"detections from a score of {predictor.confidence:g}; --conf sets another"
            )
        truth = _read_truth(show_truth, found, console) if show_truth else None
        if save_json and truth is not None:
            _check_classes(truth, predictor, show_truth)
        if pictures or save_txt or save_conf or save_json:
            folder = ResultFolder(
                new_folder(output),
                predictor,
                drawings=pictures,
                label_files=save_txt or save_conf,
                scores_in_label_files=save_conf,
                coco_file=save_json,
                truth=truth,
            )
        results = _predict_each(found, predictor, settings, folder=folder, console=console)
        if not results:
            raise RunFailed(f"none of the {len(found)} pictures in {source} could be read")
        if folder is not None:
            folder.finish()
            console.note(f"results in {folder.folder}")
    if as_json:
        print_json(results)
    else:
        print(_summary(results))


def _class_list(texts: list[str] | None, predictor: "Predictor") -> list[str] | None:
    """Returns the classes of all options; a text that is no name is split at its commas."""
    if texts is None:
        return None
    lists = [[text] if text in predictor.names else text.split(",") for text in texts]
    return [name.strip() for names in lists for name in names]


def _read_truth(
    data: str, pictures: "Sequence[PictureFile]", console: "Console"
) -> "AnnotatedPictures":
    """Returns what a data set knows, having told of its faults and of pictures it lacks."""
    from ossa.predict.sources import read_annotated

    truth = read_annotated(data)
    console.problems(truth.problems)
    strangers = [picture.file for picture in pictures if truth.find(picture.file) is None]
    if strangers:
        console.note(
            f"{len(strangers)} of {len(pictures)} pictures are in no split of {data}, so that no "
            f"truth is shown with them and predictions.json lacks them: {strangers[0]}"
            + (", ..." if len(strangers) > 1 else "")
        )
    return truth


def _check_classes(truth: "AnnotatedPictures", predictor: "Predictor", data: str | None) -> None:
    """Raises ConfigError unless detections can be stated by the ids of the data set's classes."""
    if truth.names != predictor.names:
        raise ConfigError(
            f"--save-json states the ids of {data}, but its {len(truth.names)} classes are not "
            f"the {len(predictor.names)} of the detector: leave --save-json or --show-truth out"
        )


def _predict_each(
    pictures: "Sequence[PictureFile]",
    predictor: "Predictor",
    settings: dict[str, Any],
    *,
    folder: "ResultFolder | None",
    console: "Console",
) -> list[dict[str, Any]]:
    """Returns what was found in each picture that can be read, and tells of those that cannot."""
    from ossa.data.decode import decode_image
    from ossa.errors import DataError
    from ossa.predict.writers import picture_result

    results = []
    with console.progress("predicting") as on_picture:
        for number, picture in enumerate(pictures, start=1):
            try:
                image = decode_image(picture.file)
            except DataError as fault:
                console.note(str(fault))
            else:
                detections = predictor.predict(image, **settings)
                if folder is not None:
                    folder.add(picture, image, detections)
                size_wh = (image.shape[1], image.shape[0])
                results.append(
                    picture_result(picture.file, size_wh, detections, names=predictor.names)
                )
            on_picture(number, len(pictures))
    return results


def _summary(results: Sequence[dict[str, Any]]) -> str:
    """Returns '2 pictures: 3 person, 1 dog', the most frequent class first."""
    names = (found["name"] for result in results for found in result["detections"])
    counts = [f"{count} {name}" for name, count in Counter(names).most_common()]
    pictures = "1 picture" if len(results) == 1 else f"{len(results)} pictures"
    return f"{pictures}: {', '.join(counts) or 'nothing found'}"
