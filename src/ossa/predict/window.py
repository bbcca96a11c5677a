"""The live window, where there is a display."""

import os
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from ossa.errors import ConfigError

_TITLE = "ossa predict"
_END_KEYS = (ord("q"), 27)  # 27: escape


class Window:
    """Shows pictures while they are annotated, until it is closed or `q` or escape is pressed."""

    def __init__(self) -> None:
        """Raises:
        ConfigError: there is no display, or an OpenCV that cannot open windows.
        """
        on_linux = sys.platform.startswith("linux")
        if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError(
                "a live window needs a display, found neither DISPLAY nor WAYLAND_DISPLAY in the "
                "environment: leave --show out, what is seen is written to files all the same"
            )
        if not cv2.currentUIFramework():
            raise ConfigError(
                "a live window needs an OpenCV that opens windows, found the headless one: "
                "pip uninstall -y opencv-python-headless && pip install 'opencv-python>=5.0'"
            )

    def show(self, image: NDArray[np.uint8], *, wait: bool) -> bool:
        """Shows a picture (H, W, 3) RGB; returns False once the user wants no more.

        Args:
            image: what to show.
            wait: keep it until a key is pressed, else until the next.
        """
        cv2.imshow(_TITLE, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(0 if wait else 1) & 0xFF
        return key not in _END_KEYS and cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        cv2.destroyAllWindows()
