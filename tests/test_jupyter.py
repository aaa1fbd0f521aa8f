"""What a cell of a notebook shows."""

import re
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

import tl_modules as tlm
from tests.calls import CALLS, setting
from tl_modules.tables.html_tables import html_table

HOSTILE = "<img src=x onerror=alert(1)> costs $x$ and $y$ "

RESULTS = {
    "match_modules": tlm.evaluation.ModuleMatch,
    "selectivity": tlm.causal.Selectivity,
    "dissociation": tlm.causal.Dissociation,
    "shared_units": tlm.causal.SharedUnits,
    "attribute_modules": tlm.causal.Attribution,
    "module_graph": tlm.causal.ModuleGraph,
    "plan_interventions": tlm.causal.InterventionPlan,
    "circuit_scores": tlm.causal.CircuitScores,
    "hierarchy": tlm.interpret.Hierarchy,
    "nestedness": tlm.interpret.Nestedness,
    "coverage": tlm.interpret.Coverage,
    "language_consistency": tlm.interpret.LanguageConsistency,
    "language_neurons": tlm.interpret.LanguageNeurons,
    "thought_states": tlm.thoughts.Thoughts,
    "with_topics": tlm.ModuleSet,
}
ONE_LINE_ONLY = {
    "collect_reference": tlm.Reference,
    "probe svc": tlm.evaluation.Probe,
    "iterd": None,
}


@pytest.fixture(scope="module")
def these(model, prompts, acts, modules, tmp_path_factory):
    return setting(model, prompts, acts, modules, tmp_path_factory.mktemp("page"))


def is_one_line(thing):
    return "\n" not in repr(thing) and len(repr(thing)) < 300 and "array" not in repr(thing)


def is_plain(html):
    """Whether the page's own colours are kept, and no text is read as mathematics or markup."""
    own = re.search("background|color|<style|<script|<img", html)
    return own is None and html.startswith('<div class="tex2jax_ignore mathjax_ignore">')


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_one_line_of_text_and_a_table(name, these):
    found = CALLS[name](these)
    assert isinstance(found, RESULTS[name])
    assert is_one_line(found)
    html = found._repr_html_()
    assert is_plain(html)
    assert "<td>" in html
    assert len(html) < 30_000


@pytest.mark.parametrize("name", ONE_LINE_ONLY)
def test_a_result_without_a_table_is_one_line(name, these):
    assert is_one_line(CALLS[name](these))


def test_normalisers_and_objectives_are_one_line(modules, acts):
    assert repr(modules.normaliser) == "ZScore(36 units)"
    assert repr(acts.normalise("rank").normaliser) == "Rank(36 units)"
    assert is_one_line(modules.objective)


def test_a_topic_shows_its_words_not_its_whole_prompts(these):
    topic = CALLS["with_topics"](these)[0].topic
    assert is_one_line(topic)
    assert topic.words[0].word in topic._repr_html_()
    assert is_plain(topic._repr_html_())
    long = tlm.Topic("sums", {"math": 1.0}, (), (HOSTILE * 1000,))
    assert is_plain(long._repr_html_())
    assert len(long._repr_html_()) < 3000


def test_the_tables_of_a_circuit_and_of_a_selectivity_name_their_rows(these):
    assert "faithfulness" in CALLS["circuit_scores"](these)._repr_html_()
    assert "interaction" in CALLS["dissociation"](these)._repr_html_()
    found = CALLS["selectivity"](these)
    assert "<th>own</th>" in found._repr_html_()
    assert "own" not in found.table


def test_long_and_hostile_prompts_are_shortened_text(tmp_path):
    samples = pd.DataFrame({"prompt": [HOSTILE * 500] * 8, "turns": [["hello"] * 5000] * 8})
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).random((8, 6)), None, samples)
    modules = tlm.with_topics(tlm.discover(acts, 2, progress=False), progress=False)
    with tlm.ActivationStore.create(tmp_path / "store", acts.units) as writer:
        writer.add(acts.values, samples)
    for shown in (acts, modules, modules[0], tlm.ActivationStore(tmp_path / "store")):
        html = shown._repr_html_()
        assert is_plain(html)
        assert "…" in html
        assert len(html) < 6000


