"""Every hostile file here is one that does harm when it is opened with `pickle`."""

import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2

from ossa.errors import CheckpointError
from ossa.files import sha256_of
from ossa.models.yolov5_weights import read_torch_network


class _Call:
    """Becomes, in a pickle, a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class _Stored:
    """Becomes, in `_pickled`, a reference to the storage `data/0` of `numel` float32 numbers."""

    def __init__(self, numel: int) -> None:
        self.numel = numel


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Stored):
            return "storage", torch.FloatStorage, "0", "cpu", obj.numel
        return None


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def _archive(
    path: Path, pickled: bytes, *, storage: bytes = b"", compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    return path


def _view(numel: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> _Call:
    return _Call(_rebuild_tensor_v2, _Stored(numel), offset, shape, strides, False, {})


class _Block(nn.Module):
    __module__ = "models.common"
    __qualname__ = "Conv"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("grid", torch.zeros(1), persistent=False)


class _Network(nn.Module):
    __module__ = "models.yolo"
    __qualname__ = "DetectionModel"

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(_Block(), nn.SiLU(), nn.ModuleList([nn.Linear(2, 1)]))
        self.register_buffer("anchors", torch.arange(6.0).view(1, 3, 2))
        self.names: list[str] | dict[int, str] = ["femur", "skull"]
        self.stride = torch.tensor([8.0, 16.0])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> _Network:
    """A network whose classes pickle knows as those of packages that only this test has."""
    packages = {name: types.ModuleType(name) for name in ("models", "models.common", "models.yolo")}
    for kind in (_Network, _Block):
        setattr(packages[kind.__module__], kind.__qualname__, kind)
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    return _Network()


def _assert_same_state(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


# What is read


def test_a_module_gives_its_state_dict_without_its_classes(
    network: _Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.save(
        {"epoch": 7, "model": network, "ema": None, "license": "AGPL-3.0"}, tmp_path / "n.pt"
    )
    expected = network.state_dict()
    for name in ("models", "models.common", "models.yolo"):
        monkeypatch.delitem(sys.modules, name)
    checkpoint = read_torch_network(tmp_path / "n.pt")
    _assert_same_state(checkpoint.tensors, expected)
    assert "model.0.grid" not in checkpoint.tensors
    assert checkpoint.names == ("femur", "skull")
    assert checkpoint.licence == "AGPL-3.0"
    assert "models" not in sys.modules


def test_half_precision_stays_half(network: _Network, tmp_path: Path):
    torch.save({"model": network.half()}, tmp_path / "half.pt")
    tensors = read_torch_network(tmp_path / "half.pt").tensors
    assert tensors["model.0.conv.weight"].dtype == torch.float16
    assert tensors["model.0.bn.num_batches_tracked"].dtype == torch.int64


def test_ema_is_preferred_to_model(network: _Network, tmp_path: Path):
    ema = _Network()
    torch.save({"model": network, "ema": ema}, tmp_path / "both.pt")
    _assert_same_state(read_torch_network(tmp_path / "both.pt").tensors, ema.state_dict())


def test_class_names_may_be_a_dict(network: _Network, tmp_path: Path):
    network.names = {0: "femur", 1: "skull"}
    torch.save({"model": network}, tmp_path / "n.pt")
    assert read_torch_network(tmp_path / "n.pt").names == ("femur", "skull")


def test_class_names_with_a_gap_are_an_error(network: _Network, tmp_path: Path):
    network.names = {0: "femur", 2: "skull"}
    torch.save({"model": network}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match="class names"):
        read_torch_network(tmp_path / "n.pt")


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_state_dict_is_read_alone_or_under_its_key(tmp_path: Path, key: str | None):
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "state.pt")
    checkpoint = read_torch_network(tmp_path / "state.pt")
    _assert_same_state(checkpoint.tensors, state)
    assert checkpoint.names == ()


_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool)
_DTYPES += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_common_dtype_is_kept(tmp_path: Path, dtype: torch.dtype):
    state = {"x": torch.tensor([0, 1, 1]).to(dtype)}
    torch.save(state, tmp_path / "x.pt")
    _assert_same_state(read_torch_network(tmp_path / "x.pt").tensors, state)


def test_views_scalars_and_empty_tensors_are_kept(tmp_path: Path):
    whole = torch.arange(12.0).view(3, 4)
    state = {
        "whole": whole,
        "columns": whole.T[1:3],
        "scalar": torch.tensor(5.0),
        "empty": torch.empty(0, 4),
        "channels_last": torch.rand(1, 2, 3, 4).to(memory_format=torch.channels_last),
    }
    torch.save(state, tmp_path / "views.pt")
    _assert_same_state(read_torch_network(tmp_path / "views.pt").tensors, state)


def test_numbers_of_numpy_beside_the_network_do_no_harm(network: _Network, tmp_path: Path):
    torch.save({"model": network, "best_fitness": np.float64(0.5)}, tmp_path / "n.pt")
    checkpoint = read_torch_network(tmp_path / "n.pt")
    assert len(checkpoint.tensors) == len(network.state_dict())


@pytest.mark.realdata
def test_the_official_yolov5n_is_read(shared: Path):
    path = shared / "weights" / "yolov5n.pt"
    assert sha256_of(path).startswith("4f180cf2")
    checkpoint = read_torch_network(path)
    assert len(checkpoint.tensors) == 349
    buffers = ("running_mean", "running_var", "num_batches_tracked", "anchors")
    parameters = [t for name, t in checkpoint.tensors.items() if not name.endswith(buffers)]
    assert sum(tensor.numel() for tensor in parameters) == 1_872_157
    assert {tensor.dtype for tensor in parameters} == {torch.float16}
    assert checkpoint.tensors["model.0.conv.weight"].shape == (16, 3, 6, 6)
    anchors = checkpoint.tensors["model.24.anchors"]
    assert anchors.shape == (3, 3, 2)
    pixels = anchors.float() * torch.tensor([8.0, 16.0, 32.0]).view(3, 1, 1)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([10.0, 13.0]))
    assert (len(checkpoint.names), checkpoint.names[0]) == (80, "person")


# What would run


@pytest.mark.parametrize("place", ["alone", "beside the network"])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (lambda marker: _Call(os.system, f"touch '{marker}'"), f"{os.system.__module__}.system"),
        (lambda marker: _Call(eval, f"open('{marker}', 'w').close()"), "__builtin__.eval"),
        (lambda marker: _Call(open, str(marker), "w"), ".*open"),
    ],
)
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(
    network: _Network, tmp_path: Path, payload: Any, name: str, place: str
):
    marker, path = tmp_path / "marker", tmp_path / "yolov5n.pt"
    hostile = payload(marker)
    torch.save(
        hostile if place == "alone" else {"model": network, "optimizer": {"state": [hostile]}}, path
    )
    with pytest.raises(CheckpointError, match=rf"yolov5n\.pt: refused, for it asks for {name}"):
        read_torch_network(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the proof that the file is loaded, and not a dud
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("__builtin__ getattr", "builtins eval", "__builtin__ __import__", "nt system"),
        *("importlib import_module", "torchevil run", "__main__ run", "_codecs lookup", " eval"),
    ],
)
def test_a_name_that_no_network_has_is_refused_even_if_unused(tmp_path: Path, name: str):
    tensor = _pickled({"x": _view(1, 0, (1,), (1,))})
    unused = f"c{name.replace(' ', chr(10))}\n".encode()
    path = _archive(tmp_path / "n.pt", tensor[:2] + unused + tensor[2:], storage=bytes(4))
    with pytest.raises(
        CheckpointError, match=f"refused, for it asks for {name.replace(' ', '.')},"
    ):
        read_torch_network(path)


def test_a_class_of_a_known_package_is_never_built_or_called(
    network: _Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.save({"model": network, "extra": _Call(np.full, 3, 1.0)}, tmp_path / "n.pt")

    def fail(*_: Any) -> None:
        raise AssertionError("code of the file's classes ran")

    for kind in (_Network, _Block):
        for method in ("__new__", "__init__", "__setstate__"):
            monkeypatch.setattr(kind, method, fail, raising=False)
    monkeypatch.setattr(np, "full", fail)
    assert len(read_torch_network(tmp_path / "n.pt").tensors) == len(network.state_dict())


def test_a_foreign_name_cannot_steer_the_terminal(tmp_path: Path):
    path = _archive(tmp_path / "n.pt", b"\x80\x02cos\n\x1b[31m" + b"x" * 1000 + b"\n.")
    with pytest.raises(CheckpointError) as caught:
        read_torch_network(path)
    assert r"os.\x1b[31mxxx" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


# What is damaged, or no weights file at all


def _saved(path: Path) -> bytes:
    torch.save({"model": nn.Linear(2, 2), "epoch": 1}, path)
    return path.read_bytes()


def test_a_truncated_file_is_told_at_every_length(tmp_path: Path):
    path = tmp_path / "cut.pt"
    content = _saved(path)
    for length in range(1, len(content), 50):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pt"):
            read_torch_network(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (np.random.default_rng(0).bytes(1000), "expected a zip file"),
        (b"PK\x03\x04 and no more", "damaged"),
        (pickle.dumps({"a": 1}, protocol=2), "before version 1.6"),
    ],
)
def test_what_is_no_zip_file_is_told(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "n.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"n\.pt.*{message}"):
        read_torch_network(tmp_path / "n.pt")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path):
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            read_torch_network(path)


def test_a_zip_file_without_a_pickle_is_told(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
        archive.writestr("archive/readme.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"one data\.pkl.*found 0"):
        read_torch_network(tmp_path / "n.pt")


def test_an_encrypted_zip_file_is_told(tmp_path: Path):
    content = bytearray(_archive(tmp_path / "n.pt", _pickled({})).read_bytes())
    for signature, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags_at] |= 1
    (tmp_path / "n.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        read_torch_network(tmp_path / "n.pt")


def test_a_pickle_of_another_protocol_is_told(tmp_path: Path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "n.pt", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"expected a pickle of protocol 2, .* found PROTO 4"):
        read_torch_network(tmp_path / "n.pt")


def test_the_byte_order_of_another_machine_is_told(tmp_path: Path):
    path = _archive(tmp_path / "n.pt", _pickled({"x": _view(1, 0, (1,), (1,))}), storage=bytes(4))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big" if sys.byteorder == "little" else "little")
    with pytest.raises(CheckpointError, match="byte order"):
        read_torch_network(path)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, {"epoch": 3, "model": {}}, [], "weights"])
def test_a_file_without_tensors_is_told(tmp_path: Path, value: Any):
    torch.save(value, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match=r"dense tensor|found no tensors"):
        read_torch_network(tmp_path / "n.pt")


def test_a_tensor_that_is_not_dense_is_named(tmp_path: Path):
    torch.save({"bone": torch.eye(2).to_sparse()}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match=r"dense tensor as its bone.*_rebuild_sparse_tensor"):
        read_torch_network(tmp_path / "n.pt")


def test_a_dtype_that_no_network_has_is_told(tmp_path: Path):
    torch.save({"x": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match=r"found torch\.ComplexFloatStorage"):
        read_torch_network(tmp_path / "n.pt")


# What would take all memory, or memory that is not its own


@pytest.mark.parametrize(
    "view",
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2,), (4,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 4, (), ()),
        (4, 0, (2**40,), (0,)),
        (5, 0, (4,), (1,)),
        (3, 0, (3,), (1,)),
        (2**62, 0, (4,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_told(tmp_path: Path, view: Any):
    path = _archive(tmp_path / "n.pt", _pickled({"x": _view(*view)}), storage=bytes(16))
    with pytest.raises(CheckpointError, match=r"beyond its storage|storage 0 has 16 bytes"):
        read_torch_network(path)


@pytest.mark.parametrize(
    "view",
    [
        (4, -1, (4,), (1,)),
        (4, 3, (4,), (-1,)),
        (4, 0, (-2, -2), (1, 1)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (2.0,), (1,)),
        (4, 0, "22", "11"),
        (4, 0, (1,) * 1000, (1,) * 1000),
        (4, 0, (0, 2**70), (1, 1)),
        (4, 0, (1, 1), (2**70, 1)),
    ],
)
def test_a_tensor_with_a_malformed_shape_is_told(tmp_path: Path, view: Any):
    path = _archive(tmp_path / "n.pt", _pickled({"x": _view(*view)}), storage=bytes(16))
    with pytest.raises(CheckpointError, match="damaged"):
        read_torch_network(path)


def test_a_compressed_member_is_refused_before_it_grows(tmp_path: Path):
    path = _archive(
        tmp_path / "bomb.pt",
        _pickled({"x": _view(1 << 24, 0, (1 << 24,), (1,))}),
        storage=bytes(1 << 26),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_network(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        archive.writestr("archive/data.pkl", _pickled({}))
        archive.writestr("archive/data/0", bytes(10_000))
        for number in range(1, 50):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            for slot in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copy, slot, getattr(archive.getinfo("archive/data/0"), slot))
            archive.filelist.append(copy)
    with pytest.raises(CheckpointError, match="larger than the file itself"):
        read_torch_network(tmp_path / "bomb.pt")


def _key(value: bytes) -> bytes:
    """Returns a pickle of a dict whose only key is what `value` pushes."""
    return b"\x80\x02}" + value + b"Ns."


@pytest.mark.parametrize(
    "pickled",
    [
        _key(b")" + b"\x85" * 200_000),  # hashing it overflows the stack of C
        _key(b")" + b"q\x00h\x00\x86" * 100),  # a pair of pairs of pairs: 2^100 leaves to hash
        b"\x80\x02}r\xff\xff\xff\xff.",  # a memo of 4 billion places
        b"\x80\x02" + b"]" * 1_000_001 + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a whole number of 2 GiB
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    ],
    ids=["deep key", "wide key", "memo", "operations", "long", "string", "marks"],
)
def test_a_pickle_bomb_ends_quickly_in_an_error(tmp_path: Path, pickled: bytes):
    with pytest.raises(CheckpointError, match=r"bomb\.pt"):
        read_torch_network(_archive(tmp_path / "bomb.pt", pickled))


def test_a_module_that_contains_itself_is_told(network: _Network, tmp_path: Path):
    network.model[0]._modules["again"] = network
    torch.save({"model": network}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match="names of at most 500 letters"):
        read_torch_network(tmp_path / "n.pt")


def test_a_module_that_unfolds_to_a_billion_is_told(tmp_path: Path):
    module: nn.Module = nn.Identity()
    for _ in range(30):
        module = nn.Sequential(module, module)
    torch.save({"model": module}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match="more than 100,000 entries"):
        read_torch_network(tmp_path / "n.pt")


# Random damage


def _flipped(content: bytes, generator: np.random.Generator) -> bytes:
    changed = np.frombuffer(content, np.uint8).copy()
    places = generator.integers(len(changed), size=generator.integers(1, 6))
    changed[places] ^= generator.integers(1, 256, size=len(places), dtype=np.uint8)
    return changed.tobytes()


def _is_read(path: Path) -> bool:
    """Returns whether the file is read; fails with anything but CheckpointError."""
    try:
        tensors = read_torch_network(path).tensors
    except CheckpointError:
        return False
    assert all(isinstance(name, str) for name in tensors)
    assert sum(tensor.double().sum() for tensor in tensors.values()) is not None  # reads them all
    return True


def test_100_files_with_random_bytes_changed_are_read_or_told(tmp_path: Path):
    path = tmp_path / "n.pt"
    content = _saved(path)
    generator = np.random.default_rng(0)
    outcomes = []
    for _ in range(100):
        path.write_bytes(_flipped(content, generator))
        outcomes.append(_is_read(path))
    assert 0 < sum(outcomes) < 100


def test_100_pickles_with_random_bytes_changed_are_read_or_told(network: _Network, tmp_path: Path):
    torch.save({"model": network, "epoch": 1}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    generator = np.random.default_rng(1)
    outcomes = []
    for _ in range(100):
        with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
            for name, content in members.items():
                is_pickle = name.endswith("data.pkl")
                archive.writestr(name, _flipped(content, generator) if is_pickle else content)
        outcomes.append(_is_read(tmp_path / "n.pt"))
    assert 0 < sum(outcomes) < 100
