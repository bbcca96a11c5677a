"""`ossa app`: a page to try detectors on pictures of one's own."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from ossa.cli import options
from ossa.cli.command import command

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


@command(panels={"Server": "host auth allow_host port open_page max_upload_mb"})
def app(
    *,
    weights: Annotated[
        list[Path],
        typer.Option(metavar="FILE"),
        "A checkpoint of ossa, an official yolov5*.pt, or an exported file; repeat it for models "
        "side by side.",
    ],
    study: Annotated[
        options.Folder | None, "Folder of a study whose report a second tab shows."
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(*options.IMGSZ_NAMES, metavar="PIXELS", show_default="that of the training"),
        "Longer side of the network input in pixels.",
    ] = None,
    runtime: Annotated[
        options.RuntimeName | None,
        options.shown("torch for checkpoints"),
        "What runs the networks; auto takes the fastest that is installed.",
    ] = None,
    host: Annotated[
        str,
        "Address to listen at; 0.0.0.0 opens the page to the network. At others than 127.0.0.1 it "
        "has a password: that of OSSA_APP_PASSWORD, or a new one that is printed.",
    ] = "127.0.0.1",
    auth: Annotated[
        bool,
        typer.Option(" /--no-auth"),
        "No password at any address: whoever reaches the page may use it.",
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME"),
        "A further name under which browsers reach the page, such as that of a proxy; repeat it "
        "for more.",
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    open_page: Annotated[bool, typer.Option("--open/--no-open"), "Open it in a browser."] = True,
    max_upload_mb: Annotated[int, typer.Option(min=1), "Megabytes of the largest upload."] = 100,
    device: options.Device = None,
) -> None:
    """Try detectors side by side on a page of your own.

    Drop a picture or a video, or use the camera. It needs no network, and listens to this machine
    alone unless --host says otherwise. Ctrl-C ends it.

    [bold]Examples[/bold]

      ossa app --weights runs/yolov5n/best.safetensors --weights runs/resnet18/best.safetensors

      ossa app --weights yolov5n.pt --study runs/bccd-160 --port 8000
    """
    from ossa.app.server import Address, listening, report_of, require_gradio, serve

    require_gradio()
    from ossa.app.guard import USER
    from ossa.app.inference import load_models
    from ossa.app.uploads import Limits
    from ossa.cli.console import Console

    report = report_of(study) if study is not None else None
    limits = Limits(upload_mb=max_upload_mb)
    address = Address(host, port)
    password = None
    if auth and not address.is_private:
        password = os.environ.get("OSSA_APP_PASSWORD") or secrets.token_urlsafe(12)
    with listening(address) as held, Console() as console:
        models = load_models(
            weights, device=options.choose_device(device), imgsz=imgsz, runtime=runtime
        )

        def on_start() -> None:
            console.note(f"the page is at {address.url} (Ctrl-C ends it)")
            if password is not None:
                console.note(f"user: {USER}, password: {password}")
            if open_page and _has_screen():
                typer.launch(address.url)

        serve(
            held,
            models,
            limits=limits,
            report=report,
            names=[*address.names, *(allow_host or [])],
            password=password,
            on_start=on_start,
        )


def _has_screen() -> bool:
    """Returns whether a browser would open in a window: one for terminals would take this one."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in _SCREENS)
