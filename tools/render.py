"""Execute notebooks and store their outputs: `python tools/render.py [NOTEBOOK ...]`, without a name all of them.

Two executions give the same bytes, but for widget ids and what a cell prints of time: no timings and no widget state
are stored, and the metadata names the kernel only.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def render(path: Path, timeout: int = 120) -> float:
    """Execute one notebook in its own folder and write it back; returns the seconds it took.

    Raises nbclient's `CellExecutionError` where a cell fails; the file stays as it was.
    """
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)  # before the kernel starts
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.monotonic()
    client.execute()
    seconds = time.monotonic() - start
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nbformat.write(notebook, path)
    return seconds


def find(name: str) -> Path:
    """A notebook by path, or by name in `notebooks/`."""
    return next((path for path in (Path(name), FOLDER / name) if path.is_file()), Path(name))


if __name__ == "__main__":
    for notebook_path in [find(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        print(f"{notebook_path.name}: {render(notebook_path):.0f} s", flush=True)
