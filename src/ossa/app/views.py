"""HTML of what was found: boxes on pictures side by side, differences in words, times.

Boxes are elements over the picture, not pixels in it: their labels keep one size on any screen,
and a threshold that moves sends no picture again. All text from files and models is escaped.
"""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from ossa.app.compare import Comparison
from ossa.app.models import Seen
from ossa.data.decode import decode_image
from ossa.viz.draw import BOX_COLOURS, encode_jpeg

_SHOWN_SIDE: Final = 1280
"""Longer side in pixels of the picture that a browser gets."""
_MOST_PICTURES: Final = 32
_MOST_LABELLED: Final = 40
"""Boxes of one picture that carry a label: more would hide what they name."""
_STAGES: Final = ("read", "prepare", "network", "decode", "suppress")


@lru_cache(maxsize=_MOST_PICTURES)
def shown_picture(file: Path) -> bytes:
    """Returns a picture as a JPEG that is small enough for a screen."""
    image = decode_image(file)
    ratio = _SHOWN_SIDE / max(image.shape[:2])
    if ratio < 1:
        size_wh = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
        image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return encode_jpeg(image)


def side_by_side(
    comparison: Comparison,
    picture: str,
    size_wh: tuple[int, int],
    *,
    names: Sequence[str],
    abouts: Sequence[str],
) -> str:
    """Returns a figure a model: the picture, its boxes, and how many there are.

    Args:
        comparison: of the models shown.
        picture: its address.
        size_wh: its width and height in pixels.
        names: of the classes of all models, whose order decides the colours.
        abouts: a line on each model.
    """
    figures = []
    for number, (answer, about) in enumerate(zip(comparison.answers, abouts, strict=True)):
        count = len(answer.detections)
        figures.append(
            f'<figure class="ossa-view"><figcaption><b>{escape(answer.title)}</b>'
            f'<span class="ossa-count">{count} found</span><small>{escape(about)}</small>'
            f'</figcaption><div class="ossa-frame"><img src="{picture}" '
            f'width="{size_wh[0]}" height="{size_wh[1]}" alt="the picture, with {count} boxes">'
            f"{_boxes(comparison, number, size_wh, names)}</div></figure>"
        )
    return f'<div class="ossa-views">{"".join(figures)}</div>'


def _boxes(
    comparison: Comparison, number: int, size_wh: tuple[int, int], names: Sequence[str]
) -> str:
    answer = comparison.answers[number]
    found = answer.detections
    rows = zip(
        found.boxes_xyxy.tolist(),
        found.scores.tolist(),
        found.labels.tolist(),
        comparison.missed_by[number],
        strict=True,
    )
    drawn = []
    for rank, (box, score, label, missed_by) in enumerate(rows):
        left, top, right, bottom = box
        name = answer.names[label]
        lacking = ", ".join(comparison.answers[other].title for other in missed_by)
        tip = f"{name} {score:.2f}" + (f", missed by {lacking}" if lacking else "")
        red, green, blue = BOX_COLOURS[names.index(name) % len(BOX_COLOURS)]
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        place = (
            f"left:{100 * left / size_wh[0]:.3f}%;top:{100 * top / size_wh[1]:.3f}%;"
            f"width:{100 * (right - left) / size_wh[0]:.3f}%;"
            f"height:{100 * (bottom - top) / size_wh[1]:.3f}%;"
            f"--box:rgb({red},{green},{blue});--ink:{'#fff' if dark else '#111'}"
        )
        kind = "ossa-box" + (" ossa-alone" if lacking else "")
        kind += " ossa-low" if top < 0.06 * size_wh[1] else ""
        text = f"{escape(name)} {score:.2f}" if rank < _MOST_LABELLED else ""
        label_span = f"<span>{text}</span>" if text else ""
        drawn.append(
            f'<div class="{kind}" style="{place}" title="{escape(tip)}">{label_span}</div>'
        )
    return "".join(reversed(drawn))  # the best on top


def in_words(comparison: Comparison) -> str:
    """Returns the differences between the models as a list, with the key to the marks."""
    sentences = comparison.sentences()
    if not sentences:
        return ""
    points = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return (
        f'<section class="ossa-words"><h3>Differences</h3><ul>{points}</ul>'
        '<p class="ossa-key"><i class="ossa-both"></i> found by every model that knows the class '
        '<i class="ossa-one"></i> missed by another: one class, IoU below 0.5</p></section>'
    )


def times_table(
    comparison: Comparison, seen: Sequence[Seen], decode: float, suppress: Sequence[float]
) -> str:
    """Returns a table of the milliseconds of each stage.

    Args:
        comparison: of the models shown.
        seen: by each of them.
        decode: milliseconds of reading the picture, once for all models.
        suppress: milliseconds of each model's thresholds and suppression.
    """
    head = "".join(f"<th>{stage}</th>" for stage in (*_STAGES, "together"))
    rows = []
    for answer, one, last in zip(comparison.answers, seen, suppress, strict=True):
        stages = (decode, *one.milliseconds.values(), last)
        cells = "".join(f"<td>{value:.1f}</td>" for value in (*stages, sum(stages)))
        rows.append(f"<tr><th>{escape(answer.title)}</th>{cells}</tr>")
    return (
        '<section class="ossa-times"><h3>Milliseconds of each stage</h3><div><table><thead><tr>'
        f"<th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "<p>All but the last ran once for this picture; a slider only repeats the suppression. "
        "One picture says little about speed: <code>ossa bench</code> measures "
        "it.</p></section>"
    )


def sentence(text: str, *, is_fault: bool = False) -> str:
    """Returns a message to the visitor."""
    role = 'role="alert" class="ossa-fault"' if is_fault else 'class="ossa-hint"'
    return f"<p {role}>{escape(text)}</p>"
