"""`ossa data convert`: what it writes, says and refuses."""

from pathlib import Path

import pytest
from running import Ossa

from ossa.data.description import read_description
from ossa.data.reading import read_index


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two images without any difference, one box of two; returns the folder."""
    from PIL import Image

    for folder in ("images/train", "labels/train"):
        (tmp_path / "cells" / folder).mkdir(parents=True)
    for name in ("1", "2"):
        Image.new("RGB", (64, 64)).save(tmp_path / "cells" / "images/train" / f"{name}.png")
    labels = tmp_path / "cells" / "labels/train/1.txt"
    labels.write_text("0 0.5 0.5 0.25 0.25\n7 0.5 0.5 0.25 0.25\n", encoding="utf-8")
    text = "train: images/train\nval: images/train\nnames: [cell]\n"
    (tmp_path / "cells" / "data.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "cells"


def test_it_writes_the_split_and_says_what_was_lost(ossa: Ossa, cells: Path) -> None:
    output = cells.parent / "as coco"
    result = ossa("data", "convert", cells, "--to", "coco", output, "--split", "val")
    assert result.exit_code == 0, result.stderr
    assert "1.txt:2: class 7 unknown" in result.stderr
    assert "polygons, if there are any, as theirs" in result.stderr
    assert f"next: ossa train --data '{output}'" in result.stderr
    description = read_description(output)
    assert (description.format, list(description.splits)) == ("coco", ["val"])
    index = read_index(description, "val").index
    assert index.boxes_xyxy.tolist() == [[24, 24, 40, 40]]
    assert index.image_path(0) == cells / "images/train/1.png"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "kitti", "new"], "'kitti' is not one of 'coco', 'voc',"),
        (["--to", "voc", "new", "--split", "vla"], "Expected a key 'vla'"),
        (["--to", "voc", "new", "--split", "test"], "Expected a key 'test'"),
        (["--to", "voc", "."], "Nothing is overwritten"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    ossa: Ossa, cells: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(cells)
    result = ossa("data", "convert", cells, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (cells / "new").exists()
