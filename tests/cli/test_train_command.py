"""`ossa train`: settings, folders, resuming, refusals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import TINY, FinishedTraining, Ossa, start_ossa
from safetensors.torch import load_file

from ossa.cli.console import KEYS
from ossa.config import RunConfig
from ossa.data.decode import decode_image
from ossa.errors import RunFailed
from ossa.models.loss import DetectionLoss
from ossa.train.run_folder import read_record

Configured = Callable[..., RunConfig]


@pytest.fixture
def configured(ossa: Ossa, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Returns the configuration that a command would train with; nothing is trained."""
    received: list[RunConfig] = []

    def stand_in(config: RunConfig, *_: object, **__: object) -> None:
        received.append(config)
        raise RunFailed("not wanted in this test")

    monkeypatch.setattr("ossa.train.loop.train", stand_in)

    def configure(*arguments: object, data: object = "somewhere") -> RunConfig:
        result = ossa("train", "--data", data, *arguments)
        assert result.stderr == "error: not wanted in this test\n"
        assert result.exit_code == 1
        return received.pop()

    return configure


def visible(text: str) -> str:
    """Returns the words of an error, without the frame around a usage error."""
    return " ".join(text.replace("│", " ").split())


def test_a_training_writes_its_folder_and_one_json_object(training: FinishedTraining) -> None:
    assert training.exit_code == 0, training.stderr
    row = training.row()
    assert list(row)[: len(KEYS)] == list(KEYS)
    assert row["model"] == "yolov5n"
    assert (row["imgsz"], row["seed"], row["status"]) == (64, 0, "done")
    assert (row["epoch"], row["best_epoch"]) == (0, 0)
    assert row["best_ap"] == row["ap"]
    assert row["ms_per_image"] is None
    assert row["ap_large"] is None  # no object of 96 x 96 pixels in images of 128 x 128
    assert row["flops"] == 2 * row["macs"]
    assert row["folder"] == str(training.folder)
    assert row["images_per_second"] == pytest.approx(16 / row["train_seconds"])
    assert {file.name for file in training.folder.iterdir()} >= {
        *("config.yaml", "log.jsonl", "record.json", "val-detections.json.gz"),
        *("last.safetensors", "best.safetensors", "last.state.pt"),
    }
    assert [file.name for file in training.folder.glob(".*")] == [".lock"]


def test_stderr_tells_of_every_epoch_and_the_next_commands(training: FinishedTraining) -> None:
    lines = training.stderr.splitlines()
    assert lines[0] == "all images have a label: 16 of train and 8 of val"
    assert lines[1] == "decoding 16 images of split 'train' at 64 px once, 0.2 MB in memory"
    assert lines[2] == "cache of 16 images of split 'train' at 64 px: 0.2 MB in memory"
    assert [line.split(" images")[0] for line in lines[3:5]] == ["decoding 8", "cache of 8"]
    assert lines[5].startswith("best possible recall of the anchors: ")
    assert lines[6] == (
        f"training yolov5n in {training.folder} on cpu (epochs: 1, batches in each: 2)"
    )
    (epoch,) = (n for n, line in enumerate(lines) if line.startswith("epoch 1/1  loss "))
    figures, best, val, predict, reason = lines[epoch + 1 :]
    assert figures == f"figures: {training.folder}/figures"
    assert best.startswith("best epoch 1, AP ")
    assert val.startswith(f"next: ossa val --weights {training.folder}/best.safetensors ")
    assert predict.strip().startswith("ossa predict ")
    assert reason.startswith("AP is 0.000: 2 optimizer steps are few: more --epochs; ")
    assert "\x1b" not in training.stderr


def test_figures_lie_in_the_folder_of_a_run(training: FinishedTraining) -> None:
    files = {file.name for file in (training.folder / "figures").iterdir()}
    drawn = {f"{name}.{kind}" for name in ("curves", "pr", "confusion") for kind in ("png", "svg")}
    assert files == {*drawn, "confusion.csv", "confusion.json", "mosaic.png", "predictions.png"}


