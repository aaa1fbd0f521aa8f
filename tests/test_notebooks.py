from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import LEGACY

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# What CI makes smaller: each must be in the notebook word for word.
REDUCED = {
    "01_discover_and_ablate": {
        "N_PROMPTS = 20": "N_PROMPTS = 8",
        "N_MODULES = 7": "N_MODULES = 3",
        "N_CONTROLS = 3": "N_CONTROLS = 1",
        "MAX_TOKENS = 32": "MAX_TOKENS = 24",
    },
    "02_module_patching_and_circuits": {
        "N_PROMPTS = 40": "N_PROMPTS = 6",
        "N_PAIRS = 10": "N_PAIRS = 4",
        "N_OTHERS = 6": "N_OTHERS = 3",
        "N_MODULES = 7": "N_MODULES = 3",
        "N_CONTROLS = 19": "N_CONTROLS = 1",
    },
    "03_recall_vs_reasoning": {
        "N_PROMPTS = 40": "N_PROMPTS = 6",
        "N_CHOOSE = 20": "N_CHOOSE = 8",
        "N_TEST = 20": "N_TEST = 3",
        "N_MODULES = 10": "N_MODULES = 3",
        "N_SHARED = 16": "N_SHARED = 2",
    },
    "04_reading_modules": {
        "N_PROMPTS = 20": "N_PROMPTS = 5",
        "N_MODULES = 8": "N_MODULES = 3",
        "N_CONTROLS = 9": "N_CONTROLS = 1",
        "MAX_TOKENS = 32": "MAX_TOKENS = 16",
    },
    "05_causal_cores": {
        "N_SEEN = 18": "N_SEEN = 5",
        "N_CHOOSE = 3": "N_CHOOSE = 2",
        "N_TEST = 3": "N_TEST = 2",
        "N_MODULES = 7": "N_MODULES = 2",
        "SIZES = [100, 400]": "SIZES = [100]",
        "N_CONTROLS = 9": "N_CONTROLS = 1",
        "N_NOUNS = 8": "N_NOUNS = 2",
        "MAX_TOKENS = 20": "MAX_TOKENS = 12",
        "N_NEW = 8": "N_NEW = 2",
    },
}

WITH_FIGURES = ("04_reading_modules",)
"""These hold plotly's figures."""

LONG = (
    "02_module_patching_and_circuits",
    "03_recall_vs_reasoning",
    "04_reading_modules",
    "05_causal_cores",
)
"""What these show is tested on 3.9 by other tests; running them twice would take minutes more."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_on_the_real_model(path, demo_model):
    if LEGACY and path.stem in LONG:
        pytest.skip("minutes long, and run on TransformerLens 4 already")
    del demo_model  # converted and in the cache by now; the notebook's own process loads it
    notebook = nbformat.read(path, as_version=4)
    for old, new in REDUCED[path.stem].items():
        cells = [cell for cell in notebook.cells if old in cell.source]
        assert len(cells) == 1, f"{old!r} should be in exactly one cell"
        cells[0].source = cells[0].source.replace(old, new)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    outputs = [
        text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for text in [str(output.get("data", {}).get("text/plain", output.get("text", "")))]
    ]
    assert outputs[-1] == "True"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_kept_with_small_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run it before committing"
    assert any(cell.outputs for cell in code)
    assert path.stat().st_size < (400_000 if path.stem in WITH_FIGURES else 100_000)
    assert "/home/" not in path.read_text()
    assert "/root/" not in path.read_text()


def test_every_notebook_has_its_reductions():
    assert {path.stem for path in NOTEBOOKS} == set(REDUCED)
