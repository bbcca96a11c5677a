"""A run that is killed at any moment and resumed ends as if nothing had happened."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from killed_run import EPOCHS, run
from small_run import assert_same_weights, config_of, log_without_times

from ossa.train.loop import train
from ossa.train.run_folder import read_record

_KILLS = 10
_PATIENCE_SECONDS = 60


def killed_once(scenes: Path, folder: Path, moment: random.Random) -> str:
    """Lets a run go on for a while and kills it; returns the last that it told, or 'done'."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(scenes, folder, theirs))
    process.start()
    theirs.close()
    told = "nothing"
    try:
        for _ in range(moment.randint(1, 5)):
            if ours.poll(_PATIENCE_SECONDS):
                told = ours.recv()
        # A state takes some ten milliseconds to write, an evaluation some hundred.
        time.sleep(moment.choice([0.0, 0.005, 0.02, 0.05, 0.2]))
        while ours.poll():
            told = ours.recv()
    except EOFError:
        pass
    process.kill()
    process.join()
    return told


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_not_one_bit(scenes: Path, tmp_path: Path):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    uninterrupted.mkdir()
    killed.mkdir()
    train(config_of(scenes, epochs=EPOCHS), uninterrupted)
    moment = random.Random(0)
    kills: list[str] = []
    while len(kills) < _KILLS:
        kills.append(killed_once(scenes, killed, moment))
        if kills[-1] == "done":  # more kills need a run that is not over
            break
    print("killed behind:", ", ".join(kills))
    if kills[-1] != "done":
        resume = (killed / "last.state.pt").exists()
        train(config_of(scenes, epochs=EPOCHS), killed, resume=resume, save_minutes=0)
    assert len(kills) == _KILLS
    assert "nothing" not in kills  # every process had begun to train
    assert log_without_times(killed) == log_without_times(uninterrupted)
    assert_same_weights(killed, uninterrupted)
    ours, theirs = read_record(killed), read_record(uninterrupted)
    assert ours.metrics == theirs.metrics
    assert ours.files["val-detections.json.gz"] == theirs.files["val-detections.json.gz"]
    assert not list(killed.glob(".*.tmp"))