@pytest.mark.parametrize("place", ["disk", "auto"])
def test_a_cache_changes_no_bit_of_a_training_and_images_are_decoded_once(
    training: FinishedTraining,
    ossa: Ossa,
    scenes: Path,
    tmp_path: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[Path] = []

    def decode(path: Path, **settings: Any) -> Any:
        decoded.append(path)
        return decode_image(path, **settings)

    monkeypatch.setenv("OSSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ossa.data.letterbox.decode_image", decode)
    monkeypatch.setattr("ossa.data.reading.decode_image", decode)
    common = ("--data", scenes, "--model", "yolov5n", "--epochs", 1, "--no-figures", "--json")
    result = ossa("train", *common, *TINY, "--cache", place)
    assert result.exit_code == 0, result.stderr
    assert len(decoded) == len(set(decoded)) == 16 + 8
    assert "cache of 16 images of split 'train' at 64 px: " in result.stderr
    assert "cache of 8 images of split 'val' at 64 px: " in result.stderr
    row, without = json.loads(result.stdout), training.row()
    different = {key for key in row if row[key] != without[key]}
    assert different <= {"folder", "images_per_second", "train_seconds"}
    ours = load_file(Path(row["folder"]) / "last.safetensors")
    theirs = load_file(training.folder / "last.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (Path(row["folder"]) / "figures").exists()
    hashes = [read_record(Path(r["folder"])).config_hash for r in (row, without)]
    assert hashes[0] == hashes[1]


def test_a_finished_run_is_not_trained_again(training: FinishedTraining, ossa: Ossa) -> None:
    state = (training.folder / "last.state.pt").stat().st_mtime_ns
    result = ossa("train", "--resume", training.folder, "--json")
    assert result.exit_code == 0
    assert "is already done" in result.stderr
    assert json.loads(result.stdout) == training.row()
    assert (training.folder / "last.state.pt").stat().st_mtime_ns == state


@pytest.mark.slow
def test_ctrl_c_stops_with_1_and_resuming_ends_where_an_uninterrupted_run_does(
    scenes: Path, tmp_path: Path
) -> None:
    common = ("--data", scenes, "--model", "yolov5n", "--epochs", 3, *TINY, "--json")
    (tmp_path / "yolov5n").mkdir()
    (tmp_path / "yolov5n" / "mine.txt").touch()
    process = start_ossa("train", *common, "--project", tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate()
    stopped = json.loads(stdout)
    assert (process.returncode, stopped["status"]) == (1, "stopped")
    # Of a name that exists: nothing of it was touched.
    assert stopped["folder"] == str(tmp_path / "yolov5n-2")
    assert [file.name for file in (tmp_path / "yolov5n").iterdir()] == ["mine.txt"]
    assert f"go on with: ossa train --resume {tmp_path / 'yolov5n-2'}" in stderr

    process = start_ossa("train", "--resume", tmp_path / "yolov5n-2", "--workers", 0, "--json")
    resumed = json.loads(process.communicate()[0])
    assert (process.returncode, resumed["status"], resumed["epoch"]) == (0, "done", 2)
    process = start_ossa("train", *common, "--project", tmp_path)
    process.communicate()
    last, expected = (
        load_file(tmp_path / name / "last.safetensors") for name in ("yolov5n-2", "yolov5n-3")
    )
    assert list(last) == list(expected)
    assert all(torch.equal(last[key], expected[key]) for key in expected)


# Settings


def test_options_stand_over_the_recipe_and_set_over_the_options(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("train: {imgsz: 96, epochs: 5, batch: 3}")
    config = configured(
        *("--model", "resnet18", "--recipe", "mine.yaml", "--epochs", 7, "--batch", 4),
        *("--set", "train.batch=2", "--set", "augment.mosaic=0.5"),
    )
    assert config.train.imgsz == 96  # the recipe
    assert config.train.epochs == 7  # the option
    assert config.train.batch == 2  # --set
    assert config.augment.mosaic == 0.5
    assert config.recipe == "mine.yaml"


@pytest.mark.parametrize("batch", ["auto", "-1"])
def test_a_batch_that_fits_is_looked_for_and_is_part_of_the_configuration(
    configured: Configured, scenes: Path, monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    asked: list[object] = []

    def stand_in(config: RunConfig, *, num_classes: int, device: torch.device) -> int:
        asked.extend((config.train.imgsz, num_classes, device.type))
        return 24

    monkeypatch.setattr("ossa.train.autobatch.largest_batch", stand_in)
    config = configured(
        *("--model", "resnet18", "--imgsz", 96, "--batch", batch, "--device", "cpu"), data=scenes
    )
    assert config.train.batch == 24
    assert asked == [96, 4, "cpu"]


def test_a_batch_for_the_processor_is_not_looked_for(ossa: Ossa, scenes: Path) -> None:
    result = ossa("train", "--data", scenes, "--model", "yolov5n", "--batch", "auto")
    assert result.exit_code == 2
    assert "looks for what fits on a GPU, found cpu: give a number" in result.stderr


def test_a_run_that_failed_goes_on_from_its_last_checkpoint(
    ossa: Ossa, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = DetectionLoss.__call__, []

    def broken_at_the_fourth(self: DetectionLoss, raw: Any, batch: Any) -> Any:
        terms = real(self, raw, batch)
        trained.extend([batch] if raw.logits[0].requires_grad else [])
        return terms._replace(box=terms.box * float("nan")) if len(trained) == 4 else terms

    monkeypatch.setattr(DetectionLoss, "__call__", broken_at_the_fourth)
    common = ("--data", scenes, "--model", "yolov5n", "--epochs", 2, "--no-figures")
    failed = ossa("train", *common, *TINY, "--threads", 1)
    assert failed.exit_code == 1
    assert "not finite at batch 3" in failed.stderr
    assert read_record(tmp_path / "runs" / "yolov5n").status == "failed"
    torch.set_num_threads(2)
    resumed = ossa("train", "--resume", "runs/yolov5n", "--workers", 0, "--no-figures", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert read_record(tmp_path / "runs" / "yolov5n").environment["threads"] == "1"  # as before
    assert "going on behind the last checkpoint; losses or gradients not finite" in resumed.stderr
    assert json.loads(resumed.stdout)["status"] == "done"


@pytest.mark.slow
def test_torchrun_trains_one_run_in_two_processes(scenes: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = ["-m", "ossa", "train", "--data", str(scenes), "--model", "yolov5n", "--epochs", "1"]
    done = subprocess.run(
        [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *command, *TINY],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["yolov5n"]
    assert read_record(tmp_path / "runs" / "yolov5n").status == "done"
    assert done.stderr.count("epoch 1/1  loss ") == 1
    assert done.stdout.count("AP50-95") == 1


def test_without_options_the_recipe_is_yolov5_low_whatever_the_model(
    configured: Configured,
) -> None:
    for model in ("yolov5n", "yolov5x", "resnet18"):
        config = configured("--model", model)
        assert config.recipe == "yolov5-low"
        assert (config.loss.classes, config.augment.scale) == (0.5, 0.5)
        assert config.seed == 0


def test_a_preset_brings_its_own_neck_and_a_backbone_gets_s(configured: Configured) -> None:
    assert configured("--model", "yolov5n").model.neck == "own"
    assert configured("--model", "resnet18").model.neck == "s"
    model = configured("--model", "resnet18", "--neck", "m", "--context", "sppf").model
    assert (model.neck, model.context) == ("m", "sppf")


def test_the_habits_of_yolov5_work(configured: Configured) -> None:
    config = configured(
        *("--cfg", "models/yolov5s.yaml", "--weights", "", "--hyp", "yolov5-high", "--img", 96),
        *("--batch-size", 5, "--cos-lr", "--patience", 9, "--optimizer", "adamw"),
    )
    assert config.model.name == "yolov5s"
    assert config.model.weights is None
    assert (config.recipe, config.augment.mixup) == ("yolov5-high", 0.1)
    assert (config.train.imgsz, config.train.batch, config.train.patience) == (96, 5, 9)
    assert (config.train.schedule, config.train.optimizer) == ("cosine", "adamw")
    assert configured("--model", "yolov5n", "--img-size", 128).train.imgsz == 128


def test_weights_of_a_backbone_travel_with_their_statistics(configured: Configured) -> None:
    model = configured(
        *("--model", "mobilenetv2_100", "--backbone-weights", "mb2.safetensors"),
        *("--backbone-mean", "0.5,0.5,0.5", "--backbone-std", "0.4,0.5,0.6"),
        *("--backbone-args", '{"pad_type": "same"}'),
    ).model
    assert model.backbone_weights == "mb2.safetensors"
    assert model.backbone_mean == (0.5, 0.5, 0.5)
    assert model.backbone_std == (0.4, 0.5, 0.6)
    assert model.backbone_args == {"pad_type": "same"}


def test_modules_are_frozen_by_name(configured: Configured) -> None:
    several = configured("--model", "yolov5n", "--freeze", "backbone.stem,backbone.stages.0")
    assert several.train.freeze == ("backbone.stem", "backbone.stages.0")


def test_fitted_anchors_are_part_of_the_configuration(configured: Configured, scenes: Path) -> None:
    common = ("--data", scenes, "--model", "resnet18", "--strides", "4,8,16,32", "--imgsz", 64)
    fitted = configured(*common, "--fit-anchors")
    assert fitted.model.strides == (4, 8, 16, 32)
    anchors_wh = fitted.model.anchors_wh
    assert anchors_wh is not None
    assert [len(of_level) for of_level in anchors_wh] == [3, 3, 3, 3]
    areas = [width * height for of_level in anchors_wh for width, height in of_level]
    assert areas == sorted(areas)
    # The generated images of 128 px have objects of 13 px at least.
    assert 4 < anchors_wh[0][0][0] < 16
    # As if they had been given: so the run is resumed and compared by its configuration alone.
    given = configured(*common, "--set", f"model.anchors_wh={json.dumps(anchors_wh)}")
    assert given == fitted
    assert configured("--model", "resnet18").model.anchors_wh is None


def test_a_whole_detector_says_itself_which_model_it_is(
    configured: Configured, training: FinishedTraining
) -> None:
    weights = training.folder / "best.safetensors"
    config = configured("--weights", weights, "--epochs", 2)
    assert (config.model.name, config.model.neck) == ("yolov5n", "own")
    assert config.model.weights == str(weights)
    assert config.train.imgsz == 640  # conditions come from the recipe, not from the file


def test_seed_and_worker_number_0_are_values(ossa: Ossa, monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, Any] = {}

    def stand_in(config: RunConfig, *_: object, **options: object) -> None:
        received.update(options, seed=config.seed)
        raise RunFailed("not wanted in this test")

    monkeypatch.setattr("ossa.train.loop.train", stand_in)
    common = ("train", "--data", "d", "--model", "yolov5n", "--device", "cpu")
    monkeypatch.setattr("ossa.cli.options.count_processors", lambda: 8)
    ossa(*common)
    assert (received["workers"], received["device"], received["strict"]) == (2, "cpu", False)
    ossa(*common, "--workers", 0, "--seed", 0, "--strict", "--set", "seed=4")
    assert (received["workers"], received["seed"], received["strict"]) == (0, 4, True)
    ossa(*common, "--seed", 0, "--recipe", "quick")
    assert received["seed"] == 0


# Refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--model yolov5q", "no model named 'yolov5q'. Did you mean yolov5"),
        ("--model yolov5n --neck s", "yolov5n brings its own neck: leave --neck out"),
        ("--model yolov5n --weights none.pt", "expected a weights file at none.pt, found none"),
        ("--model yolov5n --imgsz 333", "found 333: use 320 or 352"),
        ("--model yolov5n --epochs 0", "train.epochs: input should be greater than or equal to 1"),
        ("--model yolov5n --set train.lrr=1", "no setting 'train.lrr'. Did you mean lr?"),
        ("--model yolov5n --set train.lr", "found 'train.lr'"),
        ("--model yolov5n --set model=3", "model: input should be a valid dictionary"),
        ("--model yolov5n --recipe quik", "no recipe named 'quik'"),
        ("--model yolov5n --optimizer adam", "'adam' is not one of 'sgd', 'adamw'"),
        ("--model resnet18 --backbone-mean a,b,c", "model.backbone_mean"),
        ("--model resnet18 --backbone-args {", "Expected YAML in '{', found a syntax error"),
        ("--model yolov5n --device 7", "a GPU for --device 7, found"),
        ("--model yolov5n --device tpu", "Expected --device cpu, cuda, mps or the number of a GPU"),
        ("--model yolov5n --freeze bakcbone", "no module named 'bakcbone'. Did you mean backbone"),
        ("--model resnet18 --strides 4,8,16,32", "fit anchors to the data with --fit-anchors"),
        ("--model yolov5n --set model.drop_path=0.1", "no blocks that drop path could drop"),
        ("--model yolov5n --set train.layer_decay=0.7", "yolov5n are not grouped in layers"),
        (
            "--model yolov5n --fit-anchors --set model.anchors_wh=[[[1,1]],[[2,2]],[[3,3]]]",
            "Expected --fit-anchors or model.anchors_wh, found both",
        ),
        ("", "Expected --model (such as yolov5n"),
        ("--resume nowhere", "Expected no settings beside --resume, which goes on with those"),
    ],
)
def test_bad_input_is_told_in_a_sentence_and_leaves_nothing_behind(
    ossa: Ossa, scenes: Path, tmp_path: Path, arguments: str, sentence: str
) -> None:
    result = ossa("train", "--data", scenes, "--name", "x", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in visible(result.stderr)
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("--fit-anchors",)])
def test_a_model_that_does_not_exist_is_refused_before_the_data_are_read(
    ossa: Ossa, more: tuple[str, ...]
) -> None:
    result = ossa("train", "--data", "nowhere", "--model", "cspdarknet_m7", *more)
    assert result.exit_code == 2
    assert "no model named 'cspdarknet_m7'. Did you mean cspdarknet_m" in result.stderr


def test_train_needs_data(ossa: Ossa) -> None:
    result = ossa("train", "--model", "yolov5n")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Expected --data")


def test_a_misspelt_key_of_the_data_is_told_with_its_line(
    ossa: Ossa, scenes: Path, tmp_path: Path
) -> None:
    good = yaml.safe_load((scenes / "data.yaml").read_text())
    lines = ["format: yolo", f"path: {scenes}", f"trian: {good['train']}", f"val: {good['val']}"]
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    result = ossa("train", "--data", tmp_path / "data.yaml", "--model", "yolov5n")
    assert result.exit_code == 2
    assert f"'trian' ({tmp_path / 'data.yaml'}, line 3). Did you mean train?" in result.stderr


def test_missing_data_leaves_no_folder_of_a_run_nor_its_parents(ossa: Ossa, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = ossa(
        *("train", "--data", "nowhere", "--model", "yolov5n"),
        *("--project", "mine/deep", "--name", "a/b"),
    )
    assert result.exit_code == 2
    assert "The data set does not exist (" in result.stderr
    assert [file.name for file in tmp_path.rglob("*")] == ["mine"]


def test_a_run_that_fails_before_it_saved_anything_leaves_no_folder(
    ossa: Ossa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(_: RunConfig, folder: Path, **__: object) -> None:
        (folder / "config.yaml").write_text("written before the first batch")
        raise RunFailed("the loss is not finite")

    monkeypatch.setattr("ossa.train.loop.train", stand_in)
    result = ossa("train", "--data", "d", "--model", "yolov5n")
    assert (result.exit_code, result.stderr) == (1, "error: the loss is not finite\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("saved", ["last.state.pt", "last.safetensors"])
def test_a_run_that_fails_later_keeps_its_folder(
    ossa: Ossa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    def stand_in(_: RunConfig, folder: Path, **__: object) -> None:
        (folder / saved).write_text("of the first epoch")
        raise RunFailed("the loss is not finite")

    monkeypatch.setattr("ossa.train.loop.train", stand_in)
    assert ossa("train", "--data", "d", "--model", "yolov5n").exit_code == 1
    assert (tmp_path / "runs" / "yolov5n" / saved).is_file()


def test_there_is_nothing_to_resume_in_another_folder(ossa: Ossa, tmp_path: Path) -> None:
    result = ossa("train", "--resume", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: expected the folder of a run, to resume it, found no config.yaml in"
    )


def test_settings_beside_resume_are_refused_by_name(ossa: Ossa, training: FinishedTraining) -> None:
    result = ossa(
        *("train", "--resume", training.folder, "--epochs", 9, "--set", "seed=1"),
        *("--workers", 0, "--device", "cpu", "--json"),
    )
    assert result.exit_code == 2
    assert "found --epochs, --set." in result.stderr
