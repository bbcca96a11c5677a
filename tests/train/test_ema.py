import math

import pytest
import torch
from torch import nn

from ossa.train.optim import EMA


def network(value: float) -> nn.Module:
    """Returns a batch norm whose weights and buffers all hold `value`."""
    norm = nn.BatchNorm1d(1)
    state = {key: torch.full_like(tensor, value) for key, tensor in norm.state_dict().items()}
    norm.load_state_dict(state)
    return norm


def test_three_updates_by_hand():
    average = EMA(network(1.0), decay=0.9, ramp=2.0)
    expected = 1.0
    for step, value in enumerate([5.0, -2.0, 3.0], start=1):
        average.update(network(value))
        decay = 0.9 * (1 - math.exp(-step / 2.0))
        expected = decay * expected + (1 - decay) * value
    assert average.updates == 3
    state = average.network.state_dict()
    for key in ("weight", "bias", "running_mean", "running_var"):
        assert state[key].item() == pytest.approx(expected)
    assert state["num_batches_tracked"].item() == 3  # an integer is copied, not averaged


def test_the_decay_of_yolov5_is_a_half_at_update_1386():
    # 0.9999 x (1 - exp(-1386 / 2000)) = 0.49988.
    average = EMA(network(0.0), decay=0.9999, ramp=2000.0)
    average.updates = 1385
    average.update(network(1.0))
    assert average.network.state_dict()["weight"].item() == pytest.approx(0.50012, abs=1e-5)


def test_the_average_is_a_copy_in_evaluation_mode_that_does_not_train():
    original = network(1.0).train()
    average = EMA(original, decay=0.9, ramp=2.0)
    assert original.training
    assert not average.network.training
    assert all(not p.requires_grad for p in average.network.parameters())
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.fill_(7.0)
    assert average.network.state_dict()["weight"].item() == 1.0
