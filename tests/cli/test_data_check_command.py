"""`ossa data check`: what it prints, writes and refuses, and how it ends."""

import json
from pathlib import Path

import pytest
import yaml
from page_structure import HOSTILE, structure
from PIL import Image
from running import Ossa

GOOD = "0 0.5 0.5 0.5 0.5\n"
EMPTY, TINY = "0 0.5 0.5 0 0.5\n", "0 0.5 0.5 0.01 0.5\n"


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two images of train and one of val, of 64 pixels, a good box in each; returns the folder."""
    for number, split in ((1, "train"), (2, "train"), (3, "val")):
        for kind in ("images", "labels"):
            (tmp_path / "cells" / kind / split).mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (64, 64), (number, 0, 0))
        image.save(tmp_path / "cells" / "images" / split / f"{number}.png")
        say(tmp_path / "cells", number, GOOD, split)
    text = "train: images/train\nval: images/val\nnames: [cell]\n"
    (tmp_path / "cells" / "data.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "cells"


def say(cells: Path, number: int, labels: str, split: str = "train") -> None:
    (cells / "labels" / split / f"{number}.txt").write_text(labels, encoding="utf-8")


def test_a_good_data_set_ends_with_0(ossa: Ossa, cells: Path) -> None:
    result = ossa("data", "check", cells)
    assert result.exit_code == 0, result.stderr
    assert "0 errors, 0 warnings; images not read (--images)" in result.stdout


def test_a_data_set_without_val_is_refused_by_check_and_train_in_the_same_words(
    ossa: Ossa, cells: Path
) -> None:
    data_yaml = cells / "data.yaml"
    data_yaml.write_text("train: images/train\nnames: [cell]\n")
    what = "no split 'val': training scores every epoch on it; "
    what += "'ossa data split DATA --val 0.2' makes one"
    checked = ossa("data", "check", cells, "--json")
    (finding,) = json.loads(checked.stdout)["findings"]
    assert (checked.exit_code, finding["stops_training"]) == (1, True)
    assert finding["cases"][0]["what"] == f"{what} (training stops)"
    trained = ossa("train", "--data", cells, "--model", "yolov5n", "--epochs", 1)
    assert (trained.exit_code, f"{data_yaml}: {what}." in trained.stderr) == (2, True)


def test_remarks_end_with_0_and_faults_with_1(ossa: Ossa, cells: Path) -> None:
    say(cells, 1, GOOD + TINY)
    remarked = ossa("data", "check", cells, "--imgsz", 64)
    assert remarked.exit_code == 0
    # Its anchors do not fit the tiny box, either.
    assert "0 errors, 2 warnings;" in remarked.stdout
    assert "labels/train/1.txt: box (31.68, 16, 32.32, 48), cell, 0.64 px at 64" in remarked.stdout
    say(cells, 2, GOOD + EMPTY)
    faulty = ossa("data", "check", cells, "--imgsz", 64)
    assert faulty.exit_code == 1
    assert "1 error, 2 warnings;" in faulty.stdout
    assert "labels/train/2.txt:2: box of no area, 0 x 32 pixels (box dropped)" in faulty.stdout
    assert "error" not in faulty.stderr


def test_images_are_read_when_asked_for(ossa: Ossa, cells: Path) -> None:
    image = cells / "images/train/1.png"
    image.write_bytes(image.read_bytes()[:-20])
    assert ossa("data", "check", cells).exit_code == 0
    result = ossa("data", "check", cells, "--images")
    assert result.exit_code == 1
    assert "truncated images" in result.stdout
    assert "3 images read" in result.stdout


def test_json_is_one_document_with_every_finding(ossa: Ossa, cells: Path) -> None:
    say(cells, 2, GOOD + EMPTY)
    result = ossa("data", "check", cells, "--json", "--images")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["num_faults"], found["num_remarks"], found["images_read"]) == (1, 0, 3)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["severity"], finding["split"]) == (
        "box-empty",
        "fault",
        "train",
    )
    assert finding["cases"] == [
        {
            "file": str(cells / "labels/train/2.txt"),
            "line": 2,
            "what": "box of no area, 0 x 32 pixels (box dropped)",
        }
    ]
    assert found["classes"] == [{"name": "cell", "train": 2, "val": 1}]
    split = found["splits"]["train"]
    assert split["crowding"] == {"isolated": 2, "touching": 0, "crowded": 0}
    assert split["sizes"] == {"small": 0, "medium": 0, "large": 2}  # 32 of 64 pixels are 320 of 640
    assert split["sizes_in_files"] == {"small": 0, "medium": 2, "large": 0}


def test_the_page_has_the_numbers_and_pictures_and_needs_no_other_file(
    ossa: Ossa, cells: Path
) -> None:
    say(cells, 1, GOOD + TINY)
    say(cells, 2, GOOD + EMPTY)
    result = ossa("data", "check", cells, "--imgsz", 64, "--report", "page")
    assert result.exit_code == 1, result.stderr
    assert "report: page/index.html" in result.stderr
    page = Path("page/index.html").read_text(encoding="utf-8")
    assert "Boxes of no area: 1 in train" in page
    assert "Tiny boxes (a side under 2 px at 64): 1 in train" in page
    # The empty box, the tiny one, and the image with most boxes.
    assert page.count("data:image/jpeg;base64,") == 3
    assert page.count("<svg") == 5
    assert json.loads(Path("page/check.json").read_text())["num_faults"] == 1


def test_a_page_is_written_of_a_data_set_without_any_box(ossa: Ossa, cells: Path) -> None:
    for number in (1, 2):
        say(cells, number, "")
    result = ossa("data", "check", cells, "--report", "page")
    assert result.exit_code == 1
    assert "no box that trains" in result.stdout
    assert Path("page/index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report", "cells"], "found cells in use"),
        (["--report", "cells/data.yaml/page"], "data.yaml, which is no folder"),
        (["--imgsz", "0"], "--imgsz"),
        (["--imgaes"], "--images"),
    ],
)
def test_what_makes_no_sense_ends_with_2_in_one_sentence(
    ossa: Ossa, cells: Path, arguments: list[str], said: str
) -> None:
    result = ossa("data", "check", cells, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""  # told before the check, not after it
    assert not Path("new").exists()


def test_a_data_set_that_cannot_be_read_ends_with_2(ossa: Ossa, cells: Path) -> None:
    (cells / "images/train/1.png").unlink()
    (cells / "images/train/2.png").write_text("no image")
    result = ossa("data", "check", cells)
    assert result.exit_code == 2
    assert "found none that can be used" in result.stderr


def test_no_name_of_a_class_or_file_is_more_than_text(ossa: Ossa, tmp_path: Path) -> None:
    def check(names: tuple[str, ...], where: str) -> str:
        for number, name in enumerate(names):
            stem = name.replace("/", "|").replace("\x00", "")
            image = tmp_path / where / "images/train" / f"{stem}.png"
            label = tmp_path / where / "labels/train" / f"{stem}.txt"
            for file in (image, label):
                file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64)).save(image)
            label.write_text(f"{number} 0.5 0.5 0.5 0.5\n{number} 0.5 0.5 0 0.5\n")
        data = {"path": ".", "train": "images/train", "val": "images/train", "names": list(names)}
        (tmp_path / where / "data.yaml").write_text(yaml.safe_dump(data))
        result = ossa("data", "check", tmp_path / where, "--report", f"{where}-page")
        assert result.exit_code == 1, result.stderr
        assert "\x1b" not in result.stdout + result.stderr
        return Path(f"{where}-page/index.html").read_text(encoding="utf-8")

    plain = check(tuple(f"class {number}" for number in range(len(HOSTILE))), "plain")
    hostile = check(tuple(name.replace("\x00", "") for name in HOSTILE), "hostile")
    assert structure(hostile) == structure(plain)
    assert structure(hostile)[1] == []


def test_images_outside_are_faults_unless_they_are_allowed(ossa: Ossa, cells: Path) -> None:
    (cells / "images/train/2.png").rename(cells.parent / "2.png")
    (cells / "images/train/2.png").symlink_to(cells.parent / "2.png")
    result = ossa("data", "check", cells)
    assert result.exit_code == 1, result.stderr
    assert "outside the folders that may be read" in " ".join(result.stdout.split())
    assert ossa("data", "check", cells, "--allow-outside").exit_code == 0
    assert ossa("data", "check", cells).exit_code == 1  # it holds for one command alone
