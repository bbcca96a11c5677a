from typing import Any

import pytest
import torch
from yolov5_schedule import yolov5_turns

from ossa.config import TrainConfig, build_config, merge
from ossa.recipes import load_recipe
from ossa.train.schedule import (
    Hyperparameters,
    full_accumulation,
    hyperparameters_at,
    lr_of_epoch,
    warmup_batches,
)

# YOLOv5's: lr 0.01 falling to 0.0001, momentum 0.937, batches of 16 of nominally 64.
CONFIG = TrainConfig(epochs=10, warmup_limit=None)


@pytest.mark.parametrize(
    ("batch_number", "expected"),
    [
        # 50 batches an epoch: 3 epochs of warm-up are 150 batches.
        (0, (0.0, 0.1, 0.8, 1)),
        # Epoch 1 has lr 0.01 x (0.9 x 0.99 + 0.01) = 0.00901; half of the way there.
        (75, (0.004505, 0.054505, 0.8685, 2)),
        (76, (0.01 * 0.901 * 76 / 150, 0.1 - 0.09099 * 76 / 150, 0.8 + 0.137 * 76 / 150, 3)),
        # Epoch 3 has lr 0.01 x (0.7 x 0.99 + 0.01) = 0.00703.
        (150, (0.00703, 0.00703, 0.937, 4)),
        (151, (0.00703, 0.00703, 0.937, 4)),
        (499, (0.00109, 0.00109, 0.937, 4)),  # 0.01 x (0.1 x 0.99 + 0.01)
    ],
)
def test_linear_schedule_after_a_linear_warm_up(batch_number: int, expected: tuple[float, ...]):
    assert hyperparameters_at(CONFIG, batch_number, 50) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.01), (5, 0.00505), (9, 0.01 * (0.99 * 0.02447174 + 0.01))]
)
def test_cosine_schedule(epoch: int, lr: float):
    # (1 + cos(pi e / 10)) / 2 is 1, 0.5 and 0.02447174.
    cosine = TrainConfig(epochs=10, schedule="cosine")
    assert lr_of_epoch(cosine, epoch) == pytest.approx(lr)


def test_the_learning_rate_is_constant_within_an_epoch():
    assert hyperparameters_at(CONFIG, 200, 50) == hyperparameters_at(CONFIG, 249, 50)
    assert hyperparameters_at(CONFIG, 250, 50).lr < hyperparameters_at(CONFIG, 249, 50).lr


def test_the_final_fraction_is_where_the_schedule_would_end():
    high = CONFIG.model_copy(update={"final_lr_fraction": 0.1})
    assert lr_of_epoch(high, 10) == pytest.approx(0.001)
    assert lr_of_epoch(high, 9) == pytest.approx(0.01 * (0.1 * 0.9 + 0.1))


@pytest.mark.parametrize(("batches_per_epoch", "length"), [(10, 100), (33, 100), (34, 102)])
def test_a_warm_up_has_at_least_100_batches(batches_per_epoch: int, length: int):
    assert warmup_batches(CONFIG, batches_per_epoch) == length
    at_end = hyperparameters_at(CONFIG, length, batches_per_epoch)
    assert (at_end.momentum, at_end.accumulate) == (pytest.approx(0.937), 4)
    assert hyperparameters_at(CONFIG, length - 1, batches_per_epoch).momentum < 0.937


def test_without_warm_up_epochs_there_is_none():
    config = TrainConfig(epochs=10, warmup_epochs=0)
    assert warmup_batches(config, 50) == 0
    assert hyperparameters_at(config, 0, 50) == Hyperparameters(0.01, 0.01, 0.937, 4)


@pytest.mark.parametrize(("batch", "batches"), [(16, 4), (24, 3), (64, 1), (200, 1), (1, 64)])
def test_gradients_are_accumulated_to_about_64_images(batch: int, batches: int):
    assert full_accumulation(TrainConfig(batch=batch)) == batches


def test_batches_of_128_never_accumulate_even_in_warm_up():
    config = TrainConfig(batch=128)
    assert [hyperparameters_at(config, number, 50).accumulate for number in (0, 75, 150)] == [
        1,
        1,
        1,
    ]


def test_one_cycle_is_that_of_torch():
    config = TrainConfig(epochs=4, lr=0.01, schedule="one-cycle", peak_lr=0.1, warmup_epochs=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=100, div_factor=10, cycle_momentum=False
    )
    for batch_number in range(100):
        settings = hyperparameters_at(config, batch_number, 25)
        assert settings.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert settings.bias_lr == settings.lr
        assert settings.momentum == 0.937
        optimizer.step()
        theirs.step()


