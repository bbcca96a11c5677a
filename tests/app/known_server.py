"""Serves the page with two known models on a port until it is told to end: `PORT [REPORT]`."""

import sys
from pathlib import Path

from known_models import first_model, second_model

from ossa.app.server import listening, serve
from ossa.app.uploads import Limits

if __name__ == "__main__":
    report = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with listening("127.0.0.1", int(sys.argv[1])) as held:
        serve(
            held,
            [first_model(), second_model()],
            limits=Limits(upload_mb=2),
            report=report,
            on_start=lambda: print("started", flush=True),
        )
