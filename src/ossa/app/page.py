"""The page itself, in gradio: what is where, and which of it asks the desk for what."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from gradio import themes
from gradio.themes.utils import fonts

from ossa.app import views
from ossa.app.desk import WELCOME, Choice, Desk, Shown
from ossa.app.limits import Limits
from ossa.app.models import LOWEST_CONFIDENCE, PageModel, class_names
from ossa.app.session import Sessions
from ossa.errors import DataError
from ossa.predict.predictor import NMS_IOU

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans")
_MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono")

_REPORT = '<iframe class="ossa-study" src="study" title="The report of the study"></iframe>'


def build_page(
    models: Sequence[PageModel], sessions: Sessions, limits: Limits, *, has_report: bool
) -> gr.Blocks:
    """Returns the page; its queue refuses more visitors than `limits` allows."""
    handlers = _Handlers(Desk(models, sessions))
    with gr.Blocks(title="Ossa", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_heading(models), padding=False)
        if has_report:
            with gr.Tabs():
                with gr.Tab("Try it"):
                    _trial(handlers, models, limits)
                with gr.Tab("Study"):
                    gr.HTML(_REPORT, padding=False)
        else:
            _trial(handlers, models, limits)
        page.unload(handlers.forget)
    page.queue(max_size=limits.waiting, default_concurrency_limit=limits.running, api_open=False)
    return page


def mount_page(app: FastAPI, page: gr.Blocks, limits: Limits) -> None:
    """Puts the page at the root of an application."""
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
        theme=_theme(),
        css=files("ossa.app").joinpath("page.css").read_text(encoding="utf-8"),
    )
    # gradio checks where a named file lies only in pages that it launched itself.
    page.has_launched = True


class _Controls(NamedTuple):
    """What a visitor can set."""

    frame: gr.Slider
    models: gr.CheckboxGroup
    confidence: gr.Slider
    overlap: gr.Slider
    classes: gr.Dropdown
    download: gr.Button
    zipped: gr.DownloadButton
    """Out of sight: the browser fetches from it what the button had written."""
    film: gr.Button

    @property
    def settings(self) -> list[Any]:
        """In the order of the handlers' arguments."""
        return [self.models, self.confidence, self.overlap, self.classes, self.frame]


def _trial(handlers: "_Handlers", models: Sequence[PageModel], limits: Limits) -> None:
    with gr.Row(elem_classes="ossa-layout"):
        with gr.Column(elem_classes="ossa-source"):
            file, camera = _sources(limits)
        with gr.Column(elem_classes="ossa-settings"):
            controls = _controls(models)
        with gr.Column(elem_classes="ossa-result"):
            pictures = gr.HTML(views.sentence(WELCOME), elem_id="ossa-pictures", padding=False)
            notes = gr.HTML(elem_id="ossa-notes", padding=False)
            video = gr.Video(
                visible=False, show_label=False, interactive=False, elem_id="ossa-video"
            )
    _connect(handlers, (file, camera), controls, (pictures, notes, video))


def _sources(limits: Limits) -> tuple[gr.File, gr.Image]:
    with gr.Tabs():
        with gr.Tab("Picture or video"):
            file = gr.File(label=_bounds(limits), height=150, elem_id="ossa-file")
        with gr.Tab("Camera"):
            camera = gr.Image(
                sources=["webcam"],
                type="filepath",
                image_mode=None,  # the file as it was sent: it is decoded once, and elsewhere
                show_label=False,
                elem_id="ossa-camera",
            )
    return file, camera


def _controls(models: Sequence[PageModel]) -> _Controls:
    titles = [model.title for model in models]
    usual_confidence = min(model.predictor.confidence for model in models)
    return _Controls(
        frame=gr.Slider(1, 2, 1, step=1, label="Frame", visible=False, elem_id="ossa-frame"),
        models=gr.CheckboxGroup(titles, value=titles[:2], label="Models", elem_id="ossa-models"),
        confidence=gr.Slider(
            LOWEST_CONFIDENCE,
            0.99,
            round(max(usual_confidence, LOWEST_CONFIDENCE), 2),
            step=0.01,
            label="Confidence",
            info="Lower scores are hidden",
            elem_id="ossa-confidence",
        ),
        overlap=gr.Slider(
            0.05,
            1,
            NMS_IOU,
            step=0.05,
            label="NMS IoU",
            info="Of boxes of a class that overlap more, one stays",
            elem_id="ossa-iou",
        ),
        classes=gr.Dropdown(
            class_names(models),
            value=[],
            multiselect=True,
            label="Classes",
            info="None chosen: all",
            elem_id="ossa-classes",
        ),
        download=gr.Button("Download results", size="sm", elem_id="ossa-download"),
        zipped=gr.DownloadButton(visible="hidden", elem_id="ossa-zip"),
        film=gr.Button("Video with boxes", visible=False, size="sm", elem_id="ossa-film"),
    )


