"""The options of `ossa predict`. They do nothing themselves: see `ossa.cli.predict`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ossa.cli.options import BATCH_NAMES, IMGSZ_NAMES

_VIDEOS = "Videos, cameras and streams"
_FILES = "What is written"
_MACHINE = "Machine and output"

SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="A picture or video, a folder (with its subfolders), a .txt list of them, a pattern "
        "in quotes, the number of a camera, or the address of a stream (rtsp://, http://, ...).",
        show_default=False,
    ),
]
SourceOption = Annotated[str | None, typer.Option("--source", hidden=True)]
"""As YOLOv5 names it."""
Weights = Annotated[
    Path,
    typer.Option(
        help="A checkpoint of ossa, an official yolov5*.pt, or an exported file.",
        metavar="FILE",
        show_default=False,
    ),
]
ImgSize = Annotated[
    int | None,
    typer.Option(
        *IMGSZ_NAMES,
        metavar="PIXELS",
        help="Longer side of the network input in pixels.",
        show_default="that of the training",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--conf",
        "--conf-thres",
        min=0,
        max=1,
        help="Leave out detections with a lower score.",
        show_default="that of the best F1 in training; 0.25 where the file has none",
    ),
]
NmsIou = Annotated[
    float | None,
    typer.Option(
        "--iou",
        "--iou-thres",
        min=0,
        max=1,
        help="Of two boxes of a class that overlap more, one stays.",
        show_default="0.45",
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,...",
        help="Look for these only: names or numbers, with commas or the option repeated.",
        show_default=False,
    ),
]
MostDetections = Annotated[
    int, typer.Option(min=1, max=100_000, help="Most detections of an image.")
]
Batch = Annotated[
    int,
    typer.Option(
        *BATCH_NAMES,
        min=1,
        max=65_536,
        help="Pictures that go through the network together, where their sizes allow it.",
    ),
]
Every = Annotated[
    int,
    typer.Option(
        "--every",
        "--vid-stride",
        min=1,
        metavar="N",
        help="Look at every Nth frame; the length of the annotated video stays.",
        rich_help_panel=_VIDEOS,
    ),
]
Show = Annotated[
    bool,
    typer.Option(
        "--show",
        "--view-img",
        help="Show them in a window, too: q ends; pictures of files wait for a key.",
        rich_help_panel=_VIDEOS,
    ),
]
Pictures = Annotated[
    bool,
    typer.Option(
        "--pictures/--no-pictures",
        " /--nosave",
        help="Annotated pictures, under the names of the originals, and videos (.webm).",
        rich_help_panel=_FILES,
    ),
]
ShowTruth = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="A data set (data.yaml or its folder) whose boxes are drawn below the detections.",
        rich_help_panel=_FILES,
        show_default=False,
    ),
]
SaveTxt = Annotated[
    bool, typer.Option("--save-txt", help="YOLO txt in labels/.", rich_help_panel=_FILES)
]
SaveConf = Annotated[
    bool,
    typer.Option(
        "--save-conf",
        help="YOLO txt with the score as a sixth column.",
        rich_help_panel=_FILES,
    ),
]
SaveJson = Annotated[
    bool,
    typer.Option(
        "--save-json",
        help="predictions.json, a COCO results file: with the ids of the data set of "
        "--show-truth, else with pictures counted from 1 and classes from 0.",
        rich_help_panel=_FILES,
    ),
]
SaveCsv = Annotated[
    bool,
    typer.Option("--save-csv", help="predictions.csv, a row a detection.", rich_help_panel=_FILES),
]
SaveCrops = Annotated[
    bool,
    typer.Option(
        "--save-crops",
        "--save-crop",
        help="What is in each box, as a picture in crops/, a folder a class.",
        rich_help_panel=_FILES,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        help="Folder for the results; where it is in use, the first free of -2, -3, ...",
        rich_help_panel=_FILES,
    ),
]
Runtime = Annotated[
    Literal["auto", "torch", "onnxruntime", "openvino"],
    typer.Option(
        help="What runs the network. auto takes the fastest that is installed and knows every "
        "operator: OpenVINO, then ONNX Runtime (fp32) on a CPU, else PyTorch.",
        rich_help_panel=_MACHINE,
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        help="Of the computation; only fp32 is as exact as the evaluation in training.",
        rich_help_panel=_MACHINE,
        show_default="fp32, or that of an exported file",
    ),
]
AsJsonLines = Annotated[
    bool,
    typer.Option(
        "--jsonl",
        help="Print one JSON object a picture or frame on stdout, a line each, as soon as it is "
        "known.",
        rich_help_panel=_MACHINE,
    ),
]
