"""The training loop on generated scenes of 64 px: what it writes, and what stopping costs."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from goldens.make_first_losses import GOLDEN, first_losses
from safetensors.torch import load_file
from small_run import (
    BATCHES,
    EPOCHS,
    CtrlC,
    Notes,
    assert_same_weights,
    config_of,
    log_without_times,
)
from torch import nn
from torch.optim import Optimizer
from yolov5_schedule import Turn, yolov5_turns

from ossa.config import ModelConfig, build_config, settings_digest
from ossa.errors import CheckpointError, ConfigError, DataError, RunFailed
from ossa.evaluate.evaluator import Evaluation, evaluate
from ossa.files import sha256_of
from ossa.models.checkpoint import read_checkpoint
from ossa.models.loss import DetectionLoss
from ossa.train import optim
from ossa.train.callbacks import Callback
from ossa.train.loop import train
from ossa.train.resume import STATE_FILE
from ossa.train.run_folder import (
    CONFIG_FILE,
    RECORD_FILE,
    RECORD_SCHEMA,
    FinishedRun,
    check_seeds,
    read_config,
    read_log,
    read_record,
)
from ossa.train.splits import read_split


def break_losses(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[int], bool], value: float
) -> None:
    """Multiplies the box loss of those training batches, counted from 1, by a value."""
    real, trained = DetectionLoss.__call__, []

    def broken(self: DetectionLoss, raw: Any, batch: Any) -> Any:
        terms = real(self, raw, batch)
        if not raw.logits[0].requires_grad:  # validation
            return terms
        trained.append(batch)
        return terms._replace(box=terms.box * value) if breaks(len(trained)) else terms

    monkeypatch.setattr(DetectionLoss, "__call__", broken)


def test_the_first_losses_are_the_golden_ones(tmp_path: Path):
    golden, found = json.loads(GOLDEN.read_text()), first_losses(tmp_path)
    assert found["scenes"] == golden["scenes"], "other pictures: make the golden losses anew"
    assert len(golden["losses"]) == 20
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-4)


def test_an_epoch_is_a_line_of_the_log(uninterrupted: Path):
    rows = read_log(uninterrupted)
    assert [row["epoch"] for row in rows] == [0, 1]
    losses = [
        f"{split}_{name}" for split in ("train", "val") for name in ("box", "objectness", "classes")
    ]
    scores = ["ap", "ap50", "ap75", "precision", "recall"]
    rest = ["lr", "images", "skipped", "train_seconds", "evaluate_seconds"]
    assert list(rows[0]) == ["epoch", *losses, *scores, *rest]
    assert [row["images"] for row in rows] == [12, 12]
    assert all(row[name] > 0 for row in rows for name in losses)
    # Epoch 1 of 2, linear to a hundredth: 0.001 x (0.5 x 0.99 + 0.01).
    assert rows[1]["lr"] == pytest.approx(0.000505)


def test_the_record_says_what_was_done(uninterrupted: Path, scenes: Path):
    record = read_record(uninterrupted)
    config = config_of(scenes)
    assert (record.status, record.reason, record.model) == ("done", None, "yolov5n")
    assert record.config == config.model_dump(mode="json")
    assert record.config_hash == config.digest()
    # A head of 3 x (5 + 4) instead of 3 x (5 + 80) outputs behind 64, 128 and 256 channels.
    assert record.cost["params"] == 1_872_157 - (3 * 85 - 3 * 9) * (64 + 128 + 256 + 3)
    assert record.metrics["last"]["epoch"] == 1
    assert record.metrics["best"]["epoch"] in (0, 1)
    assert record.metrics["last"]["num_images"] == 4
    assert record.times["train"] > 0
    assert record.initial_weights == dict.fromkeys(("file", "sha256", "pretraining", "licence"))
    weights = {"last.safetensors", "best.safetensors"}
    assert set(record.files) == {"log.jsonl", "val-detections.json.gz", *weights}
    for name, digest in record.files.items():
        assert sha256_of(uninterrupted / name) == digest


def test_weights_tell_what_they_reached_and_at_which_confidence(uninterrupted: Path):
    record = read_record(uninterrupted)
    for name in ("last", "best"):
        details = read_checkpoint(uninterrupted / f"{name}.safetensors").details
        reached = record.metrics[name]
        assert details["epoch"] == reached["epoch"]
        names = ("ap", "ap50", "precision", "recall", "best_confidence")
        assert details["metrics"] == {one: reached[one] for one in names}


def test_the_state_holds_nothing_but_tensors_and_plain_values(uninterrupted: Path):
    state = torch.load(uninterrupted / STATE_FILE, weights_only=True)
    assert state["progress"]["batch_number"] == EPOCHS * BATCHES
    # Steps behind the batches 0, 2 and 4; the gradients of batch 5 are dropped.
    assert state["average_updates"] == 3
    assert state["gradients"] == [{}]


def test_the_number_of_workers_changes_nothing(uninterrupted: Path, scenes: Path, tmp_path: Path):
    train(config_of(scenes), tmp_path, workers=2)
    assert log_without_times(tmp_path) == log_without_times(uninterrupted)
    assert_same_weights(tmp_path, uninterrupted)


def test_another_seed_changes_everything(uninterrupted: Path, scenes: Path, tmp_path: Path):
    train(config_of(scenes, seed=1, epochs=1), tmp_path)
    (other,), (first, _) = log_without_times(tmp_path), log_without_times(uninterrupted)
    changed = [
        key for key in first if key.startswith(("train_", "val_")) and first[key] != other[key]
    ]
    assert len(changed) == 6


# After 4 batches gradients wait for the next; after 3 an epoch ends.
@pytest.mark.parametrize("after", [(3,), (1, 4)], ids=str)
def test_a_stopped_run_resumes_as_if_it_had_never_stopped(
    uninterrupted: Path, scenes: Path, tmp_path: Path, after: tuple[int, ...]
):
    config, callback = config_of(scenes), CtrlC(*after)
    for _ in after:
        record = train(config, tmp_path, callback=callback, resume=(tmp_path / STATE_FILE).exists())
        assert record.status == "stopped"
        assert not (tmp_path / RECORD_FILE).exists()
    record = train(config, tmp_path, callback=callback, resume=True)
    assert callback.batches == EPOCHS * BATCHES
    assert record.status == "done"
    assert log_without_times(tmp_path) == log_without_times(uninterrupted)
    assert_same_weights(tmp_path, uninterrupted)
    assert read_record(tmp_path).metrics == read_record(uninterrupted).metrics


def test_epochs_without_an_evaluation_change_nothing_but_the_time(
    uninterrupted: Path, scenes: Path, tmp_path: Path
):
    config = config_of(scenes, evaluate_every=EPOCHS)
    # Stopped after the first epoch, which is not evaluated, and after the batch that follows.
    for _ in range(2):
        train(config, tmp_path, callback=CtrlC(BATCHES), resume=(tmp_path / STATE_FILE).exists())
    record = read_record(tmp_path)
    first, last = log_without_times(tmp_path)
    expected_first, expected_last = log_without_times(uninterrupted)
    unknown = ("val_", "ap", "precision", "recall")
    assert first == {
        key: None if key.startswith(unknown) else value for key, value in expected_first.items()
    }
    assert last == expected_last
    assert record.metrics["last"] == read_record(uninterrupted).metrics["last"]
    assert record.metrics["best"] == record.metrics["last"]  # the only one that was evaluated
    ours, theirs = (load_file(f / "last.safetensors") for f in (tmp_path, uninterrupted))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_patience_waits_for_the_next_evaluation(scenes: Path, tmp_path: Path):
    steps_of_nothing = {"lr": 1e-30, "warmup_epochs": 0}
    config = config_of(scenes, epochs=9, patience=1, evaluate_every=2, **steps_of_nothing)
    train(config, tmp_path)
    assert [row["ap"] is not None for row in read_log(tmp_path)] == [False, True, False, True]


DROPS_PATHS = {"name": "test_convnext", "neck": "n", "backbone_args": {"drop_path_rate": 0.5}}
DENSE = {"name": "yolov5n", "neck": "own", "head": "dense", "end_to_end": True}


@pytest.mark.parametrize("settings", [DROPS_PATHS, DENSE], ids=["drop path", "dense head"])
def test_random_drops_and_the_dense_head_are_the_same_after_a_stop(
    scenes: Path, tmp_path: Path, settings: dict[str, Any]
):
    model = ModelConfig(**settings)
    config = config_of(scenes, epochs=1).model_copy(update={"model": model})
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    train(config, straight)
    train(config, stopped, callback=CtrlC(2))
    train(config, stopped, resume=True)
    assert_same_weights(straight, stopped)
    assert log_without_times(straight) == log_without_times(stopped)


def test_a_finished_run_that_is_resumed_only_writes_its_record_again(
    uninterrupted: Path, scenes: Path, tmp_path: Path
):
    folder, callback = _copy_of_state(uninterrupted, tmp_path / "again"), CtrlC()
    record = train(config_of(scenes), folder, callback=callback, resume=True)
    assert callback.batches == 0
    assert record.metrics == read_record(uninterrupted).metrics
    weights = {"last.safetensors", "best.safetensors"}  # which stay where they were
    files = read_record(uninterrupted).files
    assert read_record(folder).files == {key: files[key] for key in files.keys() - weights}


def test_other_settings_are_refused(uninterrupted: Path, scenes: Path):
    with pytest.raises(CheckpointError, match="was saved with other settings"):
        train(config_of(scenes, momentum=0.9), uninterrupted, resume=True)


def test_a_state_of_a_version_with_fewer_settings_is_resumed(scenes: Path, tmp_path: Path):
    config = config_of(scenes, epochs=1)
    train(config, tmp_path, callback=CtrlC(1))
    settings = config.model_dump(mode="json")
    del settings["evaluate"]["max_candidates"]  # as if this had not been a setting then
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump(settings))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    state["identity"]["settings"] = settings_digest(settings)
    torch.save(state, tmp_path / STATE_FILE)
    # Stopped once more before a state is saved by this version.
    train(config, tmp_path, callback=CtrlC(1), resume=True, save_minutes=1e6)
    assert train(config, tmp_path, resume=True).status == "done"


def test_the_same_data_in_another_place_are_the_same(
    uninterrupted: Path, scenes: Path, tmp_path: Path
):
    elsewhere = shutil.copytree(scenes.parent, tmp_path / "scenes") / "data.yaml"
    folder = _copy_of_state(uninterrupted, tmp_path / "run")
    assert train(config_of(elsewhere), folder, resume=True).status == "done"


def test_other_data_are_refused(uninterrupted: Path, scenes: Path, tmp_path: Path):
    changed = shutil.copytree(scenes.parent, tmp_path / "scenes")
    (changed / "labels" / "train" / "000000.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    folder = _copy_of_state(uninterrupted, tmp_path / "run")
    with pytest.raises(CheckpointError, match="was saved with other data"):
        train(config_of(changed / "data.yaml"), folder, resume=True)


def _copy_of_state(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in (STATE_FILE, "log.jsonl"):
        shutil.copy(run / name, folder)
    return folder


def test_without_a_state_there_is_nothing_to_resume(scenes: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"last\.state\.pt, found none: .* start a new run"):
        train(config_of(scenes), tmp_path, resume=True)


def test_a_damaged_state_is_refused(scenes: Path, tmp_path: Path):
    (tmp_path / STATE_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged"):
        train(config_of(scenes), tmp_path, resume=True)


def test_a_loss_that_is_not_finite_fails_the_run_and_leaves_the_last_good_state(
    uninterrupted: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_losses(monkeypatch, lambda batch: batch == 5, math.nan)
    with pytest.raises(RunFailed, match=r"not finite at batch 4 \(box, objectness, classes: \[nan"):
        train(config_of(scenes), tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert state["progress"]["batch_number"] == BATCHES
    assert log_without_times(tmp_path) == log_without_times(uninterrupted)[:1]
    assert all(torch.isfinite(tensor.float()).all() for tensor in state["detector"].values())
    record = read_record(tmp_path)
    assert record.status == "failed"
    assert record.reason is not None
    assert "not finite at batch 4" in record.reason
    # Who goes on does the fifth batch again, this time in peace.
    monkeypatch.undo()
    assert train(config_of(scenes), tmp_path, resume=True).status == "done"
    assert_same_weights(tmp_path, uninterrupted)
    assert read_record(tmp_path).status == "done"


def test_a_batch_that_is_not_finite_is_skipped_on_request(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_losses(monkeypatch, lambda batch: batch == 2, math.inf)
    config = config_of(scenes, epochs=1, on_nan="skip")
    callback = Notes()
    record = train(config, tmp_path, callback=callback)
    (row,) = read_log(tmp_path)
    assert record.status == "done"
    assert (row["skipped"], row["images"]) == (1, 8)
    assert math.isfinite(row["train_box"])
    assert (
        sum("skipped, losses or gradients not finite at batch 1" in n for n in callback.notes) == 1
    )


def test_a_run_that_skips_too_much_gives_up(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_losses(monkeypatch, lambda batch: True, math.nan)
    settings = {"epochs": 7, "on_nan": "skip"}
    with pytest.raises(
        RunFailed, match="21 batches had losses or gradients not finite at batch 20"
    ):
        train(config_of(scenes, **settings), tmp_path)


def test_the_first_batch_tells_how_every_level_fares(scenes: Path, tmp_path: Path):
    callback = Notes()
    train(config_of(scenes, epochs=1), tmp_path, callback=callback)
    told = [note for note in callback.notes if note.startswith("first batch, stride")]
    assert [note.split(":")[0] for note in told] == [
        f"first batch, stride {stride}" for stride in (8, 16, 32)
    ]
    assert sum(int(re.findall(r"(\d+) positives", note)[0]) for note in told) > 10
    assert not any("dead" in note for note in told)


def test_the_state_is_saved_within_an_epoch_as_often_as_asked(scenes: Path, tmp_path: Path):
    seen: list[int] = []

    class Looks(Callback):
        def on_batch_end(self, *, epoch: int, batch: int, loss: float) -> None:
            if (tmp_path / STATE_FILE).exists():
                state = torch.load(tmp_path / STATE_FILE, weights_only=True)
                seen.append(state["progress"]["batch_number"])

    train(config_of(scenes), tmp_path, callback=Looks(), save_minutes=0)
    # When a batch is told, the one before it is saved.
    assert seen == [1, 2, 3, 4, 5]


def test_a_state_younger_than_a_minute_is_not_written_again_at_an_epochs_end(
    scenes: Path, tmp_path: Path
):
    saved: list[int] = []

    class Looks(Callback):
        def on_epoch_end(self, row: Mapping[str, Any], evaluation: Evaluation | None) -> None:
            state = torch.load(tmp_path / STATE_FILE, weights_only=True)
            saved.append(state["progress"]["batch_number"])

    train(config_of(scenes, epochs=3), tmp_path, callback=Looks())
    assert saved == [BATCHES, BATCHES, 3 * BATCHES]  # always after the first and the last


def test_a_fraction_of_the_images_is_the_same_for_every_seed(scenes: Path, tmp_path: Path):
    first, second = (
        read_split(config_of(scenes, seed=seed, fraction=0.5), "train", callback=Callback()).index
        for seed in (0, 1)
    )
    assert len(first) == 6
    assert first.fingerprint() == second.fingerprint()


def test_weights_that_overflow_with_the_last_batch_of_an_epoch_are_not_saved(
    scenes: Path, tmp_path: Path
):
    config = config_of(scenes, batch=12, lr=1e30, warmup_epochs=0)
    with pytest.raises(RunFailed, match="validation losses are not finite after epoch 1"):
        train(config, tmp_path)
    assert not (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "last.safetensors").exists()


def test_a_training_split_without_a_box_is_refused(scenes: Path, tmp_path: Path):
    (tmp_path / "images").mkdir()
    for file in sorted((scenes.parent / "images" / "val").iterdir())[:2]:
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [disc]\n")
    with pytest.raises(DataError, match="2 of 2 training images have no label, such as "):
        train(config_of(data), tmp_path)
    with pytest.raises(DataError, match="has 2 images and no usable box"):
        train(config_of(data), tmp_path, allow_unlabeled=True)


def test_patience_ends_a_run_that_gets_no_better(scenes: Path, tmp_path: Path):
    callback = Notes()
    # With steps of nothing the AP of the first epoch is never bettered.
    config = config_of(scenes, epochs=5, patience=1, lr=1e-30, warmup_epochs=0)
    record = train(config, tmp_path, callback=callback)
    assert [row["epoch"] for row in read_log(tmp_path)] == [0, 1]
    assert record.status == "done"
    assert callback.notes[-1] == "stopped early: no better epoch than 1"


def test_from_the_first_batch_to_the_last_a_training_is_that_of_yolov5(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Learning rates, momenta, and which batches' gradients each step sums up."""
    found: list[Turn] = []

    def set_hyperparameters(optimizer: Optimizer, settings: Any) -> None:
        optim.set_hyperparameters(optimizer, settings)
        groups = {group["name"]: group for group in optimizer.param_groups}
        weights, bias_lr = groups["weights"], groups["biases"]["lr"]
        waits = weights["params"][0].grad is not None
        waiting = found[-1].waiting + 1 if waits else 1
        found.append(Turn(weights["lr"], bias_lr, weights["momentum"], False, waiting))

    def no_step(_: nn.Module, optimizer: Optimizer, *others: Any) -> torch.Tensor:
        found[-1] = found[-1]._replace(steps=True, waiting=0)
        optimizer.zero_grad(set_to_none=True)
        return torch.zeros(())

    monkeypatch.setattr("ossa.train.loop.set_hyperparameters", set_hyperparameters)
    monkeypatch.setattr("ossa.train.loop.optimizer_step", no_step)
    settings = {"lr": 0.01, "warmup_epochs": 1.5, "warmup_bias_lr": 0.1, "warmup_limit": None}
    config = config_of(scenes, epochs=4, batch=2, schedule_lag=True, **settings)
    train(config, tmp_path)
    turns = yolov5_turns(epochs=4, batches=6, batch=2, final=0.01, nominal=8, warmup=9)
    for number, (ours, theirs) in enumerate(zip(found, turns, strict=True)):
        assert ours == pytest.approx(theirs), number
    assert [row["lr"] for row in read_log(tmp_path)] == [found[n].lr for n in (5, 11, 17, 23)]
    # Of 24 batches some wait at an epoch's end and are dropped.
    assert sum(turn.waiting > 0 for turn in found[5::6]) >= 1


