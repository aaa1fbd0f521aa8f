"""Every causal test on a model whose effects are worked out by hand (tests/toy.py)."""

from math import exp, log

import numpy as np
import pytest

import tl_modules as tlm
from tests.toy import CLEAN, CORRUPTED, HOOKS, Toy, middle, toy_modules
from tl_modules.interventions.strata import Strata


@pytest.fixture(scope="module")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def pair():
    return toy_modules()


def loss(logit):
    """Of token 1, in nats, when the middle logit is this."""
    return log(2 + exp(logit)) - logit


def test_activations_are_those_of_the_formula(toy):
    acts = tlm.collect(toy, ["1 1", "2 0"], progress=False)
    np.testing.assert_allclose(acts.values, [[0.1, 0.2, 0.7, 0.1]] * 2, rtol=1e-6)


def test_attributions_are_those_of_the_formula(toy):
    acts = tlm.collect(toy, ["1 1"], weight="attribution", progress=False)
    # d loss / d logit at the first of two tokens; the last predicts nothing.
    slope = exp(1.7) / (2 + exp(1.7)) - 1
    expected = np.abs(slope * np.array([0.1 * 1, 0.2 * 3, 0.7 * 1, 0.1 * 10])) / 2
    np.testing.assert_allclose(acts.values, [expected], rtol=1e-5)
    np.testing.assert_allclose(acts.unit_means, [0.1, 0.2, 0.7, 0.1], rtol=1e-5)


def drawn(module):
    """The three controls that seed 0 draws."""
    generator, strata = np.random.default_rng([0, module.label]), Strata.by_layer(module.units)
    return [tuple(strata.draw(module.units, generator).flat().tolist()) for _ in range(3)]


UNITS = {"ad": [0, 3], "bc": [1, 2], "ac": [0, 2], "bd": [1, 3]}
"""Two units, one in each layer: the modules, and the other two sets of their sizes."""


@pytest.mark.parametrize(
    ("method", "options", "logits"),
    [
        # c = a + 3 b, so 3 * 2 e without a and a without b; d counts ten times.
        ("zero", {}, {"ad": 0.6, "bc": 1.0, "ac": 1.0, "bd": 0.1}),
        # e = 0.2 at the first position, the means are those of 0.1.
        ("mean", {}, {"ad": 1.3 + 1, "bc": 0.7 + 2, "ac": 0.7 + 2, "bd": 0.8 + 1}),
        ("scale", {"factor": 2.0}, {"ad": 0.8 + 2, "bc": 2.6 + 1, "ac": 1.6 + 1, "bd": 1.3 + 2}),
    ],
)
def test_effects_are_losses_by_hand(toy, pair, method, options, logits):
    prompt = "2 1" if method == "mean" else "1 1"
    before = 3.4 if method == "mean" else 1.7
    options = {"method": method, "n_controls": 3, "progress": False, **options}
    options["positions"] = "all"  # the first token too: of two, it alone predicts
    with pytest.warns(UserWarning, match="the prompts have none"):  # no category: no selectivity
        found = tlm.module_effects(toy, pair, [prompt], **options)
    rises = {tuple(units): loss(logits[name]) - loss(before) for name, units in UNITS.items()}
    expected = [rises[0, 3], rises[1, 2]]
    np.testing.assert_allclose(found["effect"], expected, rtol=1e-5)
    for module, mean in zip(pair, found["control_mean"], strict=True):
        assert mean == pytest.approx(np.mean([rises[units] for units in drawn(module)]), rel=1e-5)


@pytest.mark.parametrize("keep_only", [False, True])
def test_p_values_count_controls_that_harm_more_or_with_keep_only_less(toy, pair, keep_only):
    logits = {"ad": 0.6, "bc": 1.0, "ac": 1.0, "bd": 0.1}
    if keep_only:  # what is lost is all but the units
        logits = {"bc": 0.6, "ad": 1.0, "bd": 1.0, "ac": 0.1}
    rises = {tuple(units): loss(logits[name]) - loss(1.7) for name, units in UNITS.items()}
    options = {"method": "zero", "n_controls": 3, "keep_only": keep_only, "progress": False}
    options["positions"] = "all"
    with pytest.warns(UserWarning, match="the prompts have none"):
        found = tlm.module_effects(toy, pair, ["1 1"], **options)
    np.testing.assert_allclose(found["effect"], [rises[0, 3], rises[1, 2]], rtol=1e-5)
    sign = -1 if keep_only else 1
    for module, effect, p_value in zip(pair, found["effect"], found["p_value"], strict=True):
        controls = np.array([rises[units] for units in drawn(module)])
        as_much = np.sum(sign * controls >= sign * effect - 1e-5)
        assert p_value == (1 + as_much) / 4


def test_patching_is_by_hand(toy, pair):
    _, cache = toy.run_with_cache(CLEAN)
    found = tlm.get_act_patch_module(
        toy, CORRUPTED, cache, lambda logits: middle(logits)[0], pair, progress=False
    )
    # a = 0.1, b = 0.4, c = 1.3, d = 0.1; and c = 0.7, d = 0.2.
    np.testing.assert_allclose(found, [2.3, 2.7], rtol=1e-5)


def test_attribution_is_by_hand(toy, pair):
    found = tlm.attribute_modules(
        toy, CLEAN, CORRUPTED, lambda logits: middle(logits)[0], pair, exact=True
    )
    # Changes -0.1, -0.2, -0.7, -0.1 times gradients 1, 3, 1, 10: b's effect passes through c and
    # counts twice in module 1.
    np.testing.assert_allclose(found.unit_scores, [-0.1, -0.6, -0.7, -1.0], rtol=1e-5)
    np.testing.assert_allclose(found.modules["score"], [-1.1, -1.3], rtol=1e-5)
    np.testing.assert_allclose(found.modules["exact"], [2.3 - 3.4, 2.7 - 3.4], rtol=1e-5)


