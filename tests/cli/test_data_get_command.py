"""`ossa data get`, against a server with small archives in the place of the official ones."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import Answer, FileServer, served
from filelock import FileLock
from PIL import Image
from running import Ossa

from ossa.data import download, public_datasets
from ossa.data.description import read_description
from ossa.data.public_datasets import Archive, DatasetInfo
from ossa.data.reading import read_index

BOX = (
    "<annotation><object><name>{name}</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax>"
    "<ymax>20</ymax></bndbox></object></annotation>"
)
# '000005' of 2007 and '2008_000005' of 2012 are different images of the same last digits.
VOC_2007 = {"train": ["000005", "000007"], "val": ["000009"], "test": ["000001", "000002"]}
VOC_2012 = {"train": ["2008_000005"], "val": ["2008_000007", "2008_000009"]}


def image() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (100, 50), (114, 114, 114)).save(picture, "JPEG")
    return picture.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as content:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            content.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return packed.getvalue()


def voc_tar(year: str, lists: Mapping[str, Sequence[str]]) -> bytes:
    """Returns an archive as PASCAL VOC packs them, each image with one cat of 20 x 15 pixels."""
    root, files = f"VOCdevkit/VOC{year}", dict[str, bytes]()
    for subset, stems in lists.items():
        files[f"{root}/ImageSets/Main/{subset}.txt"] = "\n".join(stems).encode()
        for stem in stems:
            files[f"{root}/JPEGImages/{stem}.jpg"] = image()
            files[f"{root}/Annotations/{stem}.xml"] = BOX.format(name="cat").encode()
    return tar_of(files)


def trainval(lists: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Returns the lists of an archive without its test images."""
    both = {subset: lists[subset] for subset in ("train", "val")}
    return {**both, "trainval": [*both["train"], *both["val"]]}


def coco_zips() -> dict[str, bytes]:
    def annotations(image_id: int) -> bytes:
        file_name = f"{image_id:012d}.jpg"
        return json.dumps(
            {
                "images": [{"id": image_id, "file_name": file_name, "width": 100, "height": 50}],
                "annotations": [
                    {"id": 1, "image_id": image_id, "category_id": 1, "bbox": [10, 5, 20, 15]}
                ],
                "categories": [{"id": 1, "name": "person"}],
            }
        ).encode()

    return {
        "/zips/train2017.zip": zip_of({"train2017/000000000009.jpg": image()}),
        "/zips/val2017.zip": zip_of({"val2017/000000000139.jpg": image()}),
        "/annotations/annotations_trainval2017.zip": zip_of(
            {
                "annotations/instances_train2017.json": annotations(9),
                "annotations/instances_val2017.json": annotations(139),
            }
        ),
    }


FILES = {
    "/voc2007/VOCtrainval_06-Nov-2007.tar": voc_tar("2007", trainval(VOC_2007)),
    "/voc2007/VOCtest_06-Nov-2007.tar": voc_tar("2007", {"test": VOC_2007["test"]}),
    "/voc2012/VOCtrainval_11-May-2012.tar": voc_tar("2012", trainval(VOC_2012)),
    **coco_zips(),
}
COUNTS = {
    "VOCdevkit/VOC2007": {"JPEGImages": 5, "Annotations": 5},
    "VOCdevkit/VOC2012": {"JPEGImages": 3, "Annotations": 3},
    "coco/train2017": {"": 1},
    "coco/val2017": {"": 1},
    "coco/annotations": {"": 2},
}


def of_small_files(known: DatasetInfo) -> DatasetInfo:
    """Returns a data set with the lengths, checksums and counts of `FILES`."""

    def small(archive: Archive) -> Archive:
        content = FILES[f"/{archive.path}"]
        checksum = "md5:" + hashlib.md5(content).hexdigest()
        return replace(archive, size=len(content), checksum=checksum)

    parts = tuple(
        replace(
            part,
            archives=tuple(small(archive) for archive in part.archives),
            unpacked_bytes=1_000_000,
            file_counts=COUNTS[part.folder],
        )
        for part in known.parts
    )
    return replace(known, parts=parts)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    small = {name: of_small_files(known) for name, known in public_datasets.DATASETS.items()}
    monkeypatch.setattr(public_datasets, "DATASETS", small)
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OSSA_DATA_ROOT", raising=False)
    with served() as server:
        server.files.update(FILES)
        yield server


def stems(data: Path, split: str) -> list[str]:
    """Returns year and stem of the images of a split, such as 'VOC2007 000005'."""
    index = read_index(read_description(data), split, strict=True).index
    paths = [Path(str(name)) for name in index.file_names]
    return [f"{path.parts[-3]} {path.stem}" for path in paths]


