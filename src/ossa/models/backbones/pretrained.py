"""What timm says of its pretrained weights: their licence, their data and their input.

Nothing is fetched: timm knows the tags without the weights.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm

COMMERCIAL_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"})
"""Those that allow commercial use of the weights to everybody.

A maker's own licence (`dinov3-license`, `apple-ascl`, `gemma`) may allow it too, on conditions that
have to be read, and so is not among them.
"""

_DATA = re.compile(
    r"""(?<![^_])(
    in1k | in12k | in21k | in22k | inw21k          # ImageNet, its parts and its winter edition
    | jft | ig1b | yfcc15m | yfcc100m | cc12m | bamboo
    | laion2b | laion400m | laiona | openai | webli | datacomp1b | datacompxl
    | dfn2b | dfn5b | dfndr2b | merged2b | m30m | m38m
    | metaclip2?_(?:400m | 2pt5b | worldwide | altogether)
    | lvd142m | lvd1689m | sat493m | sa1b
    )(?![^_])""",
    re.VERBOSE,
)
"""The words of timm's tags that name data."""


@dataclass(frozen=True)
class PretrainedTag:
    """One set of weights that timm has for an architecture."""

    tag: str
    """Behind the dot of the model's name: `fb_in22k_ft_in1k`."""
    licence: str | None
    """As timm writes it; None where it does not know."""
    data: tuple[str, ...]
    """Data sets it was trained on, first to last, as far as the tag tells."""
    input_size: tuple[int, int]
    """Height and width in pixels of the images it was trained on."""
    mean: tuple[float, ...]
    """(3,) of the input in 0..1."""
    std: tuple[float, ...]
    """(3,) of the input in 0..1."""

    @property
    def commercial(self) -> bool:
        return self.licence in COMMERCIAL_LICENCES

    def flat(self) -> dict[str, Any]:
        """Returns plain keys; undefined is None."""
        return {
            "tag": self.tag,
            "licence": self.licence,
            "commercial": self.commercial,
            "data": list(self.data) or None,
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
        }


def pretrained_tags() -> Mapping[str, list[PretrainedTag]]:
    """Returns the tags of every architecture that has any, in timm's order."""
    tags: dict[str, list[PretrainedTag]] = defaultdict(list)
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        config = timm.get_pretrained_cfg(name)
        assert config is not None
        tags[architecture].append(
            PretrainedTag(
                tag,
                licence=None if config.license == "unknown" else config.license,
                data=pretraining_data(tag),
                input_size=config.input_size[1:],
                mean=tuple(config.mean),
                std=tuple(config.std),
            )
        )
    return dict(tags)


def pretraining_data(tag: str) -> tuple[str, ...]:
    """Returns the data sets that a tag names: in22k, in1k for `fb_in22k_ft_in1k`.

    The words are timm's: in1k is ImageNet-1k, lvd142m the data of DINOv2, openai that of CLIP.
    Empty where the tag names none (`mae`, `seer`).
    """
    return tuple(dict.fromkeys(_DATA.findall(tag)))
