import html
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm


@pytest.fixture(scope="module")
def effects(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, n_controls=3, progress=False)


def with_p(effects, p_values):
    """The table with other p-values of a selectivity of 1, and 99 controls."""
    values = effects["module"].map(dict(enumerate(p_values)))
    return effects.assign(
        selectivity=1.0, selectivity_p_value=values, n_controls=99, shared_by_all=False
    )


def test_a_set_keeps_its_verdicts(model, modules, effects, tmp_path):
    named = tlm.with_topics(modules, model, progress=False)
    assert "verdict" not in named.describe()
    judged = named.with_effects(with_p(effects, [0.01, 0.6, 0.6]))
    said = ["selective", "not beyond its controls", "not beyond its controls"]
    assert judged.describe()["verdict"].tolist() == said
    judged.save(tmp_path / "modules")
    assert tlm.ModuleSet.load(tmp_path / "modules").verdicts == tuple(said)


def test_another_own_category_has_no_verdict_yet(modules, effects):
    judged = modules.with_effects(with_p(effects, [0.01, 0.01, 0.6]))
    renamed = judged.with_categories({1: "animal"})
    assert renamed.verdicts == ("selective", None, "not beyond its controls")


def test_other_units_have_no_verdict_yet(model, prompts, acts, modules, effects):
    judged = modules.with_effects(with_p(effects, [0.01, 0.01, 0.6]))
    assert judged.verdict_sentence is not None
    options = {"sizes": [2], "rankings": (), "n_controls": 0, "progress": False}
    for other in (
        tlm.merge_modules(acts, judged, [[0, 1]]),
        tlm.set_aside_background(acts, judged, progress=False),
        tlm.hierarchy(judged, acts, n_permutations=1).coarsen(2, acts),
        tlm.causal_cores(model, judged, prompts[:8], prompts[8:], **options).cores,
    ):
        assert (other.verdicts, other.verdict_sentence) == (None, None)


def test_runs_that_do_not_agree_give_no_verdict(modules, effects):
    one = with_p(effects, [0.01, 0.6, 0.6]).assign(controls="layer")
    other = with_p(effects, [0.6, 0.6, 0.6]).assign(controls="magnitude")
    both = modules.with_effects(pd.concat([one, other]))
    said = "not beyond its controls"
    assert both.verdicts == (None, said, said)
    assert modules.with_effects(one).with_effects(other).verdicts == (said, said, said)


def test_a_run_that_says_nothing_takes_no_verdict_back(modules, effects):
    judged = modules.with_effects(with_p(effects, [0.01, 0.6, 0.6]))
    few = with_p(effects, [0.5, 0.5, 0.5]).assign(n_controls=1)
    assert set(tlm.verdicts(few)["verdict"]) == {"too few controls to say"}
    assert judged.with_effects(few).verdicts == judged.verdicts
    both = [with_p(effects, [0.01, 0.6, 0.6]).assign(controls="layer"), few]
    both[1] = both[1].assign(controls="magnitude")
    assert modules.with_effects(pd.concat(both)).verdicts == judged.verdicts
    repeated = pd.concat([effects, effects])  # runs that cannot be told apart
    assert modules.with_effects(repeated).verdicts is None


def test_modules_that_were_not_tested_keep_their_verdicts(modules, effects):
    judged = modules.with_effects(with_p(effects, [0.01, 0.6, 0.6]))
    few = with_p(effects, [0.6, np.nan, 0.01])
    again = judged.with_effects(few[few["module"] == 2])
    assert again.verdicts == ("selective", "not beyond its controls", "selective")


def test_as_many_verdicts_as_modules(modules):
    with pytest.raises(tlm.ModulesError, match="verdicts should have one entry per module, 3"):
        type(modules)(**{**vars(modules), "verdicts": ("selective",)})


def test_a_set_shows_the_sentence_of_the_effects_that_its_verdicts_are_of(
    model, modules, effects, tmp_path
):
    named = tlm.with_topics(modules, model, progress=False)
    assert named.describe().attrs["sentence"] is None
    one = with_p(effects, [0.01, 0.6, 0.6])
    judged = named.with_effects(one)
    sentence = tlm.verdict_sentence(one)
    assert judged.describe().attrs["sentence"] == judged.verdict_sentence == sentence
    shown = html.unescape(judged._repr_html_())
    assert shown.index(sentence) < shown.index("ModuleSet(")
    judged.save(tmp_path / "modules")
    assert tlm.ModuleSet.load(tmp_path / "modules").verdict_sentence == sentence
    assert judged.with_categories({1: "animal"}).verdict_sentence is None
    other = with_p(effects, [0.6, 0.6, 0.6])
    assert judged.with_effects(other).verdict_sentence == tlm.verdict_sentence(other)
    # A table of one module's effects says nothing of the set.
    assert judged.with_effects(other[other["module"] == 0]).verdict_sentence is None
    few = with_p(effects, [0.5, 0.5, 0.5]).assign(n_controls=1)
    assert judged.with_effects(few).verdict_sentence == sentence


def test_the_sentence_of_cores_speaks_of_cores_wherever_it_is_shown(modules, effects, tmp_path):
    one = with_p(effects, [0.01, 0.6, 0.6])
    cores = replace(modules, holds="cores").with_effects(one)
    sentence = tlm.verdict_sentence(one, of="cores")
    assert "The core of 1 of 3 modules" in sentence
    assert cores.verdict_sentence == sentence
    cores.save(tmp_path / "cores")
    assert tlm.ModuleSet.load(tmp_path / "cores").holds == "cores"
    cores.save_pretrained(tmp_path / "shared", effects=one.assign(control_std=0.1))
    assert f"**{sentence}**" in (tmp_path / "shared" / "README.md").read_text()