def test_seed_b_is_train_of_both_years_against_the_test_of_2007(
    ossa: Ossa, server: FileServer
) -> None:
    told = ossa("data", "get", "voc0712-seedB", "--mirror", server.address)
    assert told.exit_code == 0, told.stderr
    assert "8,218 images to train on and 4,952 to score, in " in told.stderr
    assert "downloading VOCtest_06-Nov-2007.tar" in told.stderr
    assert told.stderr.endswith("next: ossa train --data data/voc0712-seedB --model yolov5n\n")
    data = Path("data/voc0712-seedB")
    assert stems(data, "train") == ["VOC2007 000005", "VOC2007 000007", "VOC2012 2008_000005"]
    assert stems(data, "test") == stems(data, "val") == ["VOC2007 000001", "VOC2007 000002"]
    index = read_index(read_description(data), "train").index
    assert len(set(index.image_ids.tolist())) == 3
    assert index.boxes_xyxy[2].tolist() == [10, 5, 30, 20]
    assert [index.names[label] for label in index.labels] == ["cat"] * 3
    assert sorted(os.listdir("data")) == [".lock", "VOCdevkit", "voc0712-seedB"]
    assert sorted(os.listdir("data/VOCdevkit")) == ["VOC2007", "VOC2012"]
    assert os.listdir() == ["data"]


def test_voc_is_trainval_of_both_years_and_shares_the_files(ossa: Ossa, server: FileServer) -> None:
    assert ossa("data", "get", "voc0712-seedB", "--mirror", server.address).exit_code == 0
    assert len(server.requests) == 3
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 0, told.stderr
    assert len(server.requests) == 3
    assert len(stems(Path("data/voc"), "train")) == 3 + 3
    assert len(stems(Path("data/voc"), "test")) == 2


def test_coco_is_read_as_it_is(ossa: Ossa, server: FileServer) -> None:
    told = ossa("data", "get", "coco", "--mirror", server.address + "/")
    assert told.exit_code == 0, told.stderr
    description = read_description("data/coco")
    assert read_index(description, "train", strict=True).index.image_ids.tolist() == [9]
    val = read_index(description, "val", strict=True).index
    assert (val.image_ids.tolist(), val.names) == ([139], ("person",))


def test_a_second_time_nothing_is_done(ossa: Ossa, server: FileServer) -> None:
    ossa("data", "get", "voc", "--mirror", server.address)
    written = Path("data/voc/data.yaml").stat().st_mtime_ns
    told = ossa("data", "get", "voc", "--mirror", "http://127.0.0.1:9")
    assert told.exit_code == 0, told.stderr
    assert Path("data/voc/data.yaml").stat().st_mtime_ns == written


