"""The notebooks of `examples/`: each script (its cells begin with %%) is run, and written beside it with its outputs.

python -m benchmarks.notebooks [NAME...]      # make examples; half a minute of one core each
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples"


def read(script: Path) -> Any:
    """The notebook that a script describes, without outputs; its cells are named by their order."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place}", nbformat.from_dict({})
    return notebook


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def run(script: Path, timeout: int = 600) -> Any:
    """The notebook after its cells have run, in an empty folder. Raises nbclient's CellExecutionError."""
    notebook = read(script)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=timeout, startup_timeout=timeout, resources={"metadata": {"path": folder}}
        )
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs, folder)
    return notebook


def joined(outputs: list[Any], folder: str) -> list[Any]:
    """Outputs in which what was printed is one piece, and paths do not name the folder."""
    whole: list[Any] = []
    for output in outputs:
        for kind, text in output.get("data", {}).items():
            if isinstance(text, str) and kind.startswith("text/"):
                output["data"][kind] = text.replace(f"{folder}/", "")
        if whole and output.output_type == "stream" == whole[-1].output_type and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def main() -> None:
    """Run those that are named, or all, and write them beside their scripts or into another folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=FOLDER)
    wanted = parser.parse_args()
    for script in sorted(FOLDER.glob("*.py")):
        if not wanted.names or script.stem in wanted.names:
            nbformat.write(run(script), wanted.out / f"{script.stem}.ipynb")
            print(wanted.out / f"{script.stem}.ipynb")


if __name__ == "__main__":
    main()
