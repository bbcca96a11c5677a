"""Which arguments of timm's constructors may be given, by an option or in a file."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveFloat
from typing_extensions import TypedDict  # pydantic takes that of Python itself from 3.12 on

Numbers3 = tuple[float, float, float]
PositiveNumbers3 = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
_Rate = Annotated[float, Field(ge=0, lt=1)]
MAX_IMGSZ = 4096
"""Side of the largest square input in pixels: tables of relative positions grow with its square."""
_Side = Annotated[int, Field(ge=1, le=MAX_IMGSZ)]


class BackboneArgs(TypedDict, total=False):
    """Arguments of timm's constructors that may be given, by an option or in a file.

    Everything else that `timm.create_model` takes is refused by its name: a checkpoint may come
    from anyone, and some of its arguments name files, folders and addresses, others any size.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[misc]

    num_classes: Annotated[int, Field(ge=0, le=100_000)]
    """Of the classifier, which a detector has no use for."""
    in_chans: Literal[3]
    img_size: _Side | tuple[_Side, _Side]
    """Side, or height and width, in pixels."""
    patch_size: Annotated[int, Field(ge=1, le=128)]
    window_size: _Side | tuple[_Side, _Side]
    pad_type: Literal["", "same", "valid"]
    output_stride: Literal[8, 16, 32]
    global_pool: Literal["", "avg", "max", "avgmax", "catavgmax", "fast", "token", "map"]
    drop_rate: _Rate
    drop_path_rate: _Rate
    drop_block_rate: _Rate
    proj_drop_rate: _Rate
    attn_drop_rate: _Rate
    pos_drop_rate: _Rate
    embed_dim: Annotated[int, Field(ge=1, le=8192)]
    depth: Annotated[int, Field(ge=1, le=128)]
    num_heads: Annotated[int, Field(ge=1, le=128)]
    mlp_ratio: Annotated[float, Field(gt=0, le=16)]
    init_values: float
    ls_init_value: float
    reg_tokens: Annotated[int, Field(ge=0, le=64)]
    class_token: bool
    no_embed_class: bool
    qkv_bias: bool
    qk_norm: bool
    dynamic_img_size: bool
    dynamic_img_pad: bool
    strict_img_size: bool