@pytest.mark.parametrize("direct", [False, True])
def test_the_graph_is_by_hand(toy, pair, direct):
    found = tlm.module_graph(
        toy, CLEAN, CORRUPTED, middle, pair, direct=direct, n_controls=3, progress=False
    )
    assert (found.metric_clean, found.metric_corrupted) == pytest.approx((1.7, 3.4))
    # Module 0 patched: c moves by -0.1 of its -0.7, b by none of its -0.2. Module 1 patched:
    # neither a nor d reads b or c.
    forth, back = 0.07 / 0.53, 0.0
    np.testing.assert_allclose(found.matrix().to_numpy(), [[np.nan, forth], [back, np.nan]], 1e-5)
    # Directly, with c held at 1.4, a and b change nothing.
    clean = {"ad": 1.3 + 1, "bc": 0.7 + 2, "ac": 0.7 + 2, "bd": 0.8 + 1}
    if direct:
        clean |= {"ad": 1.4 + 1, "bd": 1.4 + 1}
    effects = {tuple(units): clean[name] - 3.4 for name, units in UNITS.items()}
    np.testing.assert_allclose(found.nodes["effect"], [effects[0, 3], effects[1, 2]], rtol=1e-5)
    # b patched moves c by 3 * -0.2 of its -0.7, a by -0.1; nothing moves a or d.
    shares = {tuple(UNITS[name]): (0.42 if "b" in name else 0.07) / 0.53 for name in UNITS}
    edges = found.edges.set_index(["source", "target"])
    for module, node in zip(pair, found.nodes.itertuples(), strict=True):
        controls = [effects[units] for units in drawn(module)]
        assert node.control_mean == pytest.approx(np.mean(controls), rel=1e-5)
        assert node.control_units == 2
        # The clean run lies below: who lowers the metric more has the smaller p-value.
        as_low = sum(control <= node.effect + 1e-6 for control in controls)
        assert node.p_value == (1 + as_low) / 4
    forth, back = edges.loc[(0, 1)], edges.loc[(1, 0)]
    assert forth["control_mean"] == pytest.approx(np.mean([shares[s] for s in drawn(pair[0])]))
    assert back["control_mean"] == pytest.approx(0.0, abs=1e-6)
    assert forth["p_value"] == back["p_value"] == 1  # no control's share is smaller than a's


def test_a_circuit_is_by_hand(toy, pair):
    found = tlm.circuit_scores(
        toy, CLEAN, CORRUPTED, middle, pair, [0], n_controls=3, progress=False
    )
    assert (found.metric_full, found.metric_empty) == pytest.approx((1.7, 3.4))
    # Module 0 alone: c as in the corrupted run, 1.4, and d = 0.1. Module 1 alone: a is 0.2, b stays
    # 0.2, so that c = 0.8; d is 0.2.
    alone, rest = (2.4 - 3.4) / (1.7 - 3.4), (0.8 + 2.0 - 3.4) / (1.7 - 3.4)
    assert found.faithfulness == pytest.approx(alone, rel=1e-5)
    assert found.completeness == pytest.approx(1 - rest, rel=1e-5)
    assert found.minimality["effect"].tolist() == pytest.approx([alone], rel=1e-5)
    # Dealt out anew, module 0 holds a or b, and c or d.
    kept = {"ad": 10 / 17, "ac": (0.1 + 1.2 + 2.0 - 3.4) / -1.7}
    kept |= {"bd": (1.4 + 1.0 - 3.4) / -1.7, "bc": (0.2 + 0.6 + 2.0 - 3.4) / -1.7}
    many = tlm.circuit_scores(
        toy, CLEAN, CORRUPTED, middle, pair, [0], n_controls=60, progress=False
    )
    row = many.table.loc["faithfulness"]
    assert min(kept.values()) - 1e-5 < row["control_mean"] < max(kept.values()) + 1e-5
    assert row["control_mean"] == pytest.approx(np.mean(list(kept.values())), abs=0.08)
    # d alone makes 10 of the 17: half of the controls have it, and are as faithful.
    assert row["p_value"] == pytest.approx(0.5, abs=0.2)


def test_the_greedy_circuit_takes_the_better_module_first(toy, pair):
    found = tlm.greedy_circuit(
        toy, CLEAN, CORRUPTED, middle, pair, n_controls=2, held_out=False, progress=False
    )
    assert found["module"].tolist() == [0, 1]
    assert found["effect"].tolist() == pytest.approx([10 / 17, 1.0], rel=1e-5)
    assert found["n_units"].tolist() == [2, 4]


def test_mean_circuits_need_no_corrupted_run(toy, pair):
    found = tlm.circuit_scores(
        toy,
        CORRUPTED,
        None,
        middle,
        pair,
        [1],
        method="mean",
        positions="all",
        n_controls=0,
        progress=False,
    )
    # None kept: c = 0.7, d = 0.1. Module 1 kept: a = 0.1, b = 0.4, c = 1.3, d = 0.1.
    assert found.metric_empty == pytest.approx(1.7)
    assert found.faithfulness == pytest.approx((2.3 - 1.7) / (3.4 - 1.7), rel=1e-5)


def test_hooks_are_where_the_formula_has_them(pair):
    assert {name: found.tolist() for name, found in pair[0].units.neurons().items()} == {
        HOOKS[0]: [0],
        HOOKS[1]: [1],
    }
