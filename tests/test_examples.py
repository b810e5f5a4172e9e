"""The notebook of examples/ runs, and is stored with its results."""

import base64
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "analyse_a_study.ipynb"
CELLS = [
    cell
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


@pytest.mark.parametrize("folder", [".", "examples"])
def test_all_code_cells_run(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot

    monkeypatch.chdir(ROOT / folder)
    names: dict[str, object] = {}
    for cell in CELLS:
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    matplotlib.pyplot.close("all")
    assert names["comparison"].outcome == "regression"  # windows are worth 5 % of speed


def test_the_stored_notebook_was_executed_without_errors() -> None:
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in CELLS)
    assert {output["output_type"] for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
    pictures = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_stored_notebook_names_no_folder_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert [folder for folder in ("/home/", "/root/", "/tmp/", str(ROOT)) if folder in text] == []
