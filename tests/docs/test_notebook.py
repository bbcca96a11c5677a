"""examples/quickstart.ipynb, run as Jupyter runs it, but with less data and a shorter training.

`jupyter execute --inplace examples/quickstart.ipynb` makes the outputs that it shows.
"""

import base64
from pathlib import Path
from typing import Any

import nbformat
import pytest
from documentation import ROOT
from nbclient import NotebookClient
from reader import shrunk

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def outputs(notebook: Any, kind: str) -> list[str]:
    """Returns everything of a MIME type that the cells show."""
    shown = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output.data[kind] for output in shown if kind in output.get("data", {})]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_outputs_shown_are_of_one_run_and_small() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert base64.b64decode(outputs(notebook, "image/jpeg")[0]).startswith(b"\xff\xd8")
    assert NOTEBOOK.stat().st_size < 150_000


@pytest.mark.slow
def test_every_cell_runs_and_the_last_table_has_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.source = shrunk(cell.source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert len(outputs(notebook, "image/jpeg")) == 1
    assert " to " in outputs(notebook, "text/plain")[-1]
