"""A state that cannot be read is refused, with what is left to do."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ossa.errors import CheckpointError
from ossa.train.checkpoint import STATE_FILE, load_state
from ossa.train.ema import ModelAverage


def test_a_state_that_is_cut_short_names_the_weights_that_are_whole(tmp_path: Path) -> None:
    torch.save({"numbers": torch.zeros(1000)}, tmp_path / STATE_FILE)
    whole = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(whole[: len(whole) // 2])
    layer = nn.Linear(1, 1)
    with pytest.raises(
        CheckpointError, match=rf"{STATE_FILE} is damaged .* --weights {tmp_path}/last\.safetensors"
    ):
        load_state(
            tmp_path,
            detector=layer,
            optimizer=torch.optim.SGD(layer.parameters()),
            average=ModelAverage(layer, decay=0.9, ramp=1),
            identity={},
        )
