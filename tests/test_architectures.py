"""Every architecture of the matrix, against the Hugging Face model that it wraps."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.architectures import ARCHITECTURES, N_LAYERS, hooked_model, hugging_face_model
from tests.conftest import LEGACY, unsaid

DOCS = Path(__file__).parents[1] / "docs" / "architectures.md"
TEXT = "the cat sat on the mat"
SITES = ["mlp", "attn_z", "resid"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pair(name):
    """A Hugging Face model, and a hooked one with its weights."""
    model = hugging_face_model(name)
    return model, hooked_model(model, name)


def points(model, name, site):
    """Where a site's activations pass in the Hugging Face model: modules, and whether going in."""
    architecture = ARCHITECTURES[name]
    layers = [
        model.get_submodule(architecture.layer.format(layer=layer)) for layer in range(N_LAYERS)
    ]
    if site == "resid":
        return [(layer, False) for layer in layers]
    path = architecture.down if site == "mlp" else architecture.attention_out
    return [(layer.get_submodule(path), True) for layer in layers]


def hooked(model, name, site, change):
    """Run the Hugging Face model with a change to each layer's activation at a site."""

    def before(layer):
        return lambda module, inputs: (change(layer, inputs[0]), *inputs[1:])

    def after(layer):
        def hook(module, inputs, output):
            if isinstance(output, tuple):
                return (change(layer, output[0]), *output[1:])
            return change(layer, output)

        return hook

    handles = [
        module.register_forward_pre_hook(before(layer))
        if inside
        else module.register_forward_hook(after(layer))
        for layer, (module, inside) in enumerate(points(model, name, site))
    ]

    def run(tokens):
        try:
            with torch.inference_mode():
                return model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()

    return run


def indices(module):
    """A module's units, layer by layer."""
    result = [[] for _ in range(N_LAYERS)]
    for hook, at in module.units.by_hook():
        result[hook] = module.units.index[at].tolist()
    return result


@pytest.fixture(scope="module")
def found(pair, name, prompts):
    """Activations and modules at each site that the model has."""
    _, model = pair
    result = {}
    for site in SITES:
        if site != "mlp" or ARCHITECTURES[name].d_mlp:
            acts = tlm.collect(model, prompts, units=site, progress=False)
            result[site] = acts, tlm.discover(acts, 2)
    return result


def test_units_are_what_the_hugging_face_model_computes(pair, name, prompts, found):
    plain, model = pair
    for site, (acts, _) in found.items():
        tokens = model.to_tokens(prompts["prompt"][3])
        seen = {}
        hooked(plain, name, site, lambda layer, x, seen=seen: seen.setdefault(layer, x))(tokens)
        flat = [seen[layer].reshape(-1, seen[layer].shape[-1]).abs() for layer in range(N_LAYERS)]
        expected = torch.cat([values.mean(0) for values in flat])
        np.testing.assert_allclose(acts.values[3], expected.numpy(), rtol=1e-3, atol=1e-5)
        if site == "mlp":
            assert acts.units.widths == (ARCHITECTURES[name].d_mlp,) * N_LAYERS


def test_ablating_a_module_is_ablating_it_in_the_hugging_face_model(pair, name, found):
    plain, model = pair
    tokens = model.to_tokens(TEXT)
    for site, (_, modules) in found.items():
        index = indices(modules[0])

        def silence(layer, x, index=index):
            x = x.clone()
            x[..., index[layer]] = 0
            return x

        expected = hooked(plain, name, site, silence)(tokens)
        with torch.inference_mode():
            untouched = model(tokens)
            with modules[0].ablated(model, method="zero"):
                logits = model(tokens)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
        assert (logits - untouched).abs().max() > 1e-2


def test_patching_a_module_is_putting_the_other_runs_values_in(pair, name, found):
    plain, model = pair
    clean, corrupted = (model.to_tokens(text) for text in (TEXT, "the dog ran on the mat"))

    def difference(logits):
        return logits[0, -1, 11] - logits[0, -1, 12]

    with torch.inference_mode():
        _, cache = model.run_with_cache(clean)
        untouched = difference(model(corrupted))
    for site, (_, modules) in found.items():
        values = {}
        keep = lambda layer, x, values=values: values.setdefault(layer, x)  # noqa: E731
        hooked(plain, name, site, keep)(clean)
        index = indices(modules[0])

        def put(layer, x, values=values, index=index):
            x = x.clone()
            x[..., index[layer]] = values[layer][..., index[layer]]
            return x

        expected = difference(hooked(plain, name, site, put)(corrupted))
        (patched,) = tlm.get_act_patch_module(
            model, corrupted, cache, difference, [modules[0]], progress=False
        )
        assert float(patched) == pytest.approx(float(expected), abs=1e-3)
        assert abs(float(patched - untouched)) > 1e-3


@unsaid
def test_modules_have_effects_beside_controls(pair, prompts, found):
    _, model = pair
    for _, modules in found.values():
        effects = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
        assert np.isfinite(effects["effect"]).all()
        assert effects["effect"].abs().max() > 1e-3


def test_heads_are_units(pair, name, prompts):
    plain, model = pair
    acts = tlm.collect(model, prompts, units="attn_heads", progress=False)
    assert acts.units.widths == (2,) * N_LAYERS
    seen = {}
    keep = lambda layer, x: seen.setdefault(layer, x)  # noqa: E731
    hooked(plain, name, "attn_z", keep)(model.to_tokens(prompts["prompt"][3]))
    heads = [seen[layer].reshape(-1, 2, 8).norm(dim=-1).mean(0) for layer in range(N_LAYERS)]
    np.testing.assert_allclose(acts.values[3], torch.cat(heads).numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mixture", [k for k, row in ARCHITECTURES.items() if not row.d_mlp])
def test_experts_neurons_are_refused_by_name(mixture, prompts):
    model = hooked_model(hugging_face_model(mixture), mixture)
    with pytest.raises(tlm.ModulesError, match=r"mixture of experts.* Use 'attn_heads'"):
        tlm.collect(model, prompts, progress=False)


def test_a_layer_narrower_than_the_configuration_says_is_refused(prompts):
    model = hooked_model(hugging_face_model("Llama"), "Llama")
    model.cfg.d_mlp = 32
    for run in (tlm.collect, tlm.collect_reference):
        with pytest.raises(tlm.ModulesError, match="32 values per token, as the model's cfg says"):
            run(model, prompts, progress=False)


@pytest.mark.skipif(LEGACY, reason="the page is about the transformers of TransformerLens 4")
def test_architectures_documented_as_not_there_are_not_in_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    text = DOCS.read_text()
    section = text.split("## What is not there")[1].split("\n## ")[0]
    assert re.findall(r"model type `(\w+)`", section) == ["fuxitranyu"]
    assert "llama" in CONFIG_MAPPING_NAMES
    assert "fuxitranyu" not in CONFIG_MAPPING_NAMES, "it can join ARCHITECTURES and the table"


@pytest.mark.skipif(LEGACY, reason="the table is of TransformerLens 4; two rows run on 3.9")
def test_the_documented_table_is_this_matrix():
    cell = r" ([^|]+?) \|"
    rows = re.findall(rf"^\|{cell} `(\w+Config)` \|{cell * 3}$", DOCS.read_text(), re.MULTILINE)
    documented = {name: (config, cells) for name, config, *cells in rows}
    tested = {
        name: (row.config, ["yes" if row.d_mlp else "refused", "yes", "yes"])
        for name, row in ARCHITECTURES.items()
    }
    assert documented == tested
