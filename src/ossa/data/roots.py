"""Which files a data set may name: those in the folders that its data.yaml names."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

ALLOW_OUTSIDE_VARIABLE: Final = "OSSA_ALLOW_OUTSIDE"
"""Of the environment, so that all processes of a training or a study have it; 1 is yes."""
_LEFT_BY_MACOS: Final = "__MACOSX"


LEFT_OUTSIDE: Final = (
    "left out; to read it say --allow-outside, or name its folder under key 'outside' of the "
    "data.yaml"
)
"""What is done about a file that may not be read."""


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is one that its system or a tool keeps for itself.

    These are names that begin with a dot, such as `.ipynb_checkpoints` and the `._0001.jpg` that
    macOS leaves on foreign disks, and `__MACOSX`.
    """
    return name == _LEFT_BY_MACOS or (name.startswith(".") and name not in (".", ".."))


def is_hidden_below(path: str, root: str | Path) -> bool:
    """Returns whether a file, or a folder on the way to it from the root, is hidden."""
    prefix = os.path.join(root, "")
    inner = path[len(prefix) :] if path.startswith(prefix) else os.path.basename(path)
    return any(map(is_hidden, inner.split(os.sep)))


@dataclass(frozen=True)
class Roots:
    """The folders in which files may be read; links count by where they lead.

    Names in lists, JSON and XML come from whoever made the data set. Without this bound
    `../../../etc/passwd` among the images would be copied by `ossa data convert --copy-images`.
    """

    folders: tuple[str, ...] | None = None
    """Real paths; what is in them may be read. None: everything may."""
    _real_folders: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def chosen(cls, folders: Iterable[str | Path], *, allow_outside: bool | None = None) -> Self:
        """Returns the bound; everything where that is allowed, by OSSA_ALLOW_OUTSIDE if None."""
        if allow_outside is None:
            allow_outside = os.environ.get(ALLOW_OUTSIDE_VARIABLE, "") not in ("", "0")
        return cls(None if allow_outside else _real(folders))

    def including(self, *folders: str | Path) -> "Roots":
        """Returns a bound with more folders."""
        if self.folders is None:
            return self
        return Roots(_real((*self.folders, *folders)))

    def check(self, path: str | Path) -> None:
        """Raises OSError, whose `strerror` says why, for a file that may not be read."""
        why = self.why_not(str(path))
        if why is not None:
            raise PermissionError(errno.EACCES, why, str(path))

    def why_not(self, path: str) -> str | None:
        """Returns in a few words why a file or folder may not be read, or None where it may.

        Args:
            path: absolute; what it names need not be there.
        """
        if self.folders is None or "\0" in path:  # which names nothing
            return None
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._real_folders[folder], name)
        if name in ("", ".", "..") or os.path.islink(path):
            real = os.path.realpath(path)
        if any(real == root or real.startswith(os.path.join(root, "")) for root in self.folders):
            return None
        where = "lies" if real == path else f"leads to {real},"
        return f"{where} outside the folders that may be read"


def _real(folders: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(sorted({os.path.realpath(folder) for folder in folders}))
