"""The options of `ossa train`. They set nothing themselves: see `ossa.cli.train`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ossa.cli.options import BATCH_NAMES, IMGSZ_NAMES, NeckScale

_MODEL = "What is trained"
_HOW = "How it is trained"
_WHERE = "Where it is written"


def _refuse_to_overwrite(wanted: bool) -> None:
    if wanted:
        raise typer.BadParameter(
            "not supported: a run never overwrites another; where the name exists the folder "
            "becomes NAME-2, and --resume FOLDER goes on with a run"
        )


Data = Annotated[
    str | None,
    typer.Option(
        help="A data.yaml, or the folder that holds one.", metavar="PATH", show_default=False
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "--cfg",
        metavar="NAME",
        help="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x, or any timm architecture. "
        "That of --weights where left out.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Neck = Annotated[
    NeckScale | None,
    typer.Option(
        help="Scale of the neck behind a backbone; s where left out. Presets bring their own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Context = Annotated[
    Literal["none", "sppf"] | None,
    typer.Option(
        "--context",
        help="sppf puts YOLOv5's pooling pyramid behind the backbone.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        help="Start the backbone from timm's weights (from the hub or its cache).",
        rich_help_panel=_MODEL,
    ),
]
BackboneWeights = Annotated[
    str | None,
    typer.Option(
        help="Start the backbone from a safetensors file with timm's key names.",
        metavar="FILE",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
BackboneMean = Annotated[
    str | None,
    typer.Option(
        help="Input mean of these weights, such as 0.5,0.5,0.5.",
        metavar="R,G,B",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
BackboneStd = Annotated[
    str | None,
    typer.Option(
        help="Their input deviation.",
        metavar="R,G,B",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
BackboneArgs = Annotated[
    str | None,
    typer.Option(
        help="""Arguments of timm's constructor, such as '{"pad_type": "same"}'.""",
        metavar="JSON",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Strides = Annotated[
    str | None,
    typer.Option(
        help="Of the levels, in pixels: 4,8,16,32 adds a fine one for small objects (with "
        "--fit-anchors).",
        metavar="S,S,...",
        rich_help_panel=_MODEL,
        show_default="8,16,32",
    ),
]
FitAnchors = Annotated[
    bool,
    typer.Option(
        "--fit-anchors",
        help="Fit the anchors to the training boxes; the configuration records them.",
        rich_help_panel=_MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Start from a whole detector: a checkpoint of ossa, or an official yolov5*.pt. "
        "'' for none.",
        metavar="FILE",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "--hyp",
        metavar="NAME",
        help="yolov5-low (the default, for every model), yolov5-high (YOLOv5's own for m, l "
        "and x), adamw, quick, yolov5-voc320, yolov5-voc320-onecycle, convnext-coco50, or a YAML "
        "file.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Imgsz = Annotated[
    int | None,
    typer.Option(
        *IMGSZ_NAMES,
        metavar="PIXELS",
        help="Side of the square input in pixels.",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        *BATCH_NAMES,
        metavar="N",
        help="Images in one forward, over all processes; auto for as many as a GPU has room for.",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=_HOW, show_default="the recipe's")
]
Seed = Annotated[
    int | None,
    typer.Option(help="Of everything random.", metavar="N", rich_help_panel=_HOW, show_default="0"),
]
Optimizer = Annotated[
    Literal["sgd", "adamw"] | None,
    typer.Option(
        help="sgd or adamw; mind that the learning rate stays the recipe's.",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
CosLr = Annotated[
    bool,
    typer.Option("--cos-lr", help="Lower the learning rate along a cosine.", rich_help_panel=_HOW),
]
Patience = Annotated[
    int | None,
    typer.Option(
        help="Epochs without a better AP after which to stop.",
        metavar="N",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
Freeze = Annotated[
    str | None,
    typer.Option(
        help="Modules that stay as they are, weights and batch norms: backbone, "
        "or backbone.stem,backbone.stages.0 and the like.",
        metavar="MODULE,...",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        help="bf16 computes the network under autocast; weights and losses stay fp32.",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="torch.compile the network and losses.", rich_help_panel=_HOW),
]
SyncBn = Annotated[
    bool,
    typer.Option(
        "--sync-bn",
        help="Batch norm statistics over the GPUs of all processes (torchrun).",
        rich_help_panel=_HOW,
    ),
]
OnNan = Annotated[
    Literal["stop", "skip"] | None,
    typer.Option(
        "--on-nan",
        help="What follows losses or gradients that are not finite.",
        rich_help_panel=_HOW,
        show_default="the recipe's",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting, such as train.lr=0.005; may be repeated, and has the last word.",
        metavar="KEY=VALUE",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Stop at the first fault of the data instead of leaving it out.",
        rich_help_panel=_HOW,
    ),
]
AllowUnlabeled = Annotated[
    bool,
    typer.Option(
        "--allow-unlabeled",
        help="Train also where more than half of the training images have no label.",
        rich_help_panel=_HOW,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Folder of the run; NAME-2 and so on where it exists.",
        metavar="NAME",
        rich_help_panel=_WHERE,
        show_default="the model's name",
    ),
]
Project = Annotated[
    Path | None,
    typer.Option(
        help="Folder of runs.", metavar="FOLDER", rich_help_panel=_WHERE, show_default="runs"
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Go on with the run in this folder, exactly as if it had not stopped.",
        metavar="FOLDER",
        rich_help_panel=_WHERE,
        show_default=False,
    ),
]
SaveMinutes = Annotated[
    float | None,
    typer.Option(
        "--save-minutes",
        min=0.0,
        help="The state is saved so often within an epoch, and at its end once a minute.",
        metavar="M",
        rich_help_panel=_WHERE,
        show_default="15",
    ),
]
NoFigures = Annotated[
    bool,
    typer.Option(
        "--no-figures",
        help="Leave out the folder 'figures' with curves, pictures and confusions.",
        rich_help_panel=_WHERE,
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help="Also log to comet, tensorboard or wandb: settings, every epoch, figures. Comet and "
        "wandb write files into the run's folder where there is no key or no network.",
        metavar="NAME,...",
        rich_help_panel=_WHERE,
        show_default=False,
    ),
]
TrackWeights = Annotated[
    bool,
    typer.Option(
        "--track-weights",
        help="Upload best.safetensors to comet and wandb when the run is over.",
        rich_help_panel=_WHERE,
    ),
]
TrackProject = Annotated[
    str | None,
    typer.Option(
        "--track-project",
        help="Project of comet and wandb.",
        metavar="NAME",
        rich_help_panel=_WHERE,
        show_default="their environment's",
    ),
]
ExistOk = Annotated[bool, typer.Option("--exist-ok", hidden=True, callback=_refuse_to_overwrite)]
