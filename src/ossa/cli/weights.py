"""`ossa weights get`: the official weights of YOLOv5, when their licence is accepted."""

import re
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from ossa.cli import options
from ossa.cli.command import command
from ossa.errors import ConfigError, DataError, RunFailed, suggestion

_ADDRESS: Final = "https://github.com/ultralytics/yolov5/releases/download/v7.0"
_LICENCE: Final = "AGPL-3.0"
_KNOWN_SHA256: Final = {
    "yolov5n": "4f180cf23ba0717ada0badd6c685026d73d48f184d00fc159c2641284b2ac0a3"
}
_MOST_BYTES: Final = 1_000_000_000
_TIMEOUT_SECONDS: Final = 30.0


@command()
def get(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME"), "yolov5n, s, m, l or x."],
    accept_license: Annotated[bool, "Accept the licence of these weights, AGPL-3.0."] = False,
    sha256: Annotated[
        str | None,
        typer.Option(metavar="HEX"),
        "What the file must have. Needed for all but yolov5n, whose own is known.",
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL"), "Address that stands for the official one."
    ] = None,
    output: Annotated[options.Folder, "Where the file is put."] = Path(),
) -> None:
    """Get the official weights of YOLOv5, trained on COCO by Ultralytics.

    Nothing is fetched unless the licence is accepted: AGPL-3.0, which also covers what is trained
    from them if it is given to others. A file of another checksum is removed.

    [bold]Example[/bold]

      ossa weights get yolov5n --accept-license
    """
    from ossa.cli.console import Console
    from ossa.data.download import check_address, download
    from ossa.data.public_datasets import Archive
    from ossa.models.detector import PRESETS

    if name not in PRESETS:
        found, advice = repr(name), suggestion(name, PRESETS).strip()
        raise ConfigError(expected=f"one of {', '.join(PRESETS)}", found=found, advice=advice)
    expected = sha256 or _KNOWN_SHA256.get(name)
    if expected is None or not re.fullmatch("[0-9a-fA-F]{64}", expected):
        raise ConfigError(expected=f"--sha256 with the 64 hex digits of {name}.pt", found=sha256)
    url = f"{(mirror or _ADDRESS).rstrip('/')}/{name}.pt"
    check_address(url)
    if not accept_license:
        raise ConfigError(
            expected="--accept-license",
            found="none",
            advice=f"the official {name}.pt, by Ultralytics, is under {_LICENCE} "
            "(https://www.gnu.org/licenses/agpl-3.0.html); it would be fetched from " + url,
        )
    options.check_writable("--output", output)
    target = output / f"{name}.pt"
    with Console() as console:
        console.note(f"{name}.pt is by Ultralytics, under {_LICENCE}")
        archive = Archive(f"{name}.pt", _length_of(url), f"sha256:{expected.lower()}")
        output.mkdir(parents=True, exist_ok=True)
        progress = partial(console.progress, of_bytes=True)
        download(url, target, archive=archive, progress=progress)
        console.note(f"next: ossa val --weights {target} --data DATA")


def _length_of(url: str) -> int:
    """Returns how many bytes the server says the file has."""
    from ossa.data.download import http_opener

    try:
        request = urllib.request.Request(url)  # of which only the head is read
        with http_opener().open(request, timeout=_TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        raise DataError(expected=f"a file at {url}", found=f"status {error.code}") from None
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        raise RunFailed(expected=f"an answer from {url}", found=reason) from None
    if not length.isdigit() or not 0 < int(length) <= _MOST_BYTES:
        found = f"a length of {length or 'nothing'}"
        raise DataError(expected=f"at most {_MOST_BYTES:,} bytes at {url}", found=found)
    return int(length)
