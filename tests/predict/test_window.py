"""The live window: what it needs, and when it ends. There is no display where tests run."""

import cv2
import numpy as np
import pytest

from ossa.errors import ConfigError
from ossa.predict.window import Window

PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A display, and an OpenCV that opens windows and gets no key."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(cv2, "imshow", lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    return monkeypatch


def test_without_a_display_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"found neither DISPLAY nor WAYLAND_DISPLAY .* --show"):
        Window()


def test_with_the_headless_opencv_the_pip_line_is_named(display: pytest.MonkeyPatch) -> None:
    display.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(ConfigError, match=r"pip install 'opencv-python>=5\.0'"):
        Window()


@pytest.mark.parametrize(("key", "goes_on"), [(-1, True), (ord("x"), True), (ord("q"), False)])
def test_q_ends(display: pytest.MonkeyPatch, key: int, goes_on: bool) -> None:
    display.setattr(cv2, "waitKey", lambda _: key)
    assert Window().show(PICTURE, wait=False) is goes_on


def test_closing_the_window_ends(display: pytest.MonkeyPatch) -> None:
    display.setattr(cv2, "getWindowProperty", lambda *_: 0.0)
    assert not Window().show(PICTURE, wait=False)


def test_a_picture_waits_for_a_key_and_a_frame_does_not(display: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    display.setattr(cv2, "waitKey", lambda milliseconds: waits.append(milliseconds) or -1)
    for wait in (True, False):
        Window().show(PICTURE, wait=wait)
    assert waits == [0, 1]


def test_the_window_gets_bgr(display: pytest.MonkeyPatch) -> None:
    shown = []
    display.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    Window().show(np.array([[[1, 2, 3]]], np.uint8), wait=False)
    assert shown[0].tolist() == [[[3, 2, 1]]]
