"""The names that `import ossa` offers, and the calls that take a few words."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ossa
from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError, DataError
from ossa.evaluate.evaluator import evaluate_detector
from ossa.train.run_folder import read_record
from ossa.train.setup import run_config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "predict.py"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keeps small networks from waiting for threads that other processes hold up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_there_are_about_forty_names_and_each_is_there_and_documented() -> None:
    assert 35 <= len(ossa.__all__) <= 50
    for name in ossa.__all__:
        assert getattr(ossa, name).__doc__, name


def test_type_checkers_see_the_same_names_at_the_same_places() -> None:
    tree = ast.parse(Path(ossa.__file__).read_text())
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    seen = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(ossa._HOMES.items())
    assert sorted(ossa.__all__) == sorted(ossa._HOMES)


def test_the_citation_has_the_version_of_the_package() -> None:
    assert f"\nversion: {ossa.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_no_name_hides_a_part_of_the_package() -> None:
    parts = {module.name for module in pkgutil.iter_modules(ossa.__path__)}
    assert parts.isdisjoint(ossa.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import ossa, sys; print(sorted({'torch', 'numpy', 'timm', 'cv2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ossa' has no attribute 'lode'"):
        ossa.lode  # noqa: B018
    assert "load" in dir(ossa)


def test_a_preset_keeps_its_neck_and_a_backbone_gets_one() -> None:
    assert run_config(data="x", model="yolov5n").model.neck == "own"
    config = run_config(
        data="x",
        model="resnet18",
        recipe="quick",
        settings={"seed": 3, "train": {"epochs": 2}, "model": {"strides": [8, 16]}},
    )
    assert (config.model.neck, config.model.strides, config.seed) == ("s", (8, 16), 3)
    assert (config.train.epochs, config.train.schedule) == (2, "cosine")


def test_a_run_is_not_started_in_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"a new or empty folder for the run, found {tmp_path}"):
        ossa.train_detector(data="x", model="yolov5n", folder=tmp_path)


def test_data_are_read_as_training_sees_them(tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "scenes", images={"val": 2}, imgsz=128)
    damaged = sorted((tmp_path / "scenes").rglob("*.png"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-400])
    report = ossa.read_data(data)
    assert len(report.index) == 1
    assert [issue.path for issue in report.issues] == [damaged]
    with pytest.raises(DataError, match=str(damaged)):
        ossa.read_data(data, strict=True)


@pytest.mark.usefixtures("one_thread")
def test_the_example_trains_loads_predicts_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("predict_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")

    weights, data = tmp_path / "run" / "best.safetensors", tmp_path / "scenes"
    metrics = evaluate_detector(weights, data)
    record = read_record(tmp_path / "run")
    assert metrics.num_images == 2
    assert metrics.flat() == {key: record.metrics["best"][key] for key in metrics.flat()}

    (data / "data.yaml").write_text((data / "data.yaml").read_text().replace("disc", "disk"))
    with pytest.raises(ConfigError, match=r"has 4 classes \(disc, .*has 4 \(disk, "):
        evaluate_detector(weights, data)
