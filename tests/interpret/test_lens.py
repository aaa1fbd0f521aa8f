from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.interpret.toys import Lensed, lensed_modules
from tl_modules.interpret.lens import Written, _directions, written_tokens
from tl_modules.interpret.write_vectors import direct_logits


def direction(model, modules):
    """The modules' own directions."""
    with torch.inference_mode():
        return _directions(model, modules, 2, 0)[:, 0].numpy()


def test_a_direction_is_what_the_units_write_times_their_means_and_scores():
    # Means 0.1, 0.2, 0.7, 0.1; a and d write x and -x, b and c write y and z.
    scores = np.array([3.0, 1.0, -5.0, 1.0])
    modules = replace(lensed_modules(), unit_scores=scores)
    assert direction(Lensed(), modules) == pytest.approx(np.array([[0.2, 0, 0], [0, 0.2, 0]]))


def test_without_scores_all_units_weigh_alike():
    assert direction(Lensed(), lensed_modules()) == pytest.approx(
        np.array([[0, 0, 0], [0, 0.2, 0.7]])
    )


@pytest.mark.parametrize("normalization_type", ["RMS", "LN", None])
def test_logits_are_the_models_own_of_the_direction_alone(normalization_type):
    model = tiny_model(normalization_type=normalization_type)
    directions = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    if normalization_type == "LN":
        with torch.no_grad():
            model.ln_final.b[:] = torch.arange(16)  # not the direction's doing
    with torch.inference_mode():
        found = direct_logits(model, directions)
        alone = directions / directions.pow(2).mean(-1, keepdim=True).sqrt()
        if normalization_type == "LN":
            alone = alone - alone.mean(-1, keepdim=True)
            alone = alone / alone.pow(2).mean(-1, keepdim=True).sqrt()
        if normalization_type is not None:
            alone = alone * model.ln_final.w
        expected = alone @ model.W_U
        expected = expected - expected.mean(-1, keepdim=True)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.fixture
def writer(acts):
    """A model where one neuron, alone in its module, writes the unembedding of one token."""
    model = tiny_model()
    labels = np.zeros(36, dtype=int)
    labels[15] = 1  # neuron 3 of layer 1
    means = np.ones(36, dtype=np.float32)
    modules = replace(
        tlm.discover(acts, 3),
        n_modules=2,
        unit_labels=labels,
        sample_labels=np.arange(16) % 2,
        unit_means=means,
        unit_scores=None,
        unit_runners_up=None,
    )
    token = model.tokenizer.convert_tokens_to_ids("bird")

    def write(sign):
        towards = model.W_U[:, token] - model.W_U.mean(dim=1)
        with torch.no_grad():
            model.blocks[1].mlp.W_out[3] = sign * towards
        return model, modules

    return write


@pytest.mark.parametrize("sign", [1, -1])
def test_a_neuron_that_writes_a_tokens_unembedding_promotes_or_suppresses_it(writer, sign):
    model, modules = writer(sign)
    found = written_tokens(model, modules, progress=False)[1]
    best = (found.promoted if sign > 0 else found.suppressed)[0]
    assert best.token == "bird"
    assert np.sign(best.logit) == np.sign(best.z) == sign


def test_the_sign_of_the_mean_activation_turns_the_direction_round(writer):
    model, modules = writer(1)
    means = modules.unit_means.copy()
    means[15] = -1
    found = written_tokens(model, replace(modules, unit_means=means), progress=False)[1]
    assert found.suppressed[0].token == "bird"


def test_z_is_the_distance_from_random_units_of_the_same_layers(model, modules):
    with torch.inference_mode():
        directions = _directions(model, modules, 20, 3)
        logits = direct_logits(model, directions[1]).numpy()
    best = written_tokens(model, modules, seed=3, progress=False)[1].promoted[0]
    spread = logits[1:].std(axis=0, ddof=1)
    z = (logits[0] - logits[1:].mean(axis=0)) / (spread + np.median(spread))
    assert best.z == pytest.approx(z.max(), rel=1e-4)
    assert best.logit == pytest.approx(logits[0, z.argmax()], rel=1e-4)