def test_the_root_is_an_option_or_a_variable(
    ossa: Ossa, server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ossa("data", "get", "coco", "--mirror", server.address, "--root", "one").exit_code == 0
    monkeypatch.setenv("OSSA_DATA_ROOT", str(tmp_path / "two words"))
    told = ossa("data", "get", "coco", "--mirror", server.address)
    assert f"in {tmp_path / 'two words'} (--root or OSSA_DATA_ROOT names another" in told.stderr
    assert told.stderr.endswith(
        f"next: ossa train --data '{tmp_path}/two words/coco' --model yolov5n\n"
    )
    assert sorted(os.listdir()) == ["one", "two words"]


def test_archives_are_kept_where_that_is_wanted_and_used_again(
    ossa: Ossa, server: FileServer
) -> None:
    assert ossa("data", "get", "voc", "--mirror", server.address, "--keep-archives").exit_code == 0
    assert len(os.listdir("data/downloads")) == 3
    shutil.rmtree("data/VOCdevkit")
    server.requests.clear()
    assert ossa("data", "get", "voc", "--mirror", server.address).exit_code == 0
    assert server.requests == []
    assert not Path("data/downloads").exists()


def test_a_server_that_gives_up_is_told_and_the_command_goes_on_later(
    ossa: Ossa, server: FileServer
) -> None:
    server.answers = [Answer(sends=5000), *[Answer(status=503)] * 4]
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 1
    assert "found 5,000 after 5 attempts (status 503). Start again" in told.stderr
    assert os.listdir("data/downloads") == ["VOCtrainval_06-Nov-2007.tar.part"]
    server.requests.clear()
    assert ossa("data", "get", "voc", "--mirror", server.address).exit_code == 0
    assert server.requests[0][1] == "bytes=5000-"


def test_too_little_space_is_told_before_anything_is_fetched(
    ossa: Ossa, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=3_000_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _folder: usage)
    told = ossa("data", "get", "voc", "--mirror", "http://127.0.0.1:9")
    assert told.exit_code == 1
    # Archives of 0.460 + 0.451 + 2.000 GB, and of their contents 1.0 + 2.2 GB.
    assert (
        "Expected 6.1 GB free for archives and their contents, found 3.0 GB (data)." in told.stderr
    )
    assert os.listdir("data") == [".lock"]


def test_what_is_fetched_already_needs_no_space_again(
    ossa: Ossa, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = sum(len(FILES[path]) for path in FILES if path.startswith("/voc"))
    usage = SimpleNamespace(free=2_000_000 + packed - 5001)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _folder: usage)
    part = Path("data/downloads/VOCtrainval_06-Nov-2007.tar.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES["/voc2007/VOCtrainval_06-Nov-2007.tar"][:5000])
    assert ossa("data", "get", "voc", "--mirror", server.address).exit_code == 1
    usage.free += 1
    assert ossa("data", "get", "voc", "--mirror", server.address).exit_code == 0


def test_an_archive_that_leads_out_is_not_unpacked(
    ossa: Ossa, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/voc2007/VOCtrainval_06-Nov-2007.tar"
    monkeypatch.setitem(FILES, path, tar_of({"../../../../evil": b"x"}))
    server.files[path] = FILES[path]
    small = {name: of_small_files(known) for name, known in public_datasets.DATASETS.items()}
    monkeypatch.setattr(public_datasets, "DATASETS", small)
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 2
    assert "Expected an intact archive" in told.stderr
    assert "evil" in told.stderr
    assert list(Path().rglob("evil")) == []
    assert os.listdir("data/VOCdevkit") == []


def test_what_is_there_and_not_whole_is_not_taken_for_the_data_set(
    ossa: Ossa, server: FileServer
) -> None:
    Path("data/VOCdevkit/VOC2007/JPEGImages").mkdir(parents=True)
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 2
    assert "Expected 5 files, found 0 (data/VOCdevkit/VOC2007/JPEGImages). Move" in told.stderr
    assert server.requests == []


def test_a_data_yaml_of_ones_own_is_not_overwritten(ossa: Ossa, server: FileServer) -> None:
    Path("data/voc").mkdir(parents=True)
    Path("data/voc/data.yaml").write_text("mine")
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 2
    assert "found another (data/voc/data.yaml). Move it away" in told.stderr
    assert Path("data/voc/data.yaml").read_text() == "mine"
    assert server.requests == []


@pytest.mark.parametrize("step", ["_check_counts", "unpack"])
def test_interrupted_anywhere_it_goes_on_without_fetching_again(
    ossa: Ossa, server: FileServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, step, interrupt)
        told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 1
    assert told.stderr.endswith("stopped; the same command goes on from here\n")
    told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 0, told.stderr
    assert len(server.requests) == 3
    assert len(stems(Path("data/voc"), "train")) == 6


def test_two_processes_do_not_write_the_same_files(ossa: Ossa, server: FileServer) -> None:
    Path("data").mkdir()
    with FileLock("data/.lock"):
        told = ossa("data", "get", "voc", "--mirror", server.address)
    assert told.exit_code == 2
    assert "Expected a folder for this process alone" in told.stderr
    assert ossa("data", "get", "voc", "--mirror", server.address).exit_code == 0


def test_a_folder_that_cannot_be_made_is_told(ossa: Ossa, server: FileServer) -> None:
    Path("file").write_text("")
    told = ossa("data", "get", "voc", "--mirror", server.address, "--root", "file/data")
    assert told.exit_code == 1
    assert "Could not write there: not a directory (file/data)." in told.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["voc0712"], "found 'voc0712'. Did you mean voc0712-seedB or voc?"),
        (["voc", "--mirror", "ftp://x"], "Expected an address such as"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(
    ossa: Ossa, arguments: list[str], sentence: str
) -> None:
    told = ossa("data", "get", *arguments)
    assert told.exit_code == 2
    assert sentence in told.stderr
    assert os.listdir() == []


def test_the_checksums_of_voc_are_those_of_torchvision() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    published = {one["filename"]: "md5:" + one["md5"] for one in DATASET_YEAR_DICT.values()}
    # Its entry of 2008 bears the file name of 2012.
    published["VOCtrainval_11-May-2012.tar"] = "md5:" + DATASET_YEAR_DICT["2012"]["md5"]
    for part in public_datasets.DATASETS["voc"].parts:
        for archive in part.archives:
            assert archive.checksum == published[archive.name]