def test_the_best_epoch_is_that_of_a_tenth_of_ap50_and_nine_tenths_of_ap(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # 0.50, 0.501 and 0.499: neither the best AP nor the best AP50 alone decides.
    scores = iter([(0.50, 0.50), (0.45, 0.96), (0.51, 0.40)])

    def scored(*args: Any, **settings: Any) -> Evaluation:
        evaluation = evaluate(*args, **settings)
        ap, ap50 = next(scores)
        return replace(evaluation, metrics=replace(evaluation.metrics, ap=ap, ap50=ap50))

    monkeypatch.setattr("ossa.train.loop.evaluate", scored)
    record = train(config_of(scenes, epochs=3, batch=12), tmp_path)
    assert (record.metrics["best"]["epoch"], record.metrics["last"]["epoch"]) == (1, 2)


def as_of_earlier_versions(run: Path, folder: Path, *, schema: int, **augment: Any) -> Path:
    """Writes record and configuration of a run as earlier versions did; returns the folder."""
    content = json.loads((run / RECORD_FILE).read_text())
    content["config"]["augment"] |= augment
    content |= {"schema": schema, "config_hash": settings_digest(content["config"])}
    (folder / RECORD_FILE).write_text(json.dumps(content))
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(content["config"]))
    return folder


@pytest.mark.parametrize(("schema", "augment"), [(1, {}), (2, {"window": None})])
def test_earlier_runs_that_drew_from_the_whole_split_are_of_the_same_condition(
    uninterrupted: Path, tmp_path: Path, schema: int, augment: dict[str, Any]
):
    folder = as_of_earlier_versions(uninterrupted, tmp_path, schema=schema, **augment)
    record, today = read_record(folder), read_record(uninterrupted)
    assert record.schema == today.schema == RECORD_SCHEMA
    assert record.metrics == today.metrics
    assert read_config(folder) == read_config(uninterrupted)
    assert build_config(record.config).digest() == today.config_hash