def test_a_long_table_is_cut_as_pandas_cuts_it():
    frame = pd.DataFrame({"module": range(100)})
    assert html_table("many", frame).count("<td>") == pd.get_option("display.min_rows") + 1
    assert "100 rows" in html_table("many", frame)
    assert html_table("few", frame.head(50)).count("<td>") == 50
    with pd.option_context("display.max_rows", None):
        assert html_table("many", frame).count("<td>") == 100


def test_numbers_are_short_and_small_ones_are_not_0():
    html = html_table("numbers", pd.DataFrame({"p_value": [0.00051], "L": [123456.7]}))
    assert "<td>0.00051</td>" in html
    assert "<td>123,457</td>" in html


def test_an_index_is_shown_if_it_has_a_name():
    frame = pd.DataFrame({"x": [1]}, index=pd.Index([7], name="module"))
    assert "<th>7</th>" in html_table("named", frame)
    assert "<th>7</th>" not in html_table("nameless", frame.rename_axis(None))


def test_tokens_between_dollar_signs_stay_text(these):
    values = CALLS["token_values"](these)
    assert "tex2jax_ignore" in tlm.plots.plot_tokens(values)._repr_html_()


def test_a_large_set_is_shown_at_once():
    generator = np.random.default_rng(0)
    n_units, n_samples, n_modules = 46_080, 7000, 100
    samples = pd.DataFrame({"prompt": ["lorem ipsum " * 200] * n_samples})
    samples["category"] = [f"category {number % 7}" for number in range(n_samples)]
    layers = tuple(range(30))
    modules = tlm.ModuleSet(
        units=tlm.Units.whole(tuple(f"blocks.{k}.hook" for k in layers), layers, (1536,) * 30),
        samples=samples,
        unit_labels=generator.integers(n_modules, size=n_units),
        sample_labels=generator.integers(n_modules, size=n_samples),
        n_modules=n_modules,
        objective=tlm.modules.Objective(1.0, 1.0, 1.0),
        sample_scores=generator.normal(size=n_samples),
    )
    started = time.perf_counter()
    shown = modules._repr_html_() + modules[0]._repr_html_()
    assert time.perf_counter() - started < 10  # 0.3 s on two slow cores
    assert len(shown) < 15_000


CELLS = """
import numpy as np, pandas as pd, tl_modules as tlm
samples = pd.DataFrame({"prompt": ["the cat sat on the $mat$ " * 40] * 40})
samples["category"] = list("ab" * 20)
values = np.random.default_rng(0).random((40, 60)) + np.kron(np.eye(2), np.ones((20, 30)))
acts = tlm.ActivationMatrix.from_arrays(values, samples=samples)
acts
---
modules = tlm.discover(acts, 2)
modules
---
modules = tlm.discover(acts, 2, n_starts=2, n_kicks=3, progress=False)
modules[0]
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_a_notebook_shows_tables_and_a_bar_and_warns_of_nothing():
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    here = {"metadata": {"path": Path(__file__).parents[1]}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=here).execute()
    tables = [cell.outputs[-1].data["text/html"] for cell in notebook.cells]
    assert all(is_plain(table) for table in tables)
    assert "40 samples x 60 units" in tables[0]
    assert "category_share" in tables[1]
    streams = [
        out for cell in notebook.cells for out in cell.outputs if out.output_type == "stream"
    ]
    assert streams == []  # neither a bar as text nor a warning
    bars = [out.data for out in notebook.cells[1].outputs[:-1]]
    assert ["application/vnd.jupyter.widget-view+json" in bar for bar in bars] == [True]
    assert len(notebook.cells[2].outputs) == 1
