"""Train a detector with a timm backbone on generated scenes, load it, find shapes in a picture.

Runs offline in seconds, on a CPU: `python examples/predict.py`. A few batches teach next to
nothing, so that the boxes are guesses; with 20 epochs on 600 scenes (`ossa demo`) they are not.
"""

from pathlib import Path

import ossa
from ossa.data.synthetic import write_scenes
from ossa.viz.draw import encode_png


def main(folder: Path = Path("example")) -> None:
    data = write_scenes(folder / "scenes", images={"train": 8, "val": 2}, imgsz=128)
    ossa.train_detector(
        data=data,
        model="mobilenetv3_small_050",  # any timm architecture
        recipe="quick",
        settings={"train": {"imgsz": 128, "batch": 4, "epochs": 2}, "model": {"neck": "n"}},
        folder=folder / "run",
    )

    predictor = ossa.load(folder / "run" / "best.safetensors")
    picture = ossa.read_data(data, "val").index.image_path(0)
    found = predictor.predict(picture, confidence=0.001, max_detections=5)
    for name, score, box in zip(
        [predictor.names[label] for label in found.labels],
        found.scores,
        found.boxes_xyxy,
        strict=True,
    ):
        print(f"{name:<10} {score:.3f}  {box.round(1)}")
    (folder / "found.png").write_bytes(encode_png(found.draw()))


if __name__ == "__main__":
    main()
