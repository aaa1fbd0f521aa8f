from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.report.reading import check_readable
from tl_modules.interpret.landscape import in_plane


@pytest.fixture(scope="module")
def thoughts(model, modules):
    rows = [
        ("<b>q</b>", "the cat sat", ["on", "under", "mat"]),
        ("r", "one two", ["red", "a", "="]),
    ]
    questions = pd.DataFrame(rows, columns=["id", "prompt", "choices"])
    thrice = pd.concat([questions] * 3, ignore_index=True)
    chains = ["the cat", "plus", "red", "( why )", "big <i>dog</i> ran", "is not"]
    options = {"chains": chains, "modules": modules, "progress": False}
    first = tlm.thoughts.thought_states(model, thrice.assign(answer=["on", "a"] * 3), **options)
    nearest = first.states["nearest"][1]  # so that this chain ends right; those of r may not
    wrong = next(each for each in ("red", "a", "=") if each not in set(first.states["nearest"]))
    return tlm.thoughts.thought_states(model, thrice.assign(answer=[nearest, wrong] * 3), **options)


def drawn(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_every_chain_is_a_line_in_the_colour_of_its_end(thoughts):
    figure = tlm.plots.plot_thoughts(thoughts)
    check_readable(figure)
    vectors = np.concatenate([thoughts.features, thoughts.landmarks])
    places = in_plane(vectors, "pca", 0)[0]
    ends = thoughts.chains()["is_correct"].to_numpy()
    for correct, name in ((True, "ends nearest to the answer"), (False, "ends elsewhere")):
        trace = drawn(figure, name)
        own = np.flatnonzero(ends[thoughts.of_chain] == correct)
        real = [value for value in trace.x if value is not None]
        np.testing.assert_allclose(real, places[own, 0])
        assert sum(value is None for value in trace.y) == (ends == correct).sum()
        assert not any("<i>" in said or "<b>" in said for said in trace.text)
    said = " ".join([*figure.data[0].text, *figure.data[1].text])
    assert "&lt;b&gt;q&lt;/b&gt;, chain 1" in said
    star, crosses = drawn(figure, "the correct choice"), drawn(figure, "a wrong choice")
    np.testing.assert_allclose(star.x, places[-3:-2, 0])
    np.testing.assert_allclose(crosses.y, places[-2:, 1])
    assert (star.marker.symbol, crosses.marker.symbol) == ("star", "x")


def test_on_the_right_are_shares_and_uncertainty_or_the_modules(thoughts, modules):
    steps = thoughts.steps()
    figure = tlm.plots.plot_thoughts(thoughts)
    np.testing.assert_allclose(drawn(figure, "nearest to the answer").y, steps["share_correct"])
    uncertainty = drawn(figure, "uncertainty / its largest")
    np.testing.assert_allclose(uncertainty.y, steps["uncertainty"] / np.log(3))
    assert uncertainty.customdata.tolist() == [6, 6]
    figure = tlm.plots.plot_thoughts(thoughts, modules=modules)
    ends = thoughts.chains()["is_correct"].to_numpy()[thoughts.of_chain]
    lines = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert len(lines) == 3 * len(set(ends))
    for number, line in enumerate(lines[:3]):
        own = thoughts.states.loc[ends == (line.line.dash == "solid")]
        np.testing.assert_allclose(line.y, own.groupby("step")[f"module_{number}"].mean())


def test_states_are_laid_out_by_their_modules(thoughts):
    figure = tlm.plots.plot_thoughts(thoughts, by="modules")
    check_readable(figure)
    columns = ["module_0", "module_1", "module_2"]
    places = in_plane(thoughts.states[columns].to_numpy(), "pca", 0)[0]
    ends = thoughts.chains()["is_correct"].to_numpy()[thoughts.of_chain]
    trace = drawn(figure, "ends nearest to the answer")
    real = [value for value in trace.x if value is not None]
    np.testing.assert_allclose(real, places[ends, 0])
    assert not any("choice" in (trace.name or "") for trace in figure.data[:3])
    assert "how active each module is" in figure.layout.title.text


def test_no_two_of_ten_modules_look_alike(thoughts, modules):
    named = [replace(modules[number % 3], label=number) for number in range(10)]
    columns = {f"module_{number}": thoughts.states["module_0"] for number in range(10)}
    many = tlm.thoughts.Thoughts(thoughts.states.assign(**columns), thoughts.n_choices, 10)
    lines = [
        trace for trace in tlm.plots.plot_thoughts(many, modules=named).data if trace.showlegend
    ]
    looks = {(line.line.color, line.marker.symbol) for line in lines if line.yaxis == "y2"}
    assert len(looks) == 10


def test_without_modules_and_by_tsne_it_is_drawn_too(thoughts):
    states = thoughts.states.drop(columns=["module_0", "module_1", "module_2"])
    bare = tlm.thoughts.Thoughts(states, thoughts.n_choices, 0)
    figure = tlm.plots.plot_thoughts(bare, projection="tsne")
    assert "t-SNE" in figure.layout.xaxis.title.text


def test_what_cannot_be_drawn_is_refused(thoughts, modules):
    with pytest.raises(tlm.ModulesError, match="projection should be one of"):
        tlm.plots.plot_thoughts(thoughts, projection="umap")
    with pytest.raises(tlm.ModulesError, match="by should be one of"):
        tlm.plots.plot_thoughts(thoughts, by="layers")
    bare = tlm.thoughts.Thoughts(thoughts.states, thoughts.n_choices, 0)
    with pytest.raises(tlm.ModulesError, match="at least two modules; these were read with 0"):
        tlm.plots.plot_thoughts(bare, by="modules")
    with pytest.raises(
        tlm.ModulesError, match="the 3 modules that the states were read with; got 2"
    ):
        tlm.plots.plot_thoughts(thoughts, modules=list(modules)[:2])
