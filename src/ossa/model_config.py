"""The section `model` of a configuration: backbone, neck, head and initial weights."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from ossa.backbone_args import BackboneArgs, Numbers3, PositiveNumbers3
from ossa.schema import Section

_AnchorsOfLevel = Annotated[tuple[tuple[float, float], ...], Field(max_length=64, fail_fast=True)]
_Anchors = Annotated[tuple[_AnchorsOfLevel, ...], Field(max_length=8, fail_fast=True)]


class ModelConfig(Section):
    """Which detector is built, and from which weights it starts."""

    name: str = Field(
        max_length=200,
        pattern=r"^\w[\w.+-]*$",
        description="yolov5n to yolov5x, cspdarknet_n to cspdarknet_x (or "
        "cspdarknet-w0.375-d0.33), or any timm architecture.",
    )
    neck: Literal["own", "n", "s", "m", "l", "x"] = Field(
        default="s", description="Scale of YOLOv5's neck; presets bring their own."
    )
    neck_type: Literal["pafpn", "fpn", "bifpn", "none"] = Field(
        default="pafpn",
        description="How the levels are fused: pafpn is YOLOv5's; fpn and bifpn have the width of "
        "the finest level at all levels; none fuses nothing.",
    )
    context: Literal["none", "sppf"] = Field(
        default="none",
        description="sppf puts YOLOv5's pooling pyramid behind the coarsest lateral of the neck.",
    )
    strides: tuple[PositiveInt, ...] = Field(
        default=(8, 16, 32),
        min_length=1,
        max_length=8,
        fail_fast=True,
        description="Strides of the levels in pixels; 4,8,16,32 adds a fine one for small objects.",
    )
    anchors_wh: _Anchors | None = Field(
        default=None,
        description="Anchors per level, in pixels of the network input; YOLOv5's by default.",
    )
    head: Literal["anchor", "dense"] = Field(
        default="anchor",
        description="anchor is YOLOv5's; dense has no anchors and assigns by task alignment.",
    )
    reg_max: int = Field(
        default=16,
        ge=1,
        le=64,
        description="dense only: bins of a distance's distribution; 1 for a plain number.",
    )
    end_to_end: bool = Field(
        default=False,
        description="dense only: also train a one-to-one branch, which detects without NMS.",
    )
    pretrained: bool = Field(
        default=False,
        description="Start the backbone from timm's weights (from the hub or its cache).",
    )
    backbone_weights: str | None = Field(
        default=None,
        description="Start the backbone from a safetensors file with timm's key names.",
    )
    backbone_mean: Numbers3 | None = Field(
        default=None, description="Input mean of the backbone's weights, such as 0.5,0.5,0.5."
    )
    backbone_std: PositiveNumbers3 | None = Field(
        default=None, description="Input standard deviation of the backbone's weights."
    )
    backbone_args: BackboneArgs | None = Field(
        default=None,
        description="Arguments of timm's constructor; by default those in the weights' metadata.",
    )
    drop_path: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="timm's drop_path_rate, over the one in backbone_args.",
    )
    weights: str | None = Field(
        default=None,
        description="Start from a whole detector: a checkpoint, or an official yolov5*.pt.",
    )
    equal_conditions: bool = Field(
        default=False,
        description="Set by the plan of a study: a lateral at every level, no SPPF in CSPDarknet, "
        "and the same initial neck and head for every backbone of a seed.",
    )
