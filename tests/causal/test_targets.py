"""Targets in one table: their names, their options, and what runs beside them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import LEGACY

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def shift(model, prompts):
    sets = [prompts.loc[prompts["category"] == name] for name in ("animal", "code")]
    return tlm.related.eigenshift(model, *sets, n_new_tokens=0, category="animal", **QUIET)


def test_a_target_named_as_a_module_is_refused(model, modules, prompts, shift):
    both = [modules[0], replace(shift, label="0")]
    for run in (
        lambda: tlm.module_effects(model, both, prompts, n_controls=1, **QUIET),
        lambda: tlm.concept_effects(model, both, "animal", prompts, prompts, n_controls=1, **QUIET),
    ):
        with pytest.raises(tlm.ModulesError, match=r"should have different labels, .*; got"):
            run()


def test_unknown_options_are_refused_where_only_targets_are_tested(model, prompts, shift):
    with pytest.raises(tlm.ModulesError, match="method should be one of"):
        tlm.module_effects(model, shift, prompts, n_controls=1, method="bogus", **QUIET)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        tlm.module_effects(model, shift, prompts, n_controls=1, foo=3, **QUIET)


def test_erasure_is_measured_with_answers_and_by_patching(model, modules, prompts):
    answered = prompts.assign(answer=["cat", "cat", "dog", "dog"] * 4, separator=" ")
    paired = tlm.with_corrupted(model, answered)
    assert set(paired["category"]) == {"animal", "code"}
    found = {}
    for name, options in {
        "answers": {"metric": "answer_logprob"},
        "patch": {"method": "patch"},
        "mean": {},
    }.items():
        options = {"n_controls": 1, **options, **QUIET}
        found[name] = tlm.concept_effects(model, modules[0], "animal", paired, paired, **options)
    assert found["patch"]["harm"][0] != found["mean"]["harm"][0] != found["answers"]["harm"][0]
    # The same as the effects table's, on the same prompts.
    options = {"metric": "answer_logprob", "n_controls": 1, **QUIET}
    effects = tlm.module_effects(model, modules[0], paired, **options).set_index("category")
    np.testing.assert_allclose(found["answers"]["harm"], effects.loc["animal", "effect"])


@pytest.mark.skipif(LEGACY, reason="HookedTransformer has one name for each hook point")
@pytest.mark.parametrize("batch_size", [1, 64])
def test_states_are_read_after_edits_that_name_the_hook_point_otherwise(model, prompts, batch_size):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    kinds = {"layer": 1}
    (part,) = tlm.specialised_parts(
        model, prompts.groupby("category").head(4), reference, kinds=kinds, metric="loss", **QUIET
    )[:1]
    (layer,) = set(part.units.to_frame()["layer"])
    others = [number for number in range(3) if number != layer]
    tables = []
    for name in ("mlp.hook_post", "mlp.out.hook_in"):
        where = f"blocks.{others[-1]}.{name}"
        tables.append(
            tlm.concept_effects(
                model,
                part,
                "animal",
                prompts.groupby("category").head(5),
                prompts.groupby("category").tail(3),
                hook_name=where,
                n_controls=2,
                batch_size=batch_size,
                **QUIET,
            )
        )
    pd.testing.assert_frame_equal(*tables)
