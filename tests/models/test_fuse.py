"""The deployed form: the same function with fewer operations, whatever the network does."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, StdConv2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ossa.models.detector import Detector, create_detector
from ossa.models.fuse import fuse_detector, fuse_network


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def num_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def as_if_trained(network: Any, images: Tensor) -> Any:
    """Returns the network with factors, shifts and statistics that are not those of a fresh one."""
    torch.manual_seed(1)
    with torch.no_grad():
        for norm in norms_of(network):
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        network.train()(images)
    return network.eval()


def images_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@torch.no_grad()
def assert_same_function(network: nn.Module, images: Tensor) -> nn.Module:
    """Returns the deployed form of a network as if trained, once both have put out the same."""
    as_if_trained(network.double(), images)
    folded = fuse_network(network, images)
    expected = network(images)
    # A fault in the algebra cannot hide behind the rounding of numbers with 15 digits.
    torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9)
    return folded


def test_yolov5n_loses_one_parameter_a_channel_of_every_norm() -> None:
    with torch.device("meta"):
        detector = create_detector("yolov5n", num_classes=80)
    channels = sum(norm.num_features for norm in norms_of(detector))
    folded = fuse_detector(detector)
    # Scale and shift go, a bias comes. 1,867,405 is known of the original when fused.
    assert num_params(detector) - num_params(folded) == channels == 4752
    assert num_params(folded) == 1_867_405
    assert norms_of(folded) == []


def test_a_detector_finds_the_same_in_both_forms() -> None:
    detector = create_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    as_if_trained(detector, images)
    with torch.no_grad():
        expected, found = detector(images), fuse_detector(detector)(images)
    assert found.strides == expected.strides
    for level, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-3, atol=1e-3)


def test_the_detector_itself_stays_as_it_is() -> None:
    detector = create_detector("cspdarknet_n", num_classes=3, neck="n", imgsz=64).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    folded = fuse_detector(detector)
    assert detector.training
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    after = detector.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "name",
    [
        *("repvgg_a0", "fastvit_t8"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobileone_s0", "repvit_m0_9")),
    ],
)
@pytest.mark.usefixtures("double_precision")  # in which timm makes the new convolutions
def test_branches_are_added_up(name: str) -> None:
    network = timm.create_model(name, num_classes=10)
    folded = assert_same_function(network, images_of(4, 3, 64, 64))
    assert num_params(folded) < num_params(network)
    assert norms_of(folded) == []


def test_repvgg_has_one_convolution_a_block_left() -> None:
    with torch.device("meta"):
        network = timm.create_model("repvgg_a0", num_classes=10)
        folded = fuse_network(network, torch.empty(1, 3, 64, 64))
    # Stem and 2 + 4 + 14 + 1 blocks; each had a 3x3 and a 1x1.
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in n.modules()) for n in (network, folded)]
    assert convolutions == [2 * 22, 22]


class _Network(nn.Module):
    """A convolution and a norm, in the order of their use or not, and what is done with them."""

    def __init__(self, conv: nn.Module, norm: nn.Module, use: Any) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.use = use

    def forward(self, images: Tensor) -> Any:
        return self.use(self.conv, self.norm, images)


def _twice(conv: Any, norm: Any, x: Tensor) -> Tensor:
    return norm(conv(conv(x)))


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda conv, norm, x: norm(y := conv(x)) + y, id="read by a sum as well"),
        pytest.param(lambda conv, norm, x: (norm(y := conv(x)), y), id="also an output"),
        pytest.param(lambda conv, norm, x: norm(conv(x).relu()), id="another operation between"),
        pytest.param(lambda conv, norm, x: norm(conv(x).relu_()), id="one in place between"),
        pytest.param(lambda conv, norm, x: conv(norm(x)), id="norm first"),
        pytest.param(_twice, id="convolution used twice"),
        pytest.param(lambda conv, norm, x: norm(norm(conv(x))), id="norm used twice"),
    ],
)
def test_a_norm_stays_where_folding_it_would_change_the_function(use: Any) -> None:
    network = _Network(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), use)
    folded = assert_same_function(network, images_of(4, 3, 8, 8))
    assert len(norms_of(folded)) == 1


def test_a_norm_stays_behind_a_convolution_that_computes_its_weights() -> None:
    network = nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert len(norms_of(assert_same_function(network, images_of(4, 3, 8, 8)))) == 1


def test_a_norm_stays_where_someone_else_takes_its_output() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    taken: list[Any] = []
    network[1].register_forward_hook(lambda module, inputs, output: taken.append(output))
    folded = assert_same_function(network, images_of(4, 3, 8, 8))
    assert len(norms_of(folded)) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
    ],
    ids=["without bias", "grouped", "transposed"],
)
def test_a_norm_goes_into_any_plain_convolution(conv: nn.Module) -> None:
    network = nn.Sequential(conv, nn.BatchNorm2d(6))
    assert norms_of(assert_same_function(network, images_of(4, 4, 8, 8))) == []


def test_a_norm_with_an_activation_leaves_the_activation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4))
    folded = assert_same_function(network, images_of(4, 3, 8, 8))
    assert norms_of(folded) == []
    assert folded(images_of(1, 3, 8, 8)).min() == 0


class _OneSizeOnly(nn.Module):
    only_imgsz = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (64, 64)
        return self.conv(images / 255)


def test_a_backbone_of_one_image_size_is_traced_at_that_size() -> None:
    detector = Detector(_OneSizeOnly(), nn.BatchNorm2d(4), nn.Identity())  # type: ignore[arg-type]
    assert norms_of(fuse_detector(detector)) == []
