"""The page in gradio: its layout, and which control calls which handler."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import themes
from gradio.themes.utils import fonts

from ossa.app.handlers import WELCOME, Handlers, View, render_message
from ossa.app.inference import LOWEST_CONFIDENCE, PageModel, Settings, class_names
from ossa.app.uploads import Limits, Sessions
from ossa.config import PREDICTION_NMS_IOU
from ossa.errors import OssaError

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans")
_MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono")
_REPORT = '<iframe class="ossa-study" src="study" title="The report of the study"></iframe>'
_HEADING = (
    '<header class="ossa-heading"><h1>Ossa</h1><p>{}, on your own image. It goes to this server '
    "and nowhere else, and is deleted soon after you leave.</p></header>"
)


def build_page(
    models: Sequence[PageModel], sessions: Sessions, limits: Limits, *, has_report: bool
) -> gr.Blocks:
    """Returns the page; its queue refuses more visitors than `limits` allows."""
    handlers = Handlers(models, sessions)

    def forget(request: gr.Request) -> None:
        handlers.forget(str(request.session_hash))

    count = len(models)
    title = "One detector" if count == 1 else f"{count} detectors side by side"
    with gr.Blocks(title="Ossa", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_HEADING.format(title), padding=False)
        if has_report:
            with gr.Tabs():
                with gr.Tab("Try it"):
                    _connect(handlers, _lay_out(models, limits))
                with gr.Tab("Study"):
                    gr.HTML(_REPORT, padding=False)
        else:
            _connect(handlers, _lay_out(models, limits))
        page.unload(forget)
    page.queue(max_size=limits.waiting, default_concurrency_limit=limits.running, api_open=False)
    return page


def mount_page(app: FastAPI, page: gr.Blocks, limits: Limits) -> None:
    """Puts the page at the root of an application."""
    # Gradio's own fonts come from elsewhere: these are on the reader's system.
    theme = themes.Base(
        primary_hue=themes.colors.blue,
        neutral_hue=themes.colors.slate,
        font=[fonts.Font(name) for name in (*_FONTS, "sans-serif")],
        font_mono=[fonts.Font(name) for name in (*_MONO_FONTS, "monospace")],
    ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
    gr.mount_gradio_app(
        app,
        page,
        path="",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size=limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=files("ossa.app").joinpath("page.css").read_text(encoding="utf-8"),
    )
    # Gradio checks the paths of files only in pages that it launched itself.
    page.has_launched = True


def _lay_out(models: Sequence[PageModel], limits: Limits) -> SimpleNamespace:
    """Returns the components of the page by their names."""
    parts = SimpleNamespace()
    titles = [model.title for model in models]
    confidence = max(min(model.predictor.confidence for model in models), LOWEST_CONFIDENCE)
    bounds = f"up to {limits.upload_mb} MB, {limits.image_megapixels} megapixels, "
    with gr.Row(elem_classes="ossa-layout"):
        with gr.Column(elem_classes="ossa-source"), gr.Tabs():
            with gr.Tab("Image or video"):
                label = f"{bounds}{limits.video_seconds} s"
                parts.file = gr.File(label=label, height=150, elem_id="ossa-file")
            with gr.Tab("Camera"):
                # image_mode=None: the file as it was sent, which is decoded once, and elsewhere.
                parts.camera = gr.Image(
                    sources=["webcam"],
                    type="filepath",
                    image_mode=None,
                    show_label=False,
                    elem_id="ossa-camera",
                )
        with gr.Column(elem_classes="ossa-settings"):
            parts.frame = gr.Slider(
                1, 2, 1, step=1, label="Frame", visible=False, elem_id="ossa-frame"
            )
            parts.models = gr.CheckboxGroup(titles, value=titles[:2], label="Models")
            parts.confidence = gr.Slider(
                *(LOWEST_CONFIDENCE, 0.99, round(confidence, 2)),
                step=0.01,
                label="Confidence",
                info="Lower scores are hidden",
                elem_id="ossa-confidence",
            )
            parts.nms_iou = gr.Slider(
                *(0.05, 1, PREDICTION_NMS_IOU),
                step=0.05,
                label="NMS IoU",
                info="Of boxes of a class that overlap more, one stays",
                elem_id="ossa-iou",
            )
            parts.classes = gr.Dropdown(
                class_names(models),
                value=[],
                multiselect=True,
                label="Classes",
                info="None chosen: all",
                elem_id="ossa-classes",
            )
            parts.download = gr.Button("Download results", size="sm", elem_id="ossa-download")
            # Hidden; the browser clicks it once the zip of `download` is written.
            parts.zipped = gr.DownloadButton(visible="hidden", elem_id="ossa-zip")
            parts.film = gr.Button(
                "Video with boxes", visible=False, size="sm", elem_id="ossa-film"
            )
        with gr.Column(elem_classes="ossa-result"):
            parts.images = gr.HTML(render_message(WELCOME), elem_id="ossa-images", padding=False)
            parts.notes = gr.HTML(elem_id="ossa-notes", padding=False)
            parts.video = gr.Video(
                visible=False, show_label=False, interactive=False, elem_id="ossa-video"
            )
    return parts


def _connect(handlers: Handlers, parts: SimpleNamespace) -> None:
    """Connects controls and handlers; a visitor's key is gradio's session hash."""

    def upload(request: gr.Request, file: str | None, *settings: Any) -> tuple[Any, ...]:
        if file is None:
            return clear(request)
        key = str(request.session_hash)
        return _updates(handlers.open(key, Path(file), Settings.of(*settings)))

    def clear(request: gr.Request) -> tuple[Any, ...]:
        handlers.forget(str(request.session_hash))
        return _updates(View(render_message(WELCOME)))

    def show(request: gr.Request, *settings: Any) -> tuple[str, str]:
        view = handlers.show(str(request.session_hash), Settings.of(*settings))
        return view.images, view.notes

    def write(how: Any, request: gr.Request, progress: gr.Progress, settings: Any) -> str:
        def on_frame(done: int, count: int) -> None:
            progress((done, count))

        try:
            return str(how(str(request.session_hash), Settings.of(*settings), on_frame))
        except OssaError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def results(request: gr.Request, progress=gr.Progress(), *settings: Any) -> str:  # noqa: B008
        return write(handlers.results, request, progress, settings)

    def video(request: gr.Request, progress=gr.Progress(), *settings: Any) -> Any:  # noqa: B008
        return gr.Video(write(handlers.video, request, progress, settings), visible=True)

    values = [parts.models, parts.confidence, parts.nms_iou, parts.classes, parts.frame]
    view = [parts.images, parts.notes]
    outputs = [*view, parts.frame, parts.film, parts.video]
    # Events that may run a network wait for their turn; a threshold never waits for a network.
    network: dict[str, Any] = {"concurrency_id": "network"}
    private: dict[str, Any] = {"api_visibility": "private"}
    live: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", **private}
    parts.file.upload(upload, [parts.file, *values], outputs, api_name="look", **network)
    parts.camera.input(upload, [parts.camera, *values], outputs, **network, **private)
    parts.file.clear(clear, None, outputs, **private)
    for control in (parts.confidence, parts.nms_iou, parts.classes):
        control.input(show, values, view, concurrency_id="thresholds", **live)
    for control in (parts.models, parts.frame):
        control.input(show, values, view, **network, **live)
    waiting: dict[str, Any] = {"show_progress_on": [parts.notes], **network, **private}
    written = parts.download.click(results, values, parts.zipped, **waiting)
    written.success(None, js="() => document.querySelector('#ossa-zip').click()")
    parts.film.click(video, values, parts.video, **waiting)


def _updates(view: View) -> tuple[Any, ...]:
    """Returns new states of images, notes, frame slider, film button and video."""
    is_video = view.num_frames > 1
    return (
        view.images,
        view.notes,
        gr.Slider(1, max(2, view.num_frames), 1, visible=is_video),
        gr.Button(visible=is_video),
        gr.Video(None, visible=False),
    )
