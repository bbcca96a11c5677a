"""`ossa data split`: what it prints, writes and refuses; --data and DATA mean the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Ossa


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Ten images of 64 pixels with a box each, and train alone in the data.yaml."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "cells" / kind).mkdir(parents=True)
    for number in range(10):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cells" / "images" / f"{number}.png")
        labels = tmp_path / "cells" / "labels" / f"{number}.txt"
        labels.write_text(f"{int(number > 7)} 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    text = "train: images\nnames: [cell, rare]\n"
    (tmp_path / "cells" / "data.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "cells"


def test_it_prints_what_is_where_and_the_result_has_no_fault(ossa: Ossa, cells: Path) -> None:
    result = ossa("data", "split", cells, "--val", 0.2)
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    for row in (["images", "8", "2"], ["groups", "8", "2"], ["cell", "7", "1"], ["rare", "1", "1"]):
        assert row in rows
    expected = f"next: ossa train --data {cells / 'split'} --model yolov5n --recipe quick"
    assert expected in result.stderr
    assert ossa("data", "check", "--images", cells / "split").exit_code == 0


def test_the_undivided_folder_stays_as_it_was_and_is_divided_again(ossa: Ossa, cells: Path) -> None:
    (cells / "data.yaml").unlink()
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(10)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9]} for i in range(10)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (cells / "annotations").mkdir()
    file = cells / "annotations" / "instances_default.json"  # as CVAT exports COCO
    file.write_text(json.dumps(content), encoding="utf-8")
    assert ossa("data", "split", cells, "--val", 0.2).exit_code == 0
    checked = ossa("data", "check", cells)
    assert "no split 'val'" in checked.stdout
    assert "also in train" not in checked.stdout
    again = ossa("data", "split", cells, "--val", 0.3, "--overwrite", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["splits"]["val"]["images"] == 3


def test_json_says_what_the_table_does(ossa: Ossa, cells: Path) -> None:
    arguments = ("--val", 0.2, "--remove-duplicates", "--output", cells.parent / "new", "--json")
    result = ossa("data", "split", "--data", cells, *arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["splits"]["val"] == {"images": 2, "groups": 2}
    assert found["classes"][1] == {"name": "rare", "train": 1, "val": 1}
    assert found["removed"] == {"duplicates": 0, "leaks": 0, "with_other_boxes": 0}
    assert found["output"] == str(cells.parent / "new" / "data.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Expected --val, such as --val 0.2, --test or --remove-duplicates"),
        (["--val", "1.5"], "Expected shares of the images between 0 and 1"),
        (["--val", "0.2", "--output", "cells/data.yaml"], "which is no folder"),
        (["--val", "0.2", "--data", "other"], "give the data set as DATA or by --data, not both"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    ossa: Ossa, cells: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(cells.parent)
    result = ossa("data", "split", "cells", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not (cells / "split").exists()


def test_check_show_and_convert_take_data_as_well(ossa: Ossa, cells: Path) -> None:
    new = cells.parent / "new"
    assert ossa("data", "convert", "--data", cells, new, "--to", "coco").exit_code == 0
    assert (new / "data.yaml").is_file()
    page = cells.parent / "page.html"
    assert ossa("data", "show", "--data", cells, "--batches", 0, "--output", page).exit_code == 0
    checked = ossa("data", "check", "--data", cells)
    assert "no split 'val'" in checked.stdout
    missing = ossa("data", "check")
    assert missing.exit_code == 2
    assert "a data.yaml, or the folder of a data set" in " ".join(missing.stderr.split())
