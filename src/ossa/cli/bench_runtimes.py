"""`ossa bench --runtimes all`: one detector in every runtime, its speed beside its AP."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossa.errors import ConfigError
from ossa.escaping import print_line

if TYPE_CHECKING:
    from ossa.cli.console import Console

_PICTURES = 8
"""Photographs that are timed, in turn; coding and sizes of more would not change a median."""


def bench_runtimes(
    weights: Path | None,
    data: str | None,
    split: str,
    *,
    imgsz: int,
    warmup: int,
    runs: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Prints a line, or an object, for each runtime and precision, with time, ratio and AP.

    Raises:
        CheckpointError, ConfigError, DataError: what is missing or does not fit.
    """
    from ossa.cli.console import Console, print_json

    if weights is None or data is None:
        raise ConfigError(
            "--runtimes tells the AP beside each speed: give --weights and --data, found "
            + ("neither" if weights is data is None else "one of them only")
        )
    times = {"warmup": warmup, "runs": runs, "threads": threads}
    with Console() as console:
        rows = _measured(weights, data, split, imgsz=imgsz, console=console, times=times)
    if as_json:
        print_json(rows)
    else:
        _print(rows)


def _measured(
    weights: Path,
    data: str,
    split: str,
    *,
    imgsz: int,
    console: "Console",
    times: dict[str, Any],
) -> list[dict[str, Any]]:
    """Returns a row for each runtime and precision."""
    from ossa.cost.runtimes import (
        IN_TORCH,
        PLAIN,
        prepare,
        score_runtimes,
        time_runtimes,
        ways_here,
    )
    from ossa.data.reading import read_data
    from ossa.evaluate.evaluator import check_classes
    from ossa.export.parity import some_images
    from ossa.export.selectvino import CALIBRATION_IMAGES
    from ossa.models.checkpoint import detector_from, read_checkpoint

    checkpoint = read_checkpoint(weights)
    report = read_data(data, split)
    console.faults(report)
    index = report.index
    check_classes(checkpoint.names, index, weights=weights, data=data)
    ways = ways_here()
    calibration = some_images(read_data(data, "train").index, CALIBRATION_IMAGES)
    detector = detector_from(checkpoint)
    runtimes = prepare(
        detector,
        ways,
        imgsz=imgsz,
        threads=times["threads"],
        calibration=calibration,
        on_way=lambda way: console.note(f"preparing {way}"),
    )
    timed = some_images(index, _PICTURES)
    rows = time_runtimes(
        detector,
        runtimes,
        [timed.image_path(position) for position in range(len(timed))],
        num_classes=len(checkpoint.names),
        imgsz=imgsz,
        **times,
    )
    with console.progress("scoring") as on_images:
        aps = dict(score_runtimes(runtimes, index, imgsz=imgsz, on_images=on_images))
    aps[PLAIN] = aps[IN_TORCH]  # the same network
    known = {"weights": str(weights), "data": data, "split": split, "images": len(index)}
    return [{**row, "ap": aps[way], **known} for row, way in zip(rows, (PLAIN, *ways), strict=True)]


def _print(rows: list[dict[str, Any]]) -> None:
    """Prints a line a runtime and precision, and what was measured where."""
    from ossa.cli.console import fraction, new_table, print_table

    table = new_table("runtime", "precision", "an image", "of the CPU", "times as fast", "AP50-95")
    for row in rows:
        table.add_row(
            row["runtime"],
            row["precision"],
            f"{row['ms']:.1f} ms",
            f"{row['cpu_ms']:.1f} ms",
            f"{row['times_as_fast']:.2f}",
            fraction(row["ap"]),
        )
    print_table(table)
    first = rows[0]
    print_line()
    print_line(
        f"from the file to its detections, decoding and NMS included; batch 1, "
        f"{first['imgsz']} x {first['imgsz']} px, medians of {first['runs']} rounds in which every "
        f"way had its turn; plain torch: PyTorch as it comes, in a process of its own; AP of "
        f"{first['images']} images ({first['hardware']}, threads: {first['threads']}, torch "
        f"{first['torch']})"
    )