def test_chance_is_what_random_directions_reach_among_each_other(model, modules):
    with torch.inference_mode():
        controls = direct_logits(model, _directions(model, modules, 4, 0)[0]).numpy()[1:]
    clearest = []
    for row in range(4):
        others = controls[[other for other in range(4) if other != row]]
        spread = others.std(axis=0, ddof=1)
        z = (controls[row] - others.mean(axis=0)) / (spread + np.median(spread))
        clearest.append(np.abs(z).max())
    found = written_tokens(model, modules, n_controls=4, progress=False)[0]
    assert found.chance_z == pytest.approx(np.max(clearest), rel=1e-4)


def test_a_module_that_writes_nothing_promotes_nothing(model, modules):
    means = np.where(modules.unit_labels == 1, 0, modules.unit_means)
    found = written_tokens(model, replace(modules, unit_means=means), progress=False)
    assert found[1] == Written()
    assert found[0].promoted


def test_controls_hold_as_many_units_of_each_layer_as_the_module(model, acts):
    # Neurons of layer l write only dimension l, each the same: dealt anew they write the same.
    modules = replace(tlm.discover(acts, 3), unit_means=np.ones(36, np.float32), unit_scores=None)
    model = tiny_model()
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            block.mlp.W_out[:] = torch.eye(16)[layer]
    with torch.inference_mode():
        found = _directions(model, modules, 5, 0)
    for module in modules:
        counts = np.zeros(16)
        counts[:3] = module.units.counts()
        assert found[module.label].numpy() == pytest.approx(np.tile(counts, (6, 1)))
    assert written_tokens(model, modules, progress=False) == [Written(chance_z=0.0)] * 3


def test_one_seed_gives_one_answer_and_another_other_controls(model, modules):
    one, same, other = (written_tokens(model, modules, seed=s, progress=False) for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("units", ["attn_heads", "attn_z", "resid", "mlp+attn_heads"])
def test_every_site_has_write_vectors(model, prompts, units):
    acts = tlm.collect(model, prompts, units=units, progress=False)
    modules = replace(tlm.discover(acts, 2), unit_scores=None)
    expected = np.zeros((2, 16))
    coordinates = modules.units.coordinates()
    spans = np.asarray(modules.units.spans)[modules.units.hook]
    labels = np.repeat(modules.unit_labels, spans)
    rows = zip(labels, coordinates.hook, coordinates.index, modules.unit_means, strict=True)
    for label, hook, index, mean in rows:
        name, layer = coordinates.hook_names[hook], coordinates.layers[hook]
        if "mlp" in name:
            row = model.blocks[layer].mlp.W_out[index]
        elif "attn" in name:
            row = model.blocks[layer].attn.W_O[index // 8, index % 8]
        else:
            row = torch.eye(16)[index]
        expected[label] += mean * row.detach().numpy()
    assert direction(model, modules) == pytest.approx(expected, abs=1e-4)


def test_modules_without_means_are_refused():
    with pytest.raises(tlm.ModulesError, match="needs the units' mean activations"):
        written_tokens(Lensed(), replace(lensed_modules(), unit_means=None))


def test_units_of_unknown_write_vectors_are_refused(modules, model):
    names = tuple(f"{name}.hook_sae_acts_post" for name in modules.units.hook_names)
    units = tlm.Units.whole(names, modules.units.layers, modules.units.widths)
    with pytest.raises(tlm.ModulesError, match=r"The write vectors of units at .* are unknown"):
        written_tokens(model, replace(modules, units=units), progress=False)


def test_a_model_that_normalises_what_its_layers_write_is_refused():
    toy = Lensed()
    toy.blocks[1].ln2_post = torch.nn.Identity()
    with pytest.raises(tlm.ModulesError, match=r"before it adds the output to the residual stream"):
        written_tokens(toy, lensed_modules())


def test_a_model_without_the_weights_is_refused():
    toy = Lensed()
    del toy.W_U
    with pytest.raises(tlm.ModulesError, match="does not expose W_U"):
        written_tokens(toy, lensed_modules())
    toy = Lensed()
    toy.blocks[0].mlp.W_out = torch.zeros(5, 3)
    with pytest.raises(tlm.ModulesError, match=r"should have shape \(2, 3\)"):
        written_tokens(toy, lensed_modules())


def test_too_few_controls_are_refused(model, modules):
    with pytest.raises(tlm.ModulesError, match="n_controls should be at least 3; got 2"):
        written_tokens(model, modules, n_controls=2)
