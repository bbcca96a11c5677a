"""`ossa app`: a page to try detectors on pictures of one's own."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from ossa.cli import options
from ossa.cli.command import command


@command(panels={"Server": "host auth allow_host port open_page max_upload_mb"})
def app(
    *,
    weights: Annotated[
        list[Path],
        typer.Option(metavar="FILE"),
        "A checkpoint of ossa, an official yolov5*.pt, or an exported file; may be repeated.",
    ],
    study: Annotated[options.Folder | None, "Folder of a study; its report is a tab."] = None,
    imgsz: options.TrainedSide = None,
    runtime: Annotated[options.Runtime | None, options.shown("torch for checkpoints")] = None,
    host: Annotated[
        str,
        "0.0.0.0 opens the page to the network. At others than 127.0.0.1 it has a password: that "
        "of OSSA_APP_PASSWORD, or a new one that is printed.",
    ] = "127.0.0.1",
    auth: Annotated[bool, typer.Option(" /--no-auth"), "No password at any address."] = True,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME"), "A further name of the page, as of a proxy."
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    open_page: Annotated[bool, typer.Option("--open/--no-open"), "Open it in a browser."] = True,
    max_upload_mb: Annotated[int, typer.Option(min=1), "Megabytes of the largest upload."] = 100,
    device: options.Device = None,
) -> None:
    """Try detectors side by side on a page of your own.

    Drop a picture or a video, or use the camera. It needs no network, and listens to this machine
    alone unless --host says otherwise. Ctrl-C ends it.

    [bold]Example[/bold]

      ossa app --weights runs/yolov5n/best.safetensors --weights yolov5n.pt --study runs/bccd-224
    """
    from ossa.app.server import (
        LOOPBACK,
        host_names,
        listening,
        page_url,
        report_of,
        require_gradio,
        serve,
    )

    require_gradio()
    from ossa.app.guard import USER
    from ossa.app.inference import load_models
    from ossa.app.uploads import Limits
    from ossa.cli.console import Console

    report = report_of(study) if study is not None else None
    password = None
    names = host_names(host)
    if auth and names != LOOPBACK:
        password = os.environ.get("OSSA_APP_PASSWORD") or secrets.token_urlsafe(12)
    with listening(host, port) as held, Console() as console:
        models = load_models(
            weights, device=options.choose_device(device), imgsz=imgsz, runtime=runtime
        )

        def on_start() -> None:
            url = page_url(host, port)
            console.note(f"the page is at {url} (Ctrl-C ends it)")
            if password is not None:
                console.note(f"user: {USER}, password: {password}")
            # Without a screen a browser for terminals would take this one.
            has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
            if open_page and (has_screen or sys.platform != "linux"):
                typer.launch(url)

        serve(
            held,
            models,
            limits=Limits(upload_mb=max_upload_mb),
            report=report,
            names=[*names, *(allow_host or [])],
            password=password,
            on_start=on_start,
        )
