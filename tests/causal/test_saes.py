"""Latents of SAEs as units: what is read, what an edit does to the model, and what it leaves."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each
from tests.conftest import LEGACY, unsaid
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.losses import next_token_losses

RESID = "blocks.{}.hook_resid_post"
LATENTS = RESID + ".hook_sae_acts_post"
D_SAE = 24
NO_SAMPLES = pd.DataFrame({"prompt": [], "category": []})
NEEDS_SAELENS = "SAELens cannot be imported with TransformerLens 4"


def config(hook_name, d_in, d_sae, **more):
    metadata = SimpleNamespace(hook_name=hook_name)
    return SimpleNamespace(d_in=d_in, d_sae=d_sae, metadata=metadata, **more)


class Random(torch.nn.Module):
    """ReLU latents of random weights: an SAE with a large error."""

    def __init__(self, hook_name, d_in=16, d_sae=D_SAE, seed=0):
        super().__init__()
        self.cfg = config(hook_name, d_in, d_sae)
        random = torch.Generator().manual_seed(seed)
        shapes = {
            "W_enc": (d_in, d_sae),
            "b_enc": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }
        for name, shape in shapes.items():
            values = 0.5 * torch.randn(shape, generator=random)
            self.register_parameter(name, torch.nn.Parameter(values))

    def encode(self, x):
        return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()

    def decode(self, latents):
        return latents @ self.W_dec + self.b_dec


class Scaled(Random):
    """Like SAELens' run-time normalisation: ``decode`` uses up what ``encode`` noted."""

    def encode(self, x):
        self.scale = x.norm(dim=-1, keepdim=True)
        return super().encode(x / self.scale)

    def decode(self, latents):
        rebuilt = super().decode(latents) * self.scale
        del self.scale
        return rebuilt


class Signed(torch.nn.Module):
    """Without error: each dimension's positive part, then each one's negative part."""

    def __init__(self, hook_name, d_in=16):
        super().__init__()
        self.cfg = config(hook_name, d_in, 2 * d_in)

    def encode(self, x):
        return torch.cat([x.relu(), (-x).relu()], -1)

    def decode(self, latents):
        positive, negative = latents.chunk(2, -1)
        return positive - negative


def saelens():
    if not LEGACY:
        pytest.skip(NEEDS_SAELENS)
    with warnings.catch_warnings():
        # Its imports go through a module that TransformerLens 3.9 deprecates.
        warnings.filterwarnings("ignore", "The 'utils' module", DeprecationWarning)
        import sae_lens
    return sae_lens


def theirs(kind, hook_name, seed):
    """One of SAELens' SAEs, made by its configuration."""
    library = saelens()
    options = {"d_in": 16, "d_sae": D_SAE}
    if kind == "topk":
        sae = library.TopKSAE(library.TopKSAEConfig(**options, k=5))
    elif kind == "jumprelu":
        sae = library.JumpReLUSAE(library.JumpReLUSAEConfig(**options))
    else:
        config = library.StandardSAEConfig(**options, normalize_activations=kind)
        sae = library.StandardSAE(config)
    sae.cfg.metadata.hook_name = hook_name
    random = torch.Generator().manual_seed(seed)
    for name, values in sae.named_parameters():
        values.data = 0.5 * torch.randn(values.shape, generator=random)
        if name == "threshold":
            values.data = values.data.abs()
    return sae


OURS = {"random": Random, "scaled": Scaled}
THEIRS = [
    "none",
    "expected_average_only_in",
    "layer_norm",
    "constant_norm_rescale",
    "topk",
    "jumprelu",
]


def make_saes(kind, layers=range(3)):
    if kind in OURS:
        return [OURS[kind](RESID.format(layer), seed=layer) for layer in layers]
    return [theirs(kind, RESID.format(layer), seed=layer) for layer in layers]


@pytest.fixture(scope="module", params=[*OURS, *THEIRS])
def any_saes(request):
    return make_saes(request.param)


@pytest.fixture(scope="module")
def spliced(model):
    return tlm.with_saes(model, make_saes("random"))


@pytest.fixture(scope="module")
def perfect(model):
    return tlm.with_saes(model, [Signed(RESID.format(layer)) for layer in range(3)])


