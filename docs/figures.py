"""Draws what README and docs/studies.md show of a published study, from its records and detections.

    python docs/figures.py --data bccd    # where its data set is, for intervals and photograph

Pictures of its report, light and dark, wide and narrow; its main figure and a photograph of the
test split with the detections of its best model; and what is between the marks in README.md.
Needs chromium, and playwright of the development extra.
"""

import argparse
import io
import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from playwright.sync_api import sync_playwright

from ossa.evaluate.coco import read_coco_results
from ossa.study.folder import read_study_folder
from ossa.study.report.answers import pairs_sentence
from ossa.study.report.figures import relation_figure
from ossa.study.report.publish import REPORT_FILE
from ossa.study.reported import detections_file
from ossa.study.results import StudyResults, load_study
from ossa.viz.draw import draw_boxes
from ossa.viz.plots import figure_svg

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
STUDY = ROOT / "results" / "bccd-224-2core-amd-epyc"
COST = "flops"
PHOTO, CONFIDENCE = "BloodImage_00077.jpg", 0.4
SIZES_WH = {"wide": (1240, 1140), "narrow": (390, 780)}
"""In pixels of the browser's window."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_COLOURS = 64
"""Of a picture: a third of the bytes, and no difference to be seen."""
_MARKED = re.compile(r"(<!-- study -->\n).*(<!-- end -->)", re.DOTALL)


def take_pictures(report: Path) -> None:
    """Writes the first screen of a report, as a browser shows it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for shape, (width, height) in SIZES_WH.items():
            for scheme in SCHEMES:
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page.goto(report.as_uri())
                image = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                few = image.quantize(_COLOURS, PIL.Image.Quantize.MAXCOVERAGE)
                few.save(ASSETS / f"report-{shape}-{scheme}.png", optimize=True)
                page.close()
        browser.close()


def draw_study(results: StudyResults) -> None:
    """Writes quality against cost with the fitted law."""
    figure = relation_figure(results, results.relation("ap", COST), size_inches=(7.2, 3.6))
    (ASSETS / "study.svg").write_text(figure_svg(figure))


def draw_detections(results: StudyResults) -> None:
    """Writes one photograph with what the best model, trained with the first seed, finds in it."""
    folder = results.runs_by_model[results.best_first[0]][0].state.folder
    index = results.index
    found = read_coco_results(detections_file(folder, results.study.reported), index)
    (position,) = np.flatnonzero([Path(name).name == PHOTO for name in index.file_names]).tolist()
    best = found[int(index.image_ids[position])]
    kept = best.scores >= CONFIDENCE
    photo = PIL.Image.open(index.root / index.file_names[position]).convert("RGB")
    boxes_xyxy, labels, scores = best.boxes_xyxy[kept], best.labels[kept], best.scores[kept]
    drawn = draw_boxes(np.asarray(photo), boxes_xyxy, labels, names=index.names, scores=scores)
    PIL.Image.fromarray(drawn).save(ASSETS / "detections.jpg", quality=85)


def readme_table(results: StudyResults) -> str:
    """Returns one row a model, the cheapest first, and how many pairs differ."""
    intervals = results.intervals("ap") or {}
    rows = ["| backbone | AP50-95 | 95% CI | parameters | GFLOPs |", "|---|---|---|---|---|"]
    for model in sorted(results.names, key=lambda one: results.number(one, COST)):
        low, high = intervals[model]
        rows.append(
            f"| {model} | {results.number(model, 'ap'):.3f} | {low:.3f} to {high:.3f} "
            f"| {results.number(model, 'params') / 1e6:.2f} M "
            f"| {results.number(model, 'flops') / 1e9:.2f} |"
        )
    return "\n".join([*rows, "", pairs_sentence(results), ""])


def main() -> None:
    """Writes everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    results = load_study(read_study_folder(STUDY, data=parser.parse_args().data))
    draw_study(results)
    draw_detections(results)
    readme = ROOT / "README.md"
    table = readme_table(results)
    readme.write_text(_MARKED.sub(lambda found: found[1] + table + found[2], readme.read_text()))
    take_pictures(STUDY / REPORT_FILE)


if __name__ == "__main__":
    main()
