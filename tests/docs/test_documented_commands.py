"""Every command that README and docs/ show exists and takes the options that it is shown with.

Nothing is run here: `test_documented_steps.py` does that.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Sequence
from typing import Any

import pytest
import typer
from documentation import PAGES, REASONS, ROOT, Step, num_marks, spans_of, steps_of
from typer.testing import CliRunner

from ossa.cli.main import app

STEPS = [step for page in PAGES for step in steps_of(page)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = [step for step in STEPS if step.kind == "command"]


def find_command(words: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """Returns the command that the words begin with, its context, and the other words."""
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="ossa")
    rest = list(words)
    while hasattr(command, "resolve_command") and rest:
        name, command, rest = command.resolve_command(context, rest)
        context = command.context_class(command, info_name=name, parent=context)
    return command, context, rest


def check_ossa(words: Sequence[str]) -> None:
    """Raises typer's own error for an unknown command, a misspelt option or a value out of range.

    The command is looked up and its arguments are converted, as when it is called.
    """
    command, context, rest = find_command(words)
    command.make_context(context.info_name, rest, parent=context.parent)


def options_of(command: Any) -> set[str]:
    """Returns all names of the options of a command and of those below it."""
    own = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    context = command.context_class(command)
    below = getattr(command, "commands", {})
    commands = (command.resolve_command(context, [name])[1] for name in below)
    return own.union(*(options_of(one) for one in commands))


def check_torchrun(words: Sequence[str]) -> None:
    check_ossa(words[list(words).index("ossa") + 1 :])


def check_python(words: Sequence[str]) -> None:
    """Fails unless the program is there and knows the options."""
    if words[0] == "-c":
        ast.parse(words[1])
        return
    program = ROOT / words[0]
    assert program.is_file(), f"there is no {words[0]}"
    text = program.read_text()
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word}"' in text, f"{words[0]} has no {word}"


def check_pip(words: Sequence[str]) -> None:
    """Fails where an extra of ossa's is installed that there is not."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert words[0] in ("install", "uninstall")
    for word in words[1:]:
        name, _, asked = word.rstrip("]").partition("[")
        if name in ("ossa", "."):
            assert not asked or set(asked.split(",")) <= set(extras), f"no such extra: {word}"


def check_pytest(words: Sequence[str]) -> None:
    settings = PROJECT["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in settings["markers"]}
    for before, word in zip(("", *words), words, strict=False):
        if before == "-m":
            assert word in markers, f"no such marker: {word}"
        elif not word.startswith("-"):
            assert (ROOT / word).exists(), f"there is no {word}"


CHECKS = {
    "ossa": check_ossa,
    "torchrun": check_torchrun,
    "python": check_python,
    "pip": check_pip,
    "pytest": check_pytest,
    "mkdocs": lambda words: None,
}
"""What a documented command may begin with, and how the rest of it is looked at."""
NEVER_RUN = ("pip", "pytest", "mkdocs", "python")
"""They would change the environment, or are run by tests of their own."""


def named(step: Step) -> str:
    return f"{step.place} {step.text}"


@pytest.mark.parametrize("step", COMMANDS, ids=named)
def test_a_documented_command_parses(step: Step) -> None:
    program, *words = step.words
    if program in CHECKS:
        CHECKS[program](words)
    else:
        assert "package" in step.needs, f"{step.place}: {program} is not checked by any test"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_within_sentences_exist(page: str) -> None:
    known = options_of(typer.main.get_command(app)) | {"--help"}
    for span in spans_of(page):
        if span.startswith("--"):
            assert re.split(r"[\s=,]", span)[0] in known, f"{page}: no command has {span}"
        elif span.startswith("ossa "):
            command, _, rest = find_command(shlex.split(span)[1:])
            given = {word for word in rest if word.startswith("--")}
            assert given <= options_of(command) | {"--help"}, f"{page}: {span}"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.place)
def test_what_a_block_needs_is_among_the_reasons(step: Step) -> None:
    assert set(step.needs) <= set(REASONS), f"{step.place} needs {', '.join(step.needs)}"
    if step.kind == "command" and step.words[0] in NEVER_RUN:
        assert step.needs, f"{step.place}: {step.text} is not run, so it has to say what it needs"


@pytest.mark.parametrize("page", PAGES)
def test_every_mark_stands_right_before_a_block(page: str) -> None:
    marks, before_blocks = num_marks(page)
    assert marks == before_blocks


def test_there_are_commands_on_most_pages() -> None:
    assert len(COMMANDS) > 50
    assert {step.words[0] for step in COMMANDS} >= {"ossa", "pip", "torchrun"}


@pytest.mark.parametrize(
    "line",
    [
        "ossa trian --data bccd --model yolov5n",
        "ossa train --data bccd --model yolov5n --epoch 3",
        "ossa train --data bccd --model yolov5n --seed three",
        "ossa cost --imgsz 64",
        "ossa study plan",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    words = Step("here:1", "command", line, ()).words[1:]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    with pytest.raises(Exception, match=r"(?i)no such|valid|missing"):
        check_ossa(words)
