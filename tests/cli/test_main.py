"""The entry point: what is imported, what is suggested, and how a command ends."""

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import typer
from running import Ossa
from torch._utils import ExceptionWrapper
from typer.testing import CliRunner, Result

from ossa import __version__
from ossa.cli.main import app, main, with_exit_code
from ossa.errors import ConfigError, DataError, RunFailed


def ended(error: BaseException) -> Result:
    """Returns how a command ends that raises `error`."""
    commands = typer.Typer()

    @commands.command()
    @with_exit_code
    def fail() -> None:
        raise error

    return CliRunner().invoke(commands)


def test_the_help_lists_every_command(ossa: Ossa) -> None:
    result = ossa("--help")
    assert result.exit_code == 0
    for command in ("train", "pretrain", "val", "predict", "cost", "demo"):
        assert f"│ {command} " in result.stdout


def test_options_as_ultralytics_writes_them_are_told(ossa: Ossa) -> None:
    for words in ("train", "detect train"):
        result = ossa(*words.split(), "data=cells", "model=yolov8n")
        assert result.exit_code == 2
        assert "options begin with two hyphens: --data cells" in result.stderr


@pytest.mark.parametrize("command", ["train", "pretrain", "val", "predict", "cost", "demo"])
def test_every_command_has_a_help_with_json_in_it(ossa: Ossa, command: str) -> None:
    result = ossa(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_the_list_of_commands_has_the_first_sentence_of_the_help_of_each() -> None:
    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="ossa")
    for name, listed in group.commands.items():
        _, command, _ = group.resolve_command(context, [name])
        assert command.help.startswith(listed.help), name


_LOOK_WHEN_TORCH_IS_IMPORTED = """
import os, sys

class Look:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Look())
sys.argv = ["ossa", "train", "--data", "nowhere", "--model", "yolov5n", "--threads", "1"]
"""


@pytest.mark.parametrize(
    "program",
    [
        "from ossa.cli.main import main; main()",
        "import runpy; runpy.run_module('ossa', run_name='__main__')",
        "import ossa; ossa.train_detector",
    ],
)
@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_before_torch_is_imported(
    program: str, given: str | None, expected: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    command = [sys.executable, "-c", _LOOK_WHEN_TORCH_IS_IMPORTED + program]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert done.stdout.decode().split() == [expected]


def test_the_help_needs_no_heavy_import() -> None:
    program = (
        "import json, sys, ossa.cli.main; "
        "print(json.dumps([n for n in ('torch', 'timm', 'cv2', 'numpy', 'pydantic') "
        "if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_version_is_printed(ossa: Ossa) -> None:
    versions = f"torch {version('torch')}, timm {version('timm')}"
    assert ossa("--version").stdout == f"ossa {__version__} ({versions})\n"


def test_the_shell_completes_commands_and_options() -> None:
    for words, expected in (("ossa exp", "export"), ("ossa train --rec", "--recipe")):
        environment = {
            **os.environ,
            "_OSSA_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        command = [sys.executable, "-m", "ossa"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.stdout.split() == [expected]


def test_a_misspelt_command_is_answered_with_the_near_one(ossa: Ossa) -> None:
    result = ossa("predit")
    assert result.exit_code == 2
    assert "No such command 'predit'. Did you mean 'predict'?" in result.stderr


def test_a_misspelt_option_is_answered_with_the_near_one(ossa: Ossa) -> None:
    result = ossa("train", "--epoch", "3")
    assert result.exit_code == 2
    assert "No such option: --epoch" in result.stderr
    assert "--epochs" in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "stderr"),
    [
        (ConfigError("expected 1, found 2"), 2, "error: expected 1, found 2\n"),
        (RunFailed("the loss is not finite"), 1, "error: the loss is not finite\n"),
        (DataError("first\n   second"), 2, "error: first second\n"),
        (KeyboardInterrupt(), 1, "error: stopped before it was done\n"),
    ],
)
def test_an_error_ends_with_its_code_and_one_sentence(
    error: BaseException, exit_code: int, stderr: str
) -> None:
    result = ended(error)
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", stderr)


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), NotImplementedError()])
def test_an_unforeseen_error_ends_with_1_and_says_how_to_see_more(error: Exception) -> None:
    result = ended(error)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {type(error).__name__}: ")
    assert "OSSA_DEBUG=1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_ossa_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSA_DEBUG", "1")
    result = ended(ConfigError("expected 1, found 2"))
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.endswith("error: expected 1, found 2\n")


def test_an_error_from_a_loading_process_is_told_without_its_traceback() -> None:
    try:
        raise DataError("image 7 cannot be decoded")
    except DataError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError) as sent:
        wrapped.reraise()
    assert "Original Traceback" in str(sent.value)
    result = ended(sent.value)
    assert (result.exit_code, result.stderr) == (2, "error: image 7 cannot be decoded\n")


def test_a_misspelt_value_is_told_without_the_words_of_a_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ossa.cli.main.keep_freed_memory", lambda: None)
    monkeypatch.setattr("sys.argv", ["ossa", "study", "run", "x", "--until", "decidd"])
    with pytest.raises(SystemExit):
        main()
    assert "'--until': 'decidd' is not one of 'done', 'decided'." in capsys.readouterr().err


def test_a_misspelt_command_line_is_shown_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ossa.cli.main.keep_freed_memory", lambda: None)
    for arguments, code in (
        (["predict", "a", "rtsp://me:secret@h/1?token=abc", "--weights", "x"], 2),
        (["predict", "rtsp://me:secret@h/1?token=abc", "b", "--weights", "x"], 2),
        (["predict", "--weights", "x", "--wrong", "rtsp://me:secret@h/1"], 2),
        (["rtsp://me:secret@h/1"], 2),
        ([], 2),
        (["--version"], 0),
    ):
        monkeypatch.setattr("sys.argv", ["ossa", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        out, err = capsys.readouterr()
        assert "secret" not in out + err
        assert "abc" not in out + err


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 999), 2, "could not use aaa"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "could not use runs: Perm"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "could not use x: No space"),
        (MemoryError(), 1, "the machine has no memory for this: take a smaller --imgsz"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1, "no memory for"),
        (RuntimeError("operator torchvision::nms does not exist"), 1, "of different builds"),
    ],
)
def test_what_the_machine_refuses_is_told_in_a_sentence(
    error: Exception, exit_code: int, sentence: str
) -> None:
    result = ended(error)
    assert result.exit_code == exit_code
    assert sentence in result.stderr
    assert "not foreseen" not in result.stderr
    assert len(result.stderr) < 300


HUGE = "1" + "0" * 30


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", "d", "--model", "yolov5n", "--imgsz", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--batch", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--epochs", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--seed", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--patience", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--workers", HUGE),
        ("train", "--data", "d", "--model", "yolov5n", "--set", f"evaluate.max_detections={HUGE}"),
        ("train", "--data", "d", "--model", "yolov5n", "--set", f"model.strides=[{HUGE}]"),
        ("cost", "yolov5n", "--imgsz", str(2**63)),
        ("cost", "yolov5n", "--classes", HUGE),
        ("bench", "yolov5n", "--batch", HUGE),
        ("backbones", "--imgsz", str(2**63)),
        ("compare", "a", "b", "--resamples", HUGE),
    ],
    ids=" ".join,
)
def test_huge_integers_are_refused_in_a_sentence(ossa: Ossa, arguments: tuple[str, ...]) -> None:
    result = ossa(*arguments)
    assert result.exit_code == 2
    assert "not foreseen" not in result.stderr
    assert len(result.stderr) < 1000
