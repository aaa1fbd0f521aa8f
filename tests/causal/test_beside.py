"""Modules in TransformerLens' own tools, and its results beside theirs."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference
from tests.conftest import LEGACY

HOOK = "blocks.{}.mlp.hook_post"


@pytest.mark.skipif(LEGACY, reason="TransformerLens 3.9 has no interchange interventions")
def test_a_layers_units_are_an_interchange_basis(model, clean, corrupted, modules):
    from transformer_lens.tools.analysis import interchange

    name = HOOK.format(1)
    neurons = modules[0].units.neurons()[name]
    subspace = interchange.SubspaceInterchange(interchange.neuron_basis(12, neurons))
    with torch.inference_mode():
        cache = model.run_with_cache(clean)[1]
    last = torch.full((2,), clean.shape[1] - 1)
    theirs = interchange.intervened_logits(
        model,
        name,
        subspace,
        corrupted,
        cache[name][:, -1],
        lambda tokens: model(tokens)[:, -1],
        positions=last,
    )
    only = modules.units.select(np.flatnonzero(modules.units.hook == 1)[neurons])
    hooks = tlm.Module(0, only, modules[0].samples).fwd_hooks(
        "patch", source=cache, positions="last"
    )
    with torch.inference_mode():
        ours = model.run_with_hooks(corrupted, fwd_hooks=hooks)[:, -1]
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_scores_compare_with_attribution_patch(model, clean, corrupted, modules):
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    nodes = attribution_patch(model, clean, corrupted, difference)
    found = tlm.attribute_modules(model, clean, corrupted, difference, modules)
    table = found.beside(nodes)
    assert table["kind"].value_counts().to_dict() == {
        "module": 3,
        "attn_head_out": 6,
        "mlp_out": 3,
        "embed": 1,
    }
    assert table["score"].abs().is_monotonic_decreasing
    ours = table[table["kind"] == "module"].set_index("module")["score"].sort_index()
    np.testing.assert_allclose(ours, found.modules["score"])
    # A layer's output is linear in its neurons: their scores add up to the layer's.
    layers = found.to_frame().groupby("layer")["score"].sum()
    theirs = table[table["kind"] == "mlp_out"].set_index("layer")["score"].sort_index()
    np.testing.assert_allclose(layers, theirs, rtol=1e-3, atol=1e-6)
    assert ours.sum() == pytest.approx(theirs.sum(), rel=1e-3, abs=1e-6)


def test_only_such_results_compare(model, clean, corrupted, modules):
    found = tlm.attribute_modules(model, clean, corrupted, difference, modules)
    with pytest.raises(tlm.ModulesError, match="what TransformerLens' attribution_patch returned"):
        found.beside({"module": 1.0})
