import pytest
import torch

from ossa.config import TrainConfig
from ossa.train.schedule import (
    StepSettings,
    full_accumulation,
    lr_of_epoch,
    settings_at,
    warmup_batches,
)

# YOLOv5's: lr 0.01 falling to 0.0001, momentum 0.937, batches of 16 of nominally 64.
CONFIG = TrainConfig(epochs=10)


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
    assert settings_at(CONFIG, batch_number, 50) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.01), (5, 0.00505), (9, 0.01 * (0.99 * 0.02447174 + 0.01))]
)
def test_cosine_schedule(epoch: int, lr: float):
    # (1 + cos(pi e / 10)) / 2 is 1, 0.5 and 0.02447174.
    cosine = TrainConfig(epochs=10, schedule="cosine")
    assert lr_of_epoch(cosine, epoch) == pytest.approx(lr)


def test_the_learning_rate_is_constant_within_an_epoch():
    assert settings_at(CONFIG, 200, 50) == settings_at(CONFIG, 249, 50)
    assert settings_at(CONFIG, 250, 50).lr < settings_at(CONFIG, 249, 50).lr


def test_the_final_fraction_is_where_the_schedule_would_end():
    high = TrainConfig(epochs=10, final_lr_fraction=0.1)
    assert lr_of_epoch(high, 10) == pytest.approx(0.001)
    assert lr_of_epoch(high, 9) == pytest.approx(0.01 * (0.1 * 0.9 + 0.1))


@pytest.mark.parametrize(("batches_per_epoch", "length"), [(10, 100), (33, 100), (34, 102)])
def test_a_warm_up_has_at_least_100_batches(batches_per_epoch: int, length: int):
    assert warmup_batches(CONFIG, batches_per_epoch) == length
    at_end = settings_at(CONFIG, length, batches_per_epoch)
    assert (at_end.momentum, at_end.accumulate) == (pytest.approx(0.937), 4)
    assert settings_at(CONFIG, length - 1, batches_per_epoch).momentum < 0.937


def test_without_warm_up_epochs_there_is_none():
    config = TrainConfig(epochs=10, warmup_epochs=0)
    assert warmup_batches(config, 50) == 0
    assert settings_at(config, 0, 50) == StepSettings(0.01, 0.01, 0.937, 4)


@pytest.mark.parametrize(("batch", "batches"), [(16, 4), (24, 3), (64, 1), (200, 1), (1, 64)])
def test_gradients_are_accumulated_to_about_64_images(batch: int, batches: int):
    assert full_accumulation(TrainConfig(batch=batch)) == batches


def test_batches_of_128_never_accumulate_even_in_warm_up():
    config = TrainConfig(batch=128)
    assert [settings_at(config, number, 50).accumulate for number in (0, 75, 150)] == [1, 1, 1]


def test_one_cycle_is_that_of_torch():
    config = TrainConfig(epochs=4, lr=0.01, schedule="one-cycle", peak_lr=0.1, warmup_epochs=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=100, div_factor=10, cycle_momentum=False
    )
    for batch_number in range(100):
        settings = settings_at(config, batch_number, 25)
        assert settings.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert settings.bias_lr == settings.lr
        assert settings.momentum == 0.937
        optimizer.step()
        theirs.step()
