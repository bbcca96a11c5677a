"""The order in which the blocks concatenate, on which the official weights rest."""

import pytest
import torch
from torch import Tensor

from ossa.models.blocks import C3, SPPF, ConvNormAct
from ossa.models.neck import PAFPN
from ossa.types import Level


@torch.no_grad()
def forget(*convolutions: ConvNormAct, inputs: slice) -> None:
    """Makes convolutions blind to some of their input channels."""
    for convolution in convolutions:
        convolution.conv.weight[:, inputs] = 0


def sees(output: Tensor, source: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(output.sum(), source, retain_graph=True)
    return bool(gradient.abs().sum() > 0)


def test_c3_merges_the_bottlenecks_before_the_bypass():
    features = torch.randn(1, 8, 4, 4)
    for inputs, enter_counts in ((slice(0, 4), False), (slice(4, 8), True)):
        block = C3(8, 8, depth=2, residual=True).eval()
        forget(block.merge, inputs=inputs)
        output = block(features)
        assert sees(output, block.enter.conv.weight) == enter_counts
        assert sees(output, block.bypass.conv.weight) != enter_counts


@pytest.mark.parametrize(("kept", "reach"), [(0, 0), (1, 2), (2, 4), (3, 6)])
def test_sppf_concatenates_its_input_and_then_ever_wider_pools(kept: int, reach: int):
    block = SPPF(8).eval()
    forget(block.merge, inputs=slice(0, 4 * kept))
    forget(block.merge, inputs=slice(4 * kept + 4, 16))
    # Only the middle stands out; a pool of 5 carries it 2 cells in every direction.
    features = torch.zeros(1, 8, 15, 15)
    with torch.no_grad():
        block.enter.conv.weight.abs_()
        features[0, :, 7, 7] = 100.0
        output = block(features)[0]
    changed = (output != output[:, :1, :1]).any(dim=0)
    rows, columns = changed.nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (7 - reach, 7 + reach)
    assert (columns.min(), columns.max()) == (7 - reach, 7 + reach)


def test_the_neck_concatenates_what_comes_from_the_other_level_first():
    features = [torch.randn(1, 8, side, side, requires_grad=True) for side in (8, 4)]

    def neck() -> PAFPN:
        return PAFPN((Level(8, 8), Level(16, 8)), widths=(8, 8)).eval()

    def entries(block: torch.nn.Module) -> tuple[ConvNormAct, ConvNormAct]:
        assert isinstance(block, C3)
        return block.enter, block.bypass

    without_coarse = neck()
    forget(*entries(without_coarse.top_down[0]), inputs=slice(0, 8))
    fine, _ = without_coarse(features)
    assert (sees(fine, features[0]), sees(fine, features[1])) == (True, False)

    without_fine = neck()
    forget(*entries(without_fine.bottom_up[0]), inputs=slice(0, 8))
    _, coarse = without_fine(features)
    assert (sees(coarse, features[0]), sees(coarse, features[1])) == (False, True)


def test_a_bottleneck_adds_its_input_only_where_residual():
    features = torch.randn(1, 8, 4, 4)
    outputs = []
    for residual in (True, False):
        torch.manual_seed(0)
        block = C3(8, 8, depth=1, residual=residual).eval()
        outputs.append((block.enter(features), block.bottlenecks(block.enter(features))))
    (entered, added), (_, plain) = outputs
    torch.testing.assert_close(added, entered + plain)


def test_norms_are_yolov5s():
    norm = ConvNormAct(4, 4).norm
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)