@pytest.fixture(scope="module")
def acts(spliced, prompts):
    return tlm.collect(spliced, prompts, units="sae", progress=False)


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 2)


@pytest.fixture
def tokens(model):
    texts = ["the cat sat on the mat", "one plus two equals three :"]
    return torch.cat([model.to_tokens(text) for text in texts])


def run(model, tokens, hooks=(), **options):
    with torch.inference_mode():
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks), **options)


def read(model, tokens, name, hooks=(), **options):
    """What the run has at a hook point, after hooks."""
    found = {}
    run(model, tokens, [*hooks, (name, lambda a, hook: found.update(a=a.clone()))], **options)
    return found["a"]


def attached_hooks(model):
    return [name for name, point in model.hook_dict.items() if point._forward_hooks]


@pytest.fixture(autouse=True)
def _nothing_stays_behind(model):
    yield
    assert attached_hooks(model) == []


def latents_of(units, index, layer=0):
    """Some latents of a layer, as a module."""
    chosen = (units.hook == layer) & np.isin(units.index, index)
    return tlm.Module(0, units.select(chosen), NO_SAMPLES)


# Reading


def test_latents_are_collected_as_the_saes_encode_them(model, prompts, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    acts = tlm.collect(spliced, prompts, units="sae", progress=False)
    assert acts.values.shape == (len(prompts), 3 * D_SAE)
    for row in (0, 5):
        cache = model.run_with_cache(model.to_tokens(prompts["prompt"][row]))[1]
        with torch.inference_mode():
            expected = [
                sae.encode(cache[RESID.format(layer)])[0].abs().mean(0)
                for layer, sae in enumerate(any_saes)
            ]
        np.testing.assert_allclose(acts.values[row], torch.cat(expected), rtol=1e-4, atol=1e-6)


def test_latents_are_units_of_their_layers_in_any_order_of_the_saes(model, acts):
    frame = acts.units.to_frame()
    assert acts.units.site == "sae"
    assert frame["layer"].tolist() == [0] * D_SAE + [1] * D_SAE + [2] * D_SAE
    assert frame["hook_name"][D_SAE] == LATENTS.format(1)
    backwards = tlm.with_saes(model, make_saes("random")[::-1])
    acts.units.check_model(backwards)


def test_caches_of_latents_give_the_same_matrix(spliced, prompts, acts):
    collector = tlm.Collector(spliced, units="sae")
    for text in prompts["prompt"][:3]:
        with torch.inference_mode():
            tokens = spliced.to_tokens(text)
            _, cache = spliced.run_with_cache(tokens, names_filter=collector.names_filter)
        collector.add(cache)
    np.testing.assert_allclose(collector.matrix().values, acts.values[:3], rtol=1e-4, atol=1e-7)


def test_a_cache_holds_the_latents_that_the_filter_names(spliced, model, tokens):
    def names(names_filter, **options):
        with torch.inference_mode():
            return set(
                spliced.run_with_cache(tokens, names_filter=names_filter, **options)[1].keys()
            )

    latents, resid = LATENTS.format(1), RESID.format(2)
    every = {LATENTS.format(layer) for layer in range(3)}
    with torch.inference_mode():
        assert names(None) == every | set(model.run_with_cache(tokens)[1].keys())
        own = set(model.run_with_cache(tokens, names_filter=resid)[1].keys())
    assert names(latents) == {latents}
    assert names([latents, resid]) == {latents} | own
    assert names(lambda name: name.endswith("acts_post")) == every
    assert names(latents, return_cache_object=False) == {latents}
    with torch.inference_mode():
        _, whole = spliced.run_with_cache(tokens[:1])
        _, one = spliced.run_with_cache(tokens[:1], names_filter=latents, remove_batch_dim=True)
    assert torch.equal(one[latents], whole[latents][0])


def test_without_hooks_on_latents_the_sae_does_not_run(model, tokens):
    sae = Random(RESID.format(1))
    sae.encode = lambda x: pytest.fail("the SAE ran")
    spliced = tlm.with_saes(model, sae)
    assert attached_hooks(spliced.model) == []
    with torch.inference_mode():
        assert torch.equal(spliced(tokens), model(tokens))
        assert torch.equal(run(spliced, tokens), model(tokens))
        spliced.run_with_cache(tokens, names_filter=RESID.format(1))


def test_reading_latents_changes_nothing_to_the_last_bit(model, tokens, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    with torch.inference_mode():
        plain = model(tokens)
        assert torch.equal(spliced.run_with_cache(tokens)[0], plain)
    same = [(LATENTS.format(layer), lambda f, hook: f.clone()) for layer in range(3)]
    assert torch.equal(run(spliced, tokens, same), plain)


# Editing


def test_silencing_a_latent_takes_its_direction_away_and_keeps_the_error(
    spliced, model, tokens, acts
):
    sae = make_saes("random")[0]
    some = [3, 7, 8]
    with torch.no_grad():
        x = model.run_with_cache(tokens)[1][RESID.format(0)]
        expected = x - sae.encode(x)[..., some] @ sae.W_dec[some]
    hooks = latents_of(acts.units, some).fwd_hooks("zero")
    torch.testing.assert_close(read(spliced, tokens, RESID.format(0), hooks), expected)
    by_hand = run(model, tokens, [(RESID.format(0), lambda a, hook: expected)])
    torch.testing.assert_close(run(spliced, tokens, hooks), by_hand)
    assert (by_hand - run(model, tokens)).abs().max() > 1e-2


def test_silencing_both_signs_of_a_dimension_sets_it_to_zero(perfect, model, tokens):
    units = perfect.sites["sae"]
    hooks = latents_of(units, [5, 21], layer=1).fwd_hooks("zero")

    def zero(x, hook):
        x = x.clone()
        x[..., 5] = 0
        return x

    expected = run(model, tokens, [(RESID.format(1), zero)])
    torch.testing.assert_close(run(perfect, tokens, hooks), expected)


def test_steering_moves_the_residual_stream_along_the_decoder(spliced, model, tokens, acts):
    sae = make_saes("random")[2]
    hooks = latents_of(acts.units, [4], layer=2).fwd_hooks("scale", factor=3.0)
    with torch.no_grad():
        x = model.run_with_cache(tokens)[1][RESID.format(2)]
        expected = x + 2 * sae.encode(x)[..., 4, None] * sae.W_dec[4]
    torch.testing.assert_close(read(spliced, tokens, RESID.format(2), hooks), expected)


@pytest.mark.parametrize("method", ["zero", "mean", "position_mean", "resample", "scale"])
def test_every_method_acts_on_latents_at_chosen_positions(
    spliced, prompts, tokens, modules, method
):
    reference = tlm.collect_reference(spliced, prompts, units="sae", progress=False)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    options = {"factor": 0.5} if method == "scale" else {}
    module = modules[0]
    hooks = module.fwd_hooks(method, reference, attention_mask=mask, positions="last", **options)
    before = read(spliced, tokens, LATENTS.format(0))
    after = read(spliced, tokens, LATENTS.format(0), hooks)
    own = module.units.neurons()[LATENTS.format(0)]
    at = (torch.tensor([[0], [1]]), torch.tensor([[tokens.shape[1] - 1], [3]]), own)
    expected = before.clone()
    expected[at] = after[at]
    assert torch.equal(after, expected)  # nothing else
    if method == "zero":
        assert (after[at] == 0).all()
    if method == "scale":
        torch.testing.assert_close(after[at], before[at] / 2)
    if method == "mean":
        means = torch.from_numpy(reference.unit_means[own]).float()
        torch.testing.assert_close(after[at], means.expand(2, -1))
    assert not torch.equal(after, before)
    # Where no latent was touched, the residual stream is what it was.
    resid = RESID.format(0)
    changed = (read(spliced, tokens, resid, hooks) != read(spliced, tokens, resid)).any(-1)
    assert changed.nonzero().tolist() == [[0, tokens.shape[1] - 1], [1, 3]]


def test_keeping_only_a_module_silences_all_other_latents(spliced, tokens, modules):
    hooks = modules[0].fwd_hooks("zero", keep_only=True)
    after = read(spliced, tokens, LATENTS.format(0), hooks)
    own = modules[0].units.neurons()[LATENTS.format(0)]
    others = np.setdiff1d(np.arange(D_SAE), own)
    assert (after[..., others] == 0).all()
    assert torch.equal(after[..., own], read(spliced, tokens, LATENTS.format(0))[..., own])


def test_a_hook_may_write_into_the_latents_it_is_given(spliced, tokens, acts):
    def in_place(latents, hook):
        assert hook.name == LATENTS.format(0)
        latents[..., 3] = 0
        return latents

    def silently(latents, hook):
        latents[..., 3] = 0

    expected = run(spliced, tokens, latents_of(acts.units, [3]).fwd_hooks("zero"))
    assert not torch.equal(expected, run(spliced, tokens))
    for hook in (in_place, silently):
        assert torch.equal(run(spliced, tokens, [(LATENTS.format(0), hook)]), expected)


def test_hooks_may_be_chosen_by_a_function_of_the_name(spliced, model, tokens):
    seen = []
    hook = (
        lambda name: name.startswith("blocks.2.hook_resid_post"),
        lambda a, hook: seen.append(a),
    )
    run(spliced, tokens, [hook])
    assert sorted(a.shape[-1] for a in seen) == [16, D_SAE]


def test_patching_all_latents_keeps_the_corrupted_error(model, clean, corrupted):
    sae = make_saes("random")[1]
    spliced = tlm.with_saes(model, sae)
    with torch.inference_mode():
        cache = spliced.run_with_cache(clean)[1]
        x = model.run_with_cache(corrupted)[1][RESID.format(1)]
        there = x + sae.decode(cache[LATENTS.format(1)]) - sae.decode(sae.encode(x))
        expected = model.run_with_hooks(
            corrupted, fwd_hooks=[(RESID.format(1), lambda a, hook: there)]
        )
    every = tlm.Module(0, spliced.sites["sae"], NO_SAMPLES)
    found = tlm.get_act_patch_module(spliced, corrupted, cache, difference, every, progress=False)
    torch.testing.assert_close(found[0], difference(expected))
    found = tlm.get_act_patch_module(spliced, clean, cache, difference, every, progress=False)
    assert found[0] == difference(run(model, clean))  # its own values: nothing to patch


def test_patching_an_sae_without_error_is_patching_its_hook_point(perfect, clean, corrupted):
    with torch.inference_mode():
        cache = perfect.run_with_cache(clean)[1]
    every = tlm.Module(0, perfect.sites["sae"], NO_SAMPLES)
    found = tlm.get_act_patch_module(perfect, corrupted, cache, difference, every, progress=False)
    torch.testing.assert_close(found[0], difference(run(perfect, clean)))


def test_hooks_at_the_same_place_see_the_edited_activation(spliced, model, tokens, acts):
    # Whichever was there first: an edit of latents, then the hook point's own hooks.
    module = latents_of(acts.units, range(D_SAE))
    latents = read(spliced, tokens, LATENTS.format(0))
    own = (RESID.format(0), lambda a, hook: a + 1)
    plain = read(spliced, tokens, RESID.format(0), module.fwd_hooks("zero"))
    with spliced.hooks([own]), module.ablated(spliced, "zero"):
        torch.testing.assert_close(read(spliced, tokens, RESID.format(0)), plain + 1)
    torch.testing.assert_close(read(spliced, tokens, LATENTS.format(0), [own]), latents)


def test_latents_are_in_the_saes_dtype_and_the_model_keeps_its_own(model, tokens):
    sae = Random(RESID.format(1)).double()
    spliced = tlm.with_saes(model, sae)
    halve = [(LATENTS.format(1), lambda f, hook: f / 2)]
    assert read(spliced, tokens, LATENTS.format(1)).dtype == torch.float64
    found = read(spliced, tokens, RESID.format(1), halve)
    assert found.dtype == torch.float32
    expected = read(tlm.with_saes(model, sae.float()), tokens, RESID.format(1), halve)
    torch.testing.assert_close(found, expected)


def test_attention_heads_come_flat_or_apart_as_the_sae_wants_them(model, tokens):
    name = "blocks.1.attn.hook_z"

    class Heads(Signed):
        """As SAELens' hook_z SAEs: joins the heads itself."""

        def encode(self, x):
            assert x.shape[-2:] == (2, 8)
            return super().encode(x.flatten(-2))

        def decode(self, latents):
            return super().decode(latents).unflatten(-1, (2, 8))

    apart = Heads(name)
    apart.cfg.reshape_activations = "hook_z"

    def zero(z, hook):
        z = z.clone()
        z[..., 1, 3] = 0
        return z

    expected = run(model, tokens, [(name, zero)])
    for sae in (Signed(name), apart):
        spliced = tlm.with_saes(model, sae)
        hooks = latents_of(spliced.sites["sae"], [11, 27]).fwd_hooks("zero")
        torch.testing.assert_close(run(spliced, tokens, hooks), expected)


# Lifetimes


def test_edits_last_as_long_as_their_context(spliced, model, tokens, modules):
    module = modules[1]
    with torch.inference_mode():
        plain = model(tokens)
        edited = run(spliced, tokens, module.fwd_hooks("zero"))
        with module.ablated(spliced, "zero") as same:
            assert torch.equal(same(tokens), edited)
            own = module.units.neurons()[LATENTS.format(1)]
            _, cache = spliced.run_with_cache(tokens)
            assert (cache[LATENTS.format(1)][..., own] == 0).all()
            nested = modules[0].fwd_hooks("zero")
            every = run(spliced, tokens, nested)
            assert torch.equal(every, run(spliced, tokens, nested))
            text = same.generate(tokens[:1], max_new_tokens=3, verbose=False, do_sample=False)
        assert torch.equal(spliced(tokens), plain)
        assert attached_hooks(model) == []
        expected = tokens[:1]
        for _ in range(3):
            step = run(spliced, expected, module.fwd_hooks("zero"))[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, step], 1)
    assert torch.equal(text, expected)
    both = tlm.Module(0, modules.units, NO_SAMPLES).fwd_hooks("zero")
    torch.testing.assert_close(every, run(spliced, tokens, both))


def test_attached_edits_stay_until_removed(spliced, model, tokens, modules):
    with torch.inference_mode():
        plain = model(tokens)
        edited = run(spliced, tokens, modules[0].fwd_hooks("zero"))
        handle = modules[0].attach(spliced, "zero")
        with pytest.warns(UserWarning, match="attached to this model already"):
            second = modules[0].attach(spliced, "zero")
        model.reset_hooks()
        second.remove()
        second.remove()
        assert torch.equal(model(tokens), edited)
        handle.remove()
        assert torch.equal(model(tokens), plain)


def test_errors_leave_no_hook_behind(spliced, model, tokens, modules):
    def fail(latents, hook):
        raise RuntimeError("from the hook")

    bad = [*modules[0].fwd_hooks("zero"), (LATENTS.format(2), fail)]
    with pytest.raises(RuntimeError, match="from the hook"):
        spliced.run_with_hooks(tokens, fwd_hooks=bad)
    assert attached_hooks(model) == []
    with pytest.raises(RuntimeError, match="from the hook"), spliced.hooks(fwd_hooks=bad):
        spliced(tokens)
    assert attached_hooks(model) == []
    with pytest.raises(KeyError):
        spliced.run_with_hooks(tokens, fwd_hooks=[*modules[0].fwd_hooks("zero"), ("no", fail)])
    above = (RESID.format(2), fail)
    with spliced.hooks([above]), pytest.raises(RuntimeError, match="from the hook"):
        spliced.run_with_cache(tokens, names_filter=LATENTS.format(0))
    assert attached_hooks(model) == []


# Gradients


def test_gradients_by_latents_are_what_small_steps_give(spliced, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    names = [LATENTS.format(layer) for layer in range(3)]
    activations, gradients = loss_gradients(spliced, tokens, mask, names)

    def loss(hooks):
        return float(next_token_losses(run(spliced, tokens, hooks), tokens, mask).sum() * 6)

    for name in names:
        assert torch.equal(activations[name], read(spliced, tokens, name))
        for row, position, latent in ((0, 2, 5), (1, 4, 17)):
            values = []
            for step in (2e-3, -2e-3):

                def shift(f, hook, row=row, position=position, latent=latent, step=step):
                    f = f.clone()
                    f[row, position, latent] += step
                    return f

                values.append(loss([(name, shift)]))
            slope = (values[0] - values[1]) / 4e-3
            assert float(gradients[name][row, position, latent]) == pytest.approx(
                slope, rel=3e-2, abs=3e-3
            )


def test_a_latents_gradient_is_the_activations_along_its_direction(model, tokens):
    sae = make_saes("random")[1]
    spliced = tlm.with_saes(model, sae)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    names = [LATENTS.format(1), RESID.format(1)]
    _, gradients = loss_gradients(spliced, tokens, mask, names)
    _, plain = loss_gradients(model, tokens, mask, names[1:])
    torch.testing.assert_close(gradients[names[1]], plain[names[1]])
    along = plain[names[1]] @ sae.W_dec.detach().T
    torch.testing.assert_close(gradients[names[0]], along, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_edited_latents(model, tokens, any_saes):
    """Of the embedding, below SAEs some of whose latents are scaled."""
    spliced = tlm.with_saes(model, any_saes[:1])
    edit = [(LATENTS.format(0), lambda f, hook: 0.5 * f)]
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=random)

    def value(step):
        shift = ("hook_embed", lambda x, hook: x + step * direction)
        with torch.enable_grad():
            return difference(spliced.run_with_hooks(tokens, fwd_hooks=[shift, *edit]))

    zero = torch.zeros((), requires_grad=True)
    slope = torch.autograd.grad(value(zero), zero)[0]
    near = [float(value(torch.tensor(step)).detach()) for step in (1e-3, -1e-3)]
    assert float(slope) == pytest.approx((near[0] - near[1]) / 2e-3, rel=3e-2, abs=3e-3)


def test_the_saes_weights_get_no_gradient_and_stay_trainable(model, tokens, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    parameters = [parameter for sae in any_saes for parameter in sae.parameters()]
    parameters[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in parameters]
    shift = torch.zeros((), requires_grad=True)
    hooks = [(LATENTS.format(layer), lambda f, hook: 2 * f + shift) for layer in range(3)]
    with torch.enable_grad():
        difference(spliced.run_with_hooks(tokens, fwd_hooks=hooks)).backward()
    model.zero_grad(set_to_none=True)
    assert shift.grad is not None
    assert [parameter.requires_grad for parameter in parameters] == before
    assert before.count(False) == 1
    assert all(parameter.grad is None for parameter in parameters)


# The causal tests


@unsaid
def test_modules_of_latents_have_effects_beside_controls(spliced, prompts, modules):
    prompts = prompts.groupby("category").head(3)
    for kind in ("layer", "magnitude", "attribution"):
        found = tlm.module_effects(
            spliced, modules, prompts, n_controls=2, controls=kind, progress=False
        )
        assert np.isfinite(found[["effect", "control_mean"]]).all(axis=None)
        assert found["effect"].abs().max() > 1e-4
    few = {"n_controls": 0, "progress": False}
    at_once = tlm.module_effects(spliced, modules, prompts, batch_size=6, **few)
    by_one = tlm.module_effects(spliced, modules, prompts, batch_size=1, **few)
    np.testing.assert_allclose(at_once["effect"], by_one["effect"], atol=1e-5)


@unsaid
def test_latents_and_neurons_share_a_partition(spliced, model, prompts, acts):
    both = tlm.collect(spliced, prompts, units="mlp+sae", progress=False)
    neurons = tlm.collect(model, prompts, progress=False)
    parts = np.concatenate([neurons.values, acts.values], axis=1)
    np.testing.assert_allclose(both.values, parts, rtol=1e-5, atol=1e-7)
    modules = tlm.discover(both, 2)
    found = tlm.module_effects(spliced, modules, prompts, n_controls=1, progress=False)
    assert np.isfinite(found["effect"]).all()


def test_attributions_and_attribution_weights_are_of_latents(
    spliced, prompts, clean, corrupted, acts, modules
):
    found = tlm.attribute_modules(spliced, clean, corrupted, difference, modules, exact=True)
    assert found.unit_scores.shape == (3 * D_SAE,)
    with torch.inference_mode():
        one, other = (spliced.run_with_cache(tokens)[1] for tokens in (clean, corrupted))
    latent = int(np.abs(found.unit_scores[:D_SAE]).argmax())
    change = (one[LATENTS.format(0)] - other[LATENTS.format(0)])[..., latent]
    values = []
    for step in (1e-2, -1e-2):

        def shift(f, hook, step=step):
            f = f.clone()
            f[..., latent] += step * change
            return f

        values.append(difference(run(spliced, corrupted, [(LATENTS.format(0), shift)])))
    slope = float(values[0] - values[1]) / 2e-2
    assert found.unit_scores[latent] == pytest.approx(slope, rel=5e-2, abs=2e-4)
    weighted = tlm.collect(spliced, prompts, units="sae", weight="attribution", progress=False)
    np.testing.assert_allclose(weighted.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)


def test_graphs_and_circuits_of_latents(spliced, clean, corrupted, modules):
    options = {"n_controls": 1, "progress": False}
    graph = tlm.module_graph(spliced, clean, corrupted, each, modules, **options)
    assert np.isfinite(graph.edges["effect"]).all()
    every = tlm.circuit_scores(spliced, clean, corrupted, each, modules, [0, 1], **options)
    assert every.faithfulness == pytest.approx(1, abs=1e-4)


def test_files_keep_modules_of_latents_for_models_with_saes(
    spliced, model, perfect, modules, tmp_path
):
    modules.save(tmp_path / "modules.safetensors")
    again = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    again.units.check_model(spliced)
    with pytest.raises(tlm.ModulesError, match=r"'tiny' has none. Use tlm.with_saes\(model"):
        again.units.check_model(model)
    with pytest.raises(
        tlm.ModulesError, match=r"hook points of width 24, 'tiny' has 3 .* width 32"
    ):
        again.units.check_model(perfect)


def test_an_sae_trained_on_the_model_gives_modules_that_matter(model, prompts):
    name = RESID.format(1)
    with torch.no_grad():
        runs = [model.run_with_cache(model.to_tokens(text))[1] for text in prompts["prompt"]]
    x = torch.cat([cache[name][0] for cache in runs]).clone()
    sae = Random(name, d_sae=48)
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-2)
    with torch.enable_grad():
        for _ in range(200):
            latents = sae.encode(x)
            loss = (sae.decode(latents) - x).square().sum(1).mean() + 1e-3 * latents.sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        error = (x - sae.decode(sae.encode(x))).square().sum()
    assert error < 0.5 * (x - x.mean(0)).square().sum()
    spliced = tlm.with_saes(model, sae)
    modules = tlm.discover(tlm.collect(spliced, prompts, units="sae", progress=False), 2)
    few = prompts.groupby("category").head(3)
    effects = tlm.module_effects(spliced, modules, few, n_controls=1, progress=False)
    assert effects["effect"].max() > 0.01


# SAELens


@pytest.mark.parametrize("kind", [*THEIRS, "hook_z"])
def test_edits_are_those_of_saelens_own_spliced_model(model, tokens, kind):
    library = saelens()
    name = "blocks.1.attn.hook_z" if kind == "hook_z" else RESID.format(1)
    sae = theirs("none" if kind == "hook_z" else kind, name, seed=3)
    if kind == "hook_z":
        sae.cfg.reshape_activations = "hook_z"
        sae.turn_on_forward_pass_hook_z_reshaping()
    own = library.HookedSAETransformer(model.cfg).eval()
    own.load_state_dict(model.state_dict())

    def edit(latents, hook):
        latents = latents.clone()
        latents[..., ::2] = 0
        latents[..., 5] *= 4
        return latents

    latents = name + ".hook_sae_acts_post"
    spliced = tlm.with_saes(model, sae)
    assert list(spliced.sites["sae"].hook_names) == [latents]
    found = run(spliced, tokens, [(latents, edit)])
    with torch.inference_mode():
        own.add_sae(sae, use_error_term=True)
        expected = own.run_with_hooks(tokens, fwd_hooks=[(latents, edit)])
        _, cache = own.run_with_cache(tokens)
    torch.testing.assert_close(found, expected)
    assert (found - run(model, tokens)).abs().max() > 1e-2
    torch.testing.assert_close(read(spliced, tokens, latents), cache[latents])


def test_saelens_transcoders_are_refused(model):
    library = saelens()
    transcoder = library.Transcoder(
        library.TranscoderConfig(d_in=16, d_sae=24, d_out=16, apply_b_dec_to_input=False)
    )
    with pytest.raises(tlm.ModulesError, match="Transcoder writes elsewhere"):
        tlm.with_saes(model, {RESID.format(0): transcoder})


# Refusals


def changed(**metadata):
    sae = Random(RESID.format(0))
    vars(sae.cfg.metadata).update(metadata)
    return sae


def nameless():
    return changed(hook_name=None)


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ([], "at least one SAE; got none"),
        (3, "encode, decode and a cfg with d_in and d_sae; got int"),
        ([Random(RESID.format(0)), torch.nn.Linear(2, 2)], "got Linear. Load it with SAELens"),
        (nameless(), "does not say where it goes.*Pass a mapping"),
        (Random("blocks.0.hook_resid_pst"), "no 'blocks.0.hook_resid_pst'. Hook points like it"),
        (Random("blocks.7.hook_resid_post"), "like it: .'blocks.*hook_resid_post"),
        ({8: Random(RESID.format(0))}, "names of hook points to SAEs; got the key 8"),
        (Random("hook_embed"), "at a hook point of a layer.*got 'hook_embed'"),
        (make_saes("random", [1, 1]), "should have one SAE; the one of .blocks.1.hook_resid"),
        (changed(hook_name_out="blocks.0.hook_mlp_out"), "writes elsewhere, at 'blocks.0.hook_mlp"),
        (changed(hook_head_index=1), "reads head 1 only"),
    ],
)
def test_what_cannot_be_spliced_is_refused(model, saes, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.with_saes(model, saes)


def test_a_mapping_says_where_saes_go(model, tokens):
    spliced = tlm.with_saes(model, {RESID.format(2): nameless()})
    assert spliced.sites["sae"].layers == (2,)
    assert read(spliced, tokens, LATENTS.format(2)).shape == (*tokens.shape, D_SAE)


@pytest.mark.skipif(LEGACY, reason="HookedTransformer has one name for each hook point")
def test_two_saes_at_one_hook_point_of_two_names_are_refused(model):
    assert model.hook_dict["blocks.0.hook_out"] is model.hook_dict[RESID.format(0)]
    saes = [Random(RESID.format(0)), Random("blocks.0.hook_out")]
    with pytest.raises(tlm.ModulesError, match="should have one SAE"):
        tlm.with_saes(model, saes)


def test_saes_that_do_not_fit_the_model_are_refused_when_they_run(model, prompts, tokens):
    wide = tlm.with_saes(model, Random(RESID.format(0), d_in=32))
    with pytest.raises(tlm.ModulesError, match=r"takes 32 values.*shape \(\d+, \d+, 16\)"):
        tlm.collect(wide, prompts, units="sae", progress=False)
    liar = Random(RESID.format(0))
    liar.cfg.d_sae = 25
    with pytest.raises(tlm.ModulesError, match=r"dense latents of shape \(2, 7, 25\).*gave"):
        read(tlm.with_saes(model, liar), tokens, LATENTS.format(0))


def test_models_with_saes_are_spliced_once(spliced):
    with pytest.raises(tlm.ModulesError, match=r"has SAEs already. Pass all at once"):
        tlm.with_saes(spliced, Random(RESID.format(0)))


def test_options_that_latents_do_not_know_are_refused(spliced, tokens, modules):
    hooks = modules[0].fwd_hooks("zero")
    with pytest.raises(tlm.ModulesError, match="reset_hooks_end should be True; got False"):
        spliced.run_with_hooks(tokens, fwd_hooks=hooks, reset_hooks_end=False)
    with pytest.raises(tlm.ModulesError, match="pos_slice should be None; got -1"):
        spliced.run_with_cache(tokens, pos_slice=-1)
    spliced.run_with_cache(tokens, names_filter=RESID.format(0), pos_slice=-1)


def test_the_site_needs_saes(model, prompts):
    with pytest.raises(tlm.ModulesError, match="needs a model with SAEs; 'tiny' has none"):
        tlm.collect(model, prompts, units="mlp+sae", progress=False)
    with pytest.raises(tlm.ModulesError, match=r"one of 'mlp', .*'sae'; got 'latents'"):
        tlm.collect(model, prompts, units="latents", progress=False)


def test_a_model_with_saes_is_a_hooked_model_and_passes_the_rest_on(spliced, model):
    assert isinstance(spliced, tlm.HookedModel)
    assert spliced.tokenizer is model.tokenizer
    assert set(spliced.hook_dict) - set(model.hook_dict) == {LATENTS.format(n) for n in range(3)}
    assert repr(spliced) == "SplicedModel(tiny, Units(72 of 3 hook points of width 24))"
    with pytest.raises(AttributeError):
        _ = spliced.nothing_of_the_kind
