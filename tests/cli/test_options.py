"""Device and workers, as users name them."""

import pytest

from ossa.cli.options import choose_device, choose_workers
from ossa.errors import ConfigError


def have_gpus(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: number > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: number)


@pytest.mark.parametrize(
    ("wanted", "gpus", "chosen"),
    [
        (None, 0, "cpu"),
        (None, 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("0", 1, "cuda:0"),
        ("1", 2, "cuda:1"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_is_named_in_any_usual_way(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, gpus: int, chosen: str
) -> None:
    have_gpus(gpus, monkeypatch)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "gpus", "sentence"),
    [
        ("0", 0, "for --device 0, found no CUDA device that PyTorch can use"),
        ("cuda", 0, "found no CUDA device"),
        ("1", 1, "for --device 1, found 1 CUDA device"),
        ("cuda:2", 2, "found 2 CUDA devices, counted from 0"),
        ("0,1", 2, "Expected --device cpu, cuda, mps or the number of a GPU, found '0,1'"),
        ("cuda:", 2, "found 'cuda:'"),
        ("-1", 2, "found '-1'"),
    ],
)
def test_an_absent_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int, sentence: str
) -> None:
    have_gpus(gpus, monkeypatch)
    with pytest.raises(ConfigError) as refusal:
        choose_device(wanted)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("device", "wanted", "processors", "chosen"),
    [
        *[("cuda:0", None, 1, 1), ("cuda:0", None, 2, 1), ("cuda:0", None, 6, 3)],
        *[("cuda:0", None, 64, 8), ("cuda:0", 0, 64, 0), ("cuda:0", 12, 2, 12)],
        *[("cpu", None, 2, 0), ("cpu", None, 4, 1), ("cpu", None, 64, 8), ("cpu", 3, 2, 3)],
    ],
)
def test_as_many_workers_as_leave_a_network_its_processors(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: int | None, processors: int, chosen: int
) -> None:
    monkeypatch.setattr("ossa.cli.options.count_processors", lambda: processors)
    assert choose_workers(wanted, device=device) == chosen
