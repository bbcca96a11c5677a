"""Takes the pictures of a report that docs/studies.md shows: light and dark, wide and narrow.

    python docs/figures.py

They are of results/bccd-160-2core-amd-epyc/report.html (benchmarks/published_study.py). It needs
chromium, and playwright of the development extra.
"""

import io
import shutil
from pathlib import Path
from typing import Literal

import PIL.Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results" / "bccd-160-2core-amd-epyc" / "report.html"
SIZES_WH = {"wide": (1240, 1140), "narrow": (390, 780)}
"""In pixels of the browser's window."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_COLOURS = 64
"""Of a picture: a third of the bytes, and no difference to be seen."""


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for shape, (width, height) in SIZES_WH.items():
            for scheme in SCHEMES:
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page.goto(REPORT.as_uri())
                image = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                few = image.quantize(_COLOURS, PIL.Image.Quantize.MAXCOVERAGE)
                few.save(ROOT / "docs" / "assets" / f"report-{shape}-{scheme}.png", optimize=True)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
