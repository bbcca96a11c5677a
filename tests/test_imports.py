"""What keeps the code in order: who may import whom, and how long anything may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ossa

ROOT = Path(ossa.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Each may import what stands before it.
ORDER = (
    *(
        "escaping",
        "boxes",
        "types",
        "errors",
        "files",
        "safe_yaml",
        "schema",
        "backbone_args",
        "model_config",
        "config",
    ),
    "recipes",
    "machine",
    *("viz", "models", "data", "evaluate", "train", "export", "predict", "cost", "study"),
    *("app", "cli", "__main__"),
)
LONGEST_FUNCTION, LONGEST_FILE = 60, 400


def part_of(file: Path) -> str:
    """Returns the first name below ossa: 'types', 'models', ..."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported_parts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields line and part of every import of ossa's, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "ossa":
                yield node.lineno, rest.partition(".")[0]


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_package_was_found():
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_before_it(file: Path):
    part = part_of(file)
    if part == "__init__":  # the public names
        return
    assert part in ORDER, f"{file}: a new part, give it a place in ORDER"
    # The version is the one thing that the whole package says of itself.
    allowed = {"__version__", *ORDER[: ORDER.index(part) + 1]}
    wrong = [
        f"{file}:{line} imports ossa.{name}"
        for line, name in imported_parts(ast.parse(file.read_text()))
        if name not in allowed
    ]
    assert wrong == []


def test_an_import_inside_a_function_is_seen():
    code = "import ossa.train.loop\ndef f():\n    from ossa.study import run\n    import torch\n"
    assert list(imported_parts(ast.parse(code))) == [(1, "train"), (3, "study")]


# The experiment is read from top to bottom, so its steps are not spread over functions.
LONG_FUNCTIONS = {("train/loop.py", "fit")}


def test_no_function_is_longer_than_60_lines():
    # Counted from the docstring on: the options of a command are declared in its signature.
    long = [
        f"{file}:{function.lineno} {function.name} has {lines} lines"
        for file in FILES
        for function in functions_of(ast.parse(file.read_text()))
        if (lines := (function.end_lineno or 0) - function.body[0].lineno + 1) > LONGEST_FUNCTION
        and (str(file.relative_to(ROOT)), function.name) not in LONG_FUNCTIONS
    ]
    assert long == []


def test_no_file_is_longer_than_400_lines():
    counts = {str(file): len(file.read_text().splitlines()) for file in FILES}
    assert [file for file, lines in counts.items() if lines > LONGEST_FILE] == []