# As in YOLOv5, from the first batch to the last


def recipe(name: str, **settings: Any) -> TrainConfig:
    """Returns the settings of a shipped recipe with others over them."""
    basis = {"model": {"name": "yolov5n", "neck": "own"}, "data": "cells", "train": settings}
    return build_config(merge(load_recipe(name), basis)).train


def test_with_the_lag_the_learning_rates_are_those_that_were_measured():
    config = recipe("yolov5-low", epochs=20)
    last = [hyperparameters_at(config, 63 * epoch + 62, 63).lr for epoch in (0, 1, 2, 3, 4, 5, 19)]
    measured = [0.003280, 0.006286, 0.008962, 0.008515, 0.008515, 0.008020, 0.001090]
    assert last == pytest.approx(measured, abs=5e-7)
    without = config.model_copy(update={"schedule_lag": False})
    assert hyperparameters_at(without, 63 * 19, 63).lr == pytest.approx(0.000595)


@pytest.mark.parametrize(
    ("name", "epochs", "batches", "batch"),
    [
        ("yolov5-low", 20, 63, 16),  # the warm-up ends with the third epoch
        ("yolov5-low", 60, 13, 16),  # and here within the eighth
        ("yolov5-low", 30, 10, 16),  # and here with the tenth, which goes on with its value
        ("yolov5-low", 3, 10, 8),  # or never
        ("yolov5-high", 12, 40, 24),
        ("yolov5-voc320", 25, 17, 32),
        ("convnext-coco50", 50, 35, 16),
        ("yolov5-low", 6, 120, 128),
    ],
)
def test_every_batch_has_the_settings_and_steps_of_yolov5(
    name: str, epochs: int, batches: int, batch: int
):
    config = recipe(name, epochs=epochs, batch=batch)
    oracle = yolov5_turns(
        epochs=epochs,
        batches=batches,
        batch=batch,
        final=0.01 if name in ("yolov5-low", "convnext-coco50") else 0.1,
        cosine=name == "yolov5-voc320",
    )
    last_step = number = -1
    for number, turn in enumerate(oracle):
        settings = hyperparameters_at(config, number, batches)
        found = (settings.lr, settings.bias_lr, settings.momentum)
        assert found == pytest.approx(turn[:3], rel=1e-9, abs=1e-12), number
        steps = number - last_step >= settings.accumulate
        assert steps == turn.steps, number
        last_step = number if steps else last_step
    assert number == epochs * batches - 1


@pytest.mark.parametrize(
    ("name", "lag", "limit"),
    [
        ("yolov5-low", True, None),
        ("yolov5-high", True, None),
        ("yolov5-voc320", True, None),
        ("yolov5-voc320-onecycle", False, None),
        ("convnext-coco50", True, 0.1),
        ("quick", False, 0.1),
        ("adamw", False, 0.1),
    ],
)
def test_what_is_yolov5s_own_stands_in_its_recipes_alone(name: str, lag: bool, limit: float | None):
    config = recipe(name)
    assert (config.schedule_lag, config.warmup_limit) == (lag, limit)
    assert (TrainConfig().schedule_lag, TrainConfig().warmup_limit) == (False, 0.1)


def test_without_a_warm_up_the_second_epoch_trains_with_the_rate_of_the_first():
    config = recipe("yolov5-low", epochs=10, warmup_epochs=0)
    rates = [hyperparameters_at(config, 5 * epoch, 5).lr for epoch in range(3)]
    assert rates == pytest.approx([0.01, 0.01, 0.01 * (0.9 * 0.99 + 0.01)])


@pytest.mark.parametrize(
    ("epochs", "batches", "length"),
    [(10, 50, 50), (16, 26, 41), (300, 50, 150), (1, 9, 0), (1, 10, 1)],
)
def test_a_warm_up_is_no_longer_than_a_tenth_of_the_training(
    epochs: int, batches: int, length: int
):
    config = TrainConfig(epochs=epochs)
    assert warmup_batches(config, batches) == length
    behind = hyperparameters_at(config, length, batches)
    assert behind.lr == pytest.approx(lr_of_epoch(config, length // batches))
    assert behind == pytest.approx((behind.lr, behind.lr, 0.937, 4))
