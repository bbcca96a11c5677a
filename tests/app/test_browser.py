"""The page in a real browser: Debian's Chromium, driven by Playwright; no network but loopback.

The last screenshot of each test lies in its temporary folder.
"""

import base64
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from known_models import write_picture, write_video
from served_page import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

_FILE_INPUT = "#ossa-file input[type=file]"
_BOXES = ".ossa-box"
_PHONE, _DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: "Browser", served: Served, tmp_path: Path) -> "Iterator[Page]":
    """The page, open; a test fails where it asks another server, or an error is told."""
    page = browser.new_page(viewport=_DESK)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    elsewhere: list[str] = []
    errors: list[str] = []
    own = (served.url, "data:", "blob:")
    page.on("request", lambda one: None if one.url.startswith(own) else elsewhere.append(one.url))
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served.url)
    page.wait_for_selector(".ossa-hint")
    yield page
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()
    assert elsewhere == []
    assert errors == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "street.png", (320, 320))


def drop(page: "Page", file: Path) -> None:
    """Drops a file on the page, as from a file manager."""
    content = base64.b64encode(file.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([content, name]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type: "image/png"}));
            return transfer;
        }""",
        [content, file.name],
    )
    page.dispatch_event("#ossa-file button", "drop", {"dataTransfer": transfer})


def set_slider(page: "Page", name: str, value: float) -> None:
    page.locator(f"#ossa-{name} input[type=range]").fill(str(value))


def expect_boxes(page: "Page", count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('{_BOXES}').length === {count}")


def test_a_dropped_picture_shows_boxes_and_the_sliders_change_them(
    page: "Page", picture: Path
) -> None:
    set_slider(page, "confidence", 0.2)
    drop(page, picture)
    expect_boxes(page, 5)
    network = page.locator(".ossa-times td:nth-child(4)").all_inner_texts()
    set_slider(page, "confidence", 0.7)
    expect_boxes(page, 2)
    set_slider(page, "confidence", 0.2)
    expect_boxes(page, 5)
    set_slider(page, "iou", 0.3)
    expect_boxes(page, 4)
    # The time of the network is still that of the first look: it did not run again.
    assert page.locator(".ossa-times td:nth-child(4)").all_inner_texts() == network


def test_two_models_are_compared_on_the_same_picture(page: "Page", picture: Path) -> None:
    set_slider(page, "confidence", 0.2)
    page.set_input_files(_FILE_INPUT, picture)
    expect_boxes(page, 5)
    assert page.locator(".ossa-view").count() == 2
    page.wait_for_function(
        "[...document.querySelectorAll('.ossa-view img')].every(one => one.naturalWidth)"
    )
    assert page.locator(".ossa-view img").evaluate_all(
        "all => all.map(one => one.naturalWidth)"
    ) == [
        320,
        320,
    ]
    assert page.locator(".ossa-alone").count() == 3
    words = page.locator(".ossa-words").inner_text()
    assert "second finds 1 cat that first misses." in words
    styles = page.locator(_BOXES).evaluate_all(
        "all => all.map(b => getComputedStyle(b).borderStyle)"
    )
    assert sorted(styles) == ["dashed", "dashed", "dashed", "solid", "solid"]
    page.get_by_label("first").uncheck()
    expect_boxes(page, 2)
    assert page.locator(".ossa-words").count() == 0  # one model has nothing to differ from


def test_only_the_chosen_classes_are_shown(page: "Page", picture: Path) -> None:
    set_slider(page, "confidence", 0.2)
    page.set_input_files(_FILE_INPUT, picture)
    expect_boxes(page, 5)
    page.locator("#ossa-classes input").click()
    page.get_by_role("option", name="cat").click()
    expect_boxes(page, 1)


def test_a_bad_file_gets_a_sentence_and_a_good_one_works_afterwards(
    page: "Page", picture: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "holiday.jpg"
    bad.write_text("hello")
    page.set_input_files(_FILE_INPUT, bad)
    fault = page.get_by_role("alert").filter(has_text="holiday.jpg")
    fault.wait_for()
    said = "Expected an image or a video, found neither (holiday.jpg)."
    assert fault.inner_text().startswith(said)
    page.locator("#ossa-file").get_by_role(
        "button", name=re.compile("clear|remove", re.I)
    ).first.click()
    page.wait_for_selector(".ossa-hint")
    page.set_input_files(_FILE_INPUT, picture)
    page.wait_for_selector(_BOXES)


def test_results_are_downloaded(page: "Page", picture: Path, tmp_path: Path) -> None:
    page.set_input_files(_FILE_INPUT, picture)
    page.wait_for_selector(_BOXES)
    with page.expect_download() as download:
        page.locator("#ossa-download").click()
    assert download.value.suggested_filename == "ossa-results.zip"
    download.value.save_as(tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert "detections.csv" in archive.namelist()
        assert archive.testzip() is None


def test_a_video_has_frames_to_choose_from_and_becomes_a_video_with_boxes(
    page: "Page", tmp_path: Path
) -> None:
    page.set_input_files(_FILE_INPUT, write_video(tmp_path / "street.avi", 12))
    page.wait_for_selector(_BOXES)
    first = page.locator(".ossa-view img").first.get_attribute("src")
    set_slider(page, "frame", 5)
    page.wait_for_function(
        "before => document.querySelector('.ossa-view img').getAttribute('src') !== before",
        arg=first,
    )
    page.locator("#ossa-film").click()
    page.wait_for_selector("#ossa-video video")
    page.wait_for_function("document.querySelector('#ossa-video video').duration > 1")


def test_the_camera_takes_a_picture(page: "Page") -> None:
    page.get_by_role("tab", name="Camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # A picture that is taken before the camera has sent one is none, for gradio as for anybody.
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_role("button", name="capture photo").click()
    page.wait_for_selector(_BOXES)


def test_the_report_of_the_study_has_a_tab(page: "Page") -> None:
    page.get_by_role("tab", name="Study").click()
    report = page.frame_locator(".ossa-study")
    report.get_by_text("drawn by a script").wait_for()
    assert report.locator("h1").inner_text() == "What each buys"


def test_it_fits_a_telephone(page: "Page", picture: Path) -> None:
    page.set_viewport_size(_PHONE)  # type: ignore[arg-type]
    page.set_input_files(_FILE_INPUT, picture)
    page.wait_for_selector(_BOXES)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tops = [
        page.locator(place).bounding_box()["y"]  # type: ignore[index]
        for place in ("#ossa-file", ".ossa-views", "#ossa-confidence", ".ossa-times")
    ]
    assert tops == sorted(tops)  # the sliders stand next to the pictures they change
