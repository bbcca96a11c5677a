"""A server of the page in a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_page import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page with the two known models and a report; afterwards nothing of it is left."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("server")
    report = folder / "report.html"
    report.write_text(
        "<!doctype html><title>r</title><h1>What each buys</h1><p id='p'></p>"
        "<script>document.getElementById('p').textContent = 'drawn by a script'</script>"
    )
    temporary = folder / "tmp"
    temporary.mkdir()
    port = free_port()
    errors = folder / "stderr.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("known_server.py")),
                str(port),
                str(report),
            ],
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n", errors.read_text()
            yield Served(f"http://127.0.0.1:{port}", process, temporary)
        finally:
            process.terminate()
            code = process.wait(30)
    assert (code, errors.read_text()) == (0, "")
    assert list(temporary.glob("ossa-app-*")) == []
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "stderr.txt", "tmp"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