def _connect(
    handlers: "_Handlers",
    sources: tuple[gr.File, gr.Image],
    controls: _Controls,
    results: tuple[gr.HTML, gr.HTML, gr.Video],
) -> None:
    file, camera = sources
    pictures, notes, video = results
    settings, seen = controls.settings, [pictures, notes]
    outputs = [*seen, controls.frame, controls.film, video]
    # What may run a network waits for its turn; a threshold never waits for a network.
    network: dict[str, Any] = {"concurrency_id": "network"}
    private: dict[str, Any] = {"api_visibility": "private"}
    live: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", **private}
    file.upload(handlers.look, [file, *settings], outputs, api_name="look", **network)
    camera.input(handlers.look, [camera, *settings], outputs, **network, **private)
    file.clear(handlers.clear, None, outputs, **private)
    for control in (controls.confidence, controls.overlap, controls.classes):
        control.input(handlers.show, settings, seen, concurrency_id="thresholds", **live)
    for control in (controls.models, controls.frame):
        control.input(handlers.show, settings, seen, **network, **live)
    # A visitor waits for these: how far they are shows on the notes.
    waiting: dict[str, Any] = {"show_progress_on": [notes], **network, **private}
    written = controls.download.click(handlers.results, settings, controls.zipped, **waiting)
    written.success(None, js="() => document.querySelector('#ossa-zip').click()")
    controls.film.click(handlers.video, settings, video, **waiting)


class _Handlers:
    """What gradio calls; a visitor is known by the hash of the session in the browser."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def look(
        self,
        upload: str | None,
        models: list[str],
        confidence: float,
        nms_iou: float,
        classes: list[str],
        frame: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Looks at a picture, or the first frame of a video; returns HTML with the boxes."""
        if upload is None:
            return self.clear(request)
        choice = _choice(models, confidence, nms_iou, classes, frame)
        return _shown(self._desk.take(_key(request), Path(upload), choice))

    def show(
        self,
        models: list[str],
        confidence: float,
        nms_iou: float,
        classes: list[str],
        frame: float,
        request: gr.Request,
    ) -> tuple[str, str]:
        choice = _choice(models, confidence, nms_iou, classes, frame)
        answer = self._desk.show(_key(request), choice)
        return answer.pictures, answer.notes

    def clear(self, request: gr.Request) -> tuple[Any, ...]:
        self.forget(request)
        return _shown(Shown(views.sentence(WELCOME)))

    def forget(self, request: gr.Request) -> None:
        self._desk.forget(_key(request))

    def results(
        self,
        models: list[str],
        confidence: float,
        nms_iou: float,
        classes: list[str],
        frame: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> str:
        choice = _choice(models, confidence, nms_iou, classes, frame)
        return _written(self._desk.results, request, choice, progress)

    def video(
        self,
        models: list[str],
        confidence: float,
        nms_iou: float,
        classes: list[str],
        frame: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it here
    ) -> Any:
        choice = _choice(models, confidence, nms_iou, classes, frame)
        return gr.Video(_written(self._desk.video, request, choice, progress), visible=True)


def _key(request: gr.Request) -> str:
    return str(request.session_hash)


def _choice(
    models: list[str],
    confidence: float | None,
    nms_iou: float | None,
    classes: list[str],
    frame: float | None,
) -> Choice:
    # A number field that was emptied gives None.
    return Choice(
        tuple(models),
        confidence=float(confidence or LOWEST_CONFIDENCE),
        nms_iou=float(nms_iou or NMS_IOU),
        classes=tuple(classes),
        still=int(frame or 1),
    )


def _shown(answer: Shown) -> tuple[Any, ...]:
    """Returns the new state of the boxes, the frame, and what only a video has."""
    is_video = answer.num_stills > 1
    return (
        answer.pictures,
        answer.notes,
        gr.Slider(1, max(2, answer.num_stills), 1, visible=is_video),
        gr.Button(visible=is_video),
        gr.Video(None, visible=False),
    )


def _written(
    write: Callable[[str, Choice, Callable[[int, int], object]], Path],
    request: gr.Request,
    choice: Choice,
    progress: gr.Progress,
) -> str:
    try:
        return str(write(_key(request), choice, lambda done, of: progress((done, of))))
    except DataError as fault:
        raise gr.Error(f"{fault}.", print_exception=False) from None


def _bounds(limits: Limits) -> str:
    return (
        f"up to {limits.upload_mb} MB, {limits.picture_megapixels} megapixels, "
        f"{limits.video_seconds} s"
    )


def _heading(models: Sequence[PageModel]) -> str:
    count = len(models)
    return (
        '<header class="ossa-heading"><h1>Ossa</h1><p>'
        + ("One detector" if count == 1 else f"{count} detectors side by side")
        + ", on your own picture. It goes to this server and nowhere else, and is deleted soon "
        "after you leave.</p></header>"
    )


def _theme() -> themes.Base:
    """Returns a theme whose fonts the reader's system has: gradio's own come from elsewhere."""
    sans_fonts = [fonts.Font(name) for name in (*_FONTS, "sans-serif")]
    mono_fonts = [fonts.Font(name) for name in (*_MONO_FONTS, "monospace")]
    return themes.Base(
        primary_hue=themes.colors.blue,
        neutral_hue=themes.colors.slate,
        font=sans_fonts,
        font_mono=mono_fonts,
    ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