def test_earlier_runs_had_neither_a_lag_nor_a_limit_of_the_warmup(
    uninterrupted: Path, tmp_path: Path
):
    folder = as_of_earlier_versions(uninterrupted, tmp_path, schema=2)
    content = json.loads((folder / RECORD_FILE).read_text())
    del content["config"]["train"]["schedule_lag"], content["config"]["train"]["warmup_limit"]
    content["config_hash"] = settings_digest(content["config"])
    (folder / RECORD_FILE).write_text(json.dumps(content))
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(content["config"]))
    record, today = read_record(folder), read_record(uninterrupted)
    assert record.config["train"]["schedule_lag"] is False
    assert record.config["train"]["warmup_limit"] is None
    assert today.config["train"]["warmup_limit"] == 0.1
    assert record.config_hash == settings_digest(record.config) != today.config_hash
    assert build_config(record.config) == read_config(folder) != read_config(uninterrupted)
    content["config"]["train"]["lr"] = 0.5
    (folder / RECORD_FILE).write_text(json.dumps(content))
    changed = read_record(folder)
    assert changed.config_hash != settings_digest(changed.config)


def test_earlier_runs_with_a_window_are_read_and_are_another_condition(
    uninterrupted: Path, tmp_path: Path
):
    folder = as_of_earlier_versions(uninterrupted, tmp_path, schema=2, window=64)
    record, today = read_record(folder), read_record(uninterrupted)
    assert "window" not in today.config["augment"]
    assert record.config_hash == settings_digest(record.config) != today.config_hash
    assert build_config(record.config).digest() == record.config_hash
    runs = [
        FinishedRun(run, read_config(run), record)
        for run, record in ((uninterrupted, today), (folder, record))
    ]
    with pytest.raises(ConfigError, match=r"found augment\.window None in .* and 64 in "):
        check_seeds(runs)


def test_nothing_is_trained_with_a_window_today(uninterrupted: Path, tmp_path: Path):
    folder = as_of_earlier_versions(uninterrupted, tmp_path, schema=2, window=64)
    kept = (folder / RECORD_FILE).read_bytes()
    with pytest.raises(ConfigError, match=r"expected no setting augment\.window, found 64"):
        train(read_config(folder), folder, resume=True)
    assert (folder / RECORD_FILE).read_bytes() == kept


def test_a_record_of_an_unknown_schema_is_refused(uninterrupted: Path, tmp_path: Path):
    content = json.loads((uninterrupted / RECORD_FILE).read_text())
    (tmp_path / RECORD_FILE).write_text(json.dumps(content | {"schema": 99}))
    with pytest.raises(DataError, match="is a record of schema 99"):
        read_record(tmp_path)
    with pytest.raises(DataError, match="found none"):
        read_record(tmp_path / "nowhere")
