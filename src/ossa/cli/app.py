"""`ossa app`: a page to try detectors on pictures of one's own."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ossa.cli import options
from ossa.cli.command import command

_SERVER = "Server"
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


@command()
def app(
    weights: Annotated[
        list[Path],
        typer.Option(
            help="A checkpoint of ossa, an official yolov5*.pt, or an exported file; repeat it "
            "for models side by side.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    *,
    study: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a study whose report a second tab shows.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(
            *options.IMGSZ_NAMES,
            metavar="PIXELS",
            help="Longer side of the network input in pixels.",
            show_default="that of the training",
        ),
    ] = None,
    runtime: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"] | None,
        typer.Option(
            help="What runs the networks; auto takes the fastest that is installed.",
            show_default="torch for checkpoints",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; 0.0.0.0 opens the page to the network. At others than "
            "127.0.0.1 it has a password: that of OSSA_APP_PASSWORD, or a new one that is printed.",
            rich_help_panel=_SERVER,
        ),
    ] = "127.0.0.1",
    auth: Annotated[
        bool,
        typer.Option(
            " /--no-auth",
            help="No password at any address: whoever reaches the page may use it.",
            rich_help_panel=_SERVER,
        ),
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name under which browsers reach the page, such as that of a proxy; "
            "repeat it for more.",
            metavar="NAME",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, rich_help_panel=_SERVER)] = 7860,
    open_page: Annotated[
        bool,
        typer.Option(
            "--open/--no-open", help="Open the page in a browser.", rich_help_panel=_SERVER
        ),
    ] = True,
    max_upload_mb: Annotated[
        int,
        typer.Option(min=1, help="Megabytes of the largest upload.", rich_help_panel=_SERVER),
    ] = 100,
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

        def tell() -> None:
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
            on_start=tell,
        )


def _has_screen() -> bool:
    """Returns whether a browser would open in a window: one for terminals would take this one."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in _SCREENS)
