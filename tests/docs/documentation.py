"""README.md and docs/*.md as steps, in their order: the files, the Python and the commands shown.

Only fenced blocks count: `bash`, `python`, and others that have a title, which is the file that a
reader would write. What cannot be run here says so in a comment right before its block:

    <!-- needs: network, minutes -->
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *("CONTRIBUTING.md", "README.md", "SECURITY.md"),
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md"))),
)
REASONS = {
    "camera": "a camera or a stream",
    "cluster": "a Ray or Slurm cluster",
    "coco": "COCO, at its size",
    "display": "a screen, or a browser that waits",
    "gpu": "a GPU",
    "imagenet": "ImageNet, at its size",
    "minutes": "more than a minute of a processor, however small its data",
    "network": "the network",
    "package": "a package that is not among the development extras",
    "wandb": "an account of Weights & Biases",
    "weights": "the official YOLOv5 weights",
}
"""All that a block may need, and in words."""

_BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^\n]*?) -->\n+)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_SETTING = re.compile(r"[A-Z_]+=")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_MARK = re.compile(r"<!--\s*needs")


@dataclass(frozen=True)
class Step:
    """A file, a piece of Python or one command."""

    place: str
    """Page and line of its block, such as docs/data.md:5."""
    kind: Literal["file", "python", "command"]
    text: str
    """Content of the file, the program, or the command as it is written."""
    needs: tuple[str, ...]
    """Reasons for which it cannot run here; empty where it can."""
    title: str = ""
    """Path of the file."""

    @property
    def words(self) -> list[str]:
        """A command as the shell passes it on, without its environment and redirected output."""
        words = shlex.split(self.text, comments=True)
        words = words[: words.index(">")] if ">" in words else words
        return words[len(self.environment) :]

    @property
    def environment(self) -> dict[str, str]:
        """What is set for one command, as in `NAME=value command`."""
        words = shlex.split(self.text, comments=True)
        settings = itertools.takewhile(_SETTING.match, words)
        return dict(word.split("=", 1) for word in settings)


def steps_of(page: str) -> list[Step]:
    """Returns the steps of a page in their order."""
    content = (ROOT / page).read_text()
    return [step for block in _BLOCK.finditer(content) for step in _steps(page, content, block)]


def spans_of(page: str) -> list[str]:
    """Returns what a page shows as code within its sentences."""
    return _SPAN.findall(_BLOCK.sub("", (ROOT / page).read_text()))


def num_marks(page: str) -> tuple[int, int]:
    """Returns how many marks a page has, and how many of them stand right before a block."""
    content = (ROOT / page).read_text()
    before = sum(block["needs"] is not None for block in _BLOCK.finditer(content))
    return len(_MARK.findall(content)), before


def _steps(page: str, content: str, block: re.Match[str]) -> Iterator[Step]:
    place = f"{page}:{content.count(chr(10), 0, block.start('language')) + 1}"
    needs = tuple(word.strip() for word in block["needs"].split(",")) if block["needs"] else ()
    text, title = block["text"], block["title"] or ""
    if title:
        yield Step(place, "file", text, needs, title)
    elif block["language"] == "python":
        yield Step(place, "python", text, needs)
    elif block["language"] == "bash":
        for line in text.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                step = Step(place, "command", command.strip(), needs)
                if step.words:
                    yield step
