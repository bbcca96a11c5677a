"""The examples of docs/prediction.md, run in their order as one program."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from known_detector import known_predictor, write_png
from videos import rate_of, read_numbers, write_video

import ossa.predict.predictor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "prediction.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples leave behind; the detector finds a dog and a fire truck in everything."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        write_png(folder / name, (64, 48))
    write_video(folder / "street.mp4", 5, rate=10)
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ossa.predict.predictor, "load", lambda _: known_predictor())
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(block, names)
        names["video_numbers"] = read_numbers(Path("street.webm"))
        names["video_rate"] = rate_of(Path("street.webm"))
    return names


def test_a_photo_is_drawn_cut_out_and_written_down(names: dict[str, Any]) -> None:
    assert names["picture"].shape == (48, 64, 3)
    # The dog is 16 x 8 pixels in the network's input, the photo as large as that.
    assert [crop.shape for crop in names["crops"]] == [(8, 16, 3), (24, 32, 3)]
    assert names["table"].name.tolist() == ["dog", "fire truck"]
    assert [entry["image_id"] for entry in names["entries"]] == [17, 17]
    assert len(names["sure"]) == 1


def test_a_list_gives_a_list(names: dict[str, Any]) -> None:
    assert names["counts"] == {"a.jpg": 2, "b.jpg": 2}
    assert [len(table) for table in names["tables"]] == [2, 2, 2, 2]


def test_a_video_keeps_rate_and_length(names: dict[str, Any]) -> None:
    assert len(names["video_numbers"]) == 5
    assert names["video_rate"] == 10
    assert names["remark"] is None
