"""Folders that commands write into, looked at before the work rather than after it."""

import os
from pathlib import Path

from ossa.errors import ConfigError


def check_writable(option: str, folder: Path) -> None:
    """Looks whether a folder can be made, or written into where it is there.

    Raises:
        ConfigError: it cannot.
    """
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        found = f"{nearest}, which is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        found = f"{nearest} without the permission to write"
    else:
        return
    raise ConfigError(f"expected a folder that can be written for {option}, found {found}")


def check_new(option: str, folder: Path) -> None:
    """Looks whether a folder is empty or can be made.

    Raises:
        ConfigError: it is neither.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"expected a new or empty folder for {option}, found {folder} in use: name another"
        )
    check_writable(option, folder)
