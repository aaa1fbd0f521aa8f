"""Every function that measures refuses a noisy model, and says what is attached to it."""

import copy
import inspect

import pytest
import torch
from torch.nn.utils import prune

import tl_modules as tlm
from tests.calls import CALLS, QUIET, setting
from tests.conftest import LEGACY, tiny_model, word_tokenizer
from tests.public import FUNCTIONS, OF_DATA
from tl_modules.interventions.measuring import check_measurable, check_unhooked, measures

RUNS_NO_MODEL = {
    *("with_saes", "with_corrupted", "fuse_pathways", "parameter_masks", "training_only"),
    *("training_all_but", "attached", "detach_all", "untrained_twin"),
}
"""Functions that take a model and run none of it: they read its weights, tokenizer or hooks."""

TAKING_A_MODEL = {
    name
    for name, function in FUNCTIONS.items()
    if name not in OF_DATA and {"model", "old_model"} & set(inspect.signature(function).parameters)
}
MEASURING = [name for name in CALLS if name.split()[0] in TAKING_A_MODEL - RUNS_NO_MODEL]


@pytest.fixture(scope="module")
def own_model():
    """A model that these tests leave in eval mode and without edits."""
    return tiny_model()


@pytest.fixture(scope="module")
def with_these(own_model, prompts, acts, modules, tmp_path_factory):
    return setting(own_model, prompts, acts, modules, tmp_path_factory.mktemp("page"))


@pytest.fixture
def training(own_model):
    yield own_model.train()
    own_model.eval()


@pytest.fixture
def edited(own_model, modules):
    modules[1].attach(own_model, "scale", factor=0.5)
    yield own_model
    tlm.detach_all(own_model)


class ManyRuns(Exception):
    """The model ran before the refusal."""


@pytest.mark.parametrize("name", MEASURING)
def test_a_model_in_training_mode_is_refused_before_it_runs(
    name, with_these, training, monkeypatch
):
    def run(*args, **kwargs):
        raise ManyRuns

    for kind in ("run_with_hooks", "run_with_cache", "generate"):
        monkeypatch.setattr(training, kind, run)
    with pytest.raises(tlm.ModulesError, match=r"should be in eval mode.*Call model.eval\(\)"):
        CALLS[name](with_these)
    assert not with_these.page.exists()


def test_every_function_that_measures_is_called_here():
    assert {name.split()[0] for name in MEASURING} >= TAKING_A_MODEL - RUNS_NO_MODEL
    assert TAKING_A_MODEL >= RUNS_NO_MODEL


@pytest.mark.parametrize("name", ["with_corrupted", "fuse_pathways"])
def test_what_runs_no_model_takes_one_in_training_mode(name, with_these, training):
    CALLS[name](with_these)


def test_a_refused_collection_leaves_no_folder(training, prompts, tmp_path):
    with pytest.raises(tlm.ModulesError, match="should be in eval mode"):
        tlm.collect(training, prompts, store=tmp_path / "acts", **QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_collector_of_a_model_in_training_mode_is_refused(training):
    with pytest.raises(tlm.ModulesError, match="should be in eval mode"):
        tlm.Collector(training)


def test_after_eval_the_same_call_works(training, prompts):
    with pytest.raises(tlm.ModulesError, match=r"Call model.eval\(\) first"):
        tlm.collect(training, prompts, **QUIET)
    training.eval()
    tlm.collect(training, prompts, **QUIET)


class Dropped(torch.nn.Module):
    """Drops by a rate of its own, as attention in transformers does."""

    def __init__(self, rate):
        super().__init__()
        self.attention_dropout = rate


PARTS = [
    (torch.nn.Dropout(0.1), True),
    (torch.nn.Dropout(0.0), False),
    (torch.nn.AlphaDropout(0.1), True),
    (torch.nn.BatchNorm1d(3), True),
    (torch.nn.BatchNorm1d(3, track_running_stats=False), False),
    (torch.nn.RReLU(), True),
    (torch.nn.MultiheadAttention(4, 2, dropout=0.1), True),
    (torch.nn.MultiheadAttention(4, 2), False),
    (torch.nn.LSTM(3, 3, num_layers=2, dropout=0.1), True),
    (Dropped(0.1), True),
    (Dropped(0.0), False),
    (torch.nn.Linear(3, 3), False),
]


@pytest.mark.parametrize(("part", "refused"), PARTS, ids=lambda each: str(each))
def test_a_part_in_training_mode_is_refused_if_that_makes_noise(part, refused):
    model = tiny_model()
    model.added = part.train()
    assert not model.training
    if refused:
        with pytest.raises(tlm.ModulesError, match=r"the part '.*added' of 'tiny' is in training"):
            check_measurable(model)
    check_measurable(model.eval())


def gpt2(mode):
    """A model of one's own with dropout 0.1, as a Trainer leaves it."""
    transformers = pytest.importorskip("transformers")
    from transformer_lens.model_bridge import TransformerBridge

    config = transformers.GPT2Config(vocab_size=44, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    torch_state = torch.get_rng_state()
    wrapped = transformers.AutoModelForCausalLM.from_config(config).train(mode)
    torch.set_rng_state(torch_state)
    wrapped.config.architectures = ["GPT2LMHeadModel"]
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=wrapped, tokenizer=word_tokenizer()
    )
    return bridge, wrapped


@pytest.mark.skipif(LEGACY, reason="a TransformerBridge wraps another model")
def test_a_bridge_counts_as_the_model_that_it_wraps(prompts):
    bridge, wrapped = gpt2(True)
    with pytest.raises(tlm.ModulesError, match="'tiny' is in training mode"):
        tlm.collect(bridge, prompts, **QUIET)
    wrapped.eval()
    assert bridge.training  # its own flag, which nothing reads
    first, again = (tlm.collect(bridge, prompts, **QUIET).values for _ in range(2))
    assert (first == again).all()
    wrapped.train()
    bridge.training = False
    with pytest.raises(tlm.ModulesError, match="'tiny' is in training mode"):
        tlm.collect(bridge, prompts, **QUIET)
    bridge.eval()
    assert (tlm.collect(bridge, prompts, **QUIET).values == first).all()


# Attached edits


@pytest.mark.parametrize("name", MEASURING)
def test_each_function_warns_once_of_what_is_attached(name, with_these, edited):
    # Once a call, also of those that call others.
    two = ("concept_effects", "module_effects resampled", "specialised_parts", "describe_units")
    n_calls = dict.fromkeys((*two, "faithfulness_curves"), 2)
    with pytest.warns(UserWarning, match="part of what is measured") as caught:
        CALLS[name](with_these)
    own = [each for each in caught if "part of what is measured" in str(each.message)]
    assert len(own) == n_calls.get(name, 1)


def test_the_warning_names_what_is_attached_and_how_many(own_model, edited, prompts, modules):
    with pytest.warns(
        UserWarning,
        match=r"Attachment\(Module\(1: .* is attached to 'tiny'.*detach_all.* remove it;",
    ):
        tlm.collect(edited, prompts, **QUIET)
    modules[0].attach(own_model, "zero")
    with pytest.warns(UserWarning, match="and 1 more are attached to 'tiny'.* remove them;"):
        tlm.collect(edited, prompts, **QUIET)


def test_an_intervention_in_a_with_is_meant_to_be_measured(own_model, prompts, modules):
    clean = tlm.collect(own_model, prompts, **QUIET).values
    with modules[0].ablated(own_model, "zero"):
        under = tlm.collect(own_model, prompts, **QUIET).values
    with modules[0].attach(own_model, "zero"):
        attached = tlm.collect(own_model, prompts, **QUIET).values
    own = modules[0].units.flat()
    assert (under[:, own] == 0).all()
    assert (under == attached).all()
    assert (tlm.collect(own_model, prompts, **QUIET).values == clean).all()


def test_a_marked_function_keeps_its_name_its_signature_and_its_errors(own_model):
    @measures
    def measure(model, *, n=1):
        """What it does."""
        return n

    assert (measure.__name__, measure.__doc__) == ("measure", "What it does.")
    assert str(inspect.signature(measure)) == "(model, *, n=1)"
    assert measure(own_model, n=3) == 3
    assert measure(None) == measure("no model") == 1
    with pytest.raises(TypeError, match="measure\\(\\) got an unexpected keyword argument 'm'"):
        measure(own_model, m=3)


# Hooks, where a store should say what it holds


def refused_at(model, name):
    with pytest.raises(tlm.ModulesError, match=f"has hooks at .*{name}"):
        check_unhooked(model)


def test_a_store_is_of_a_model_without_hooks(own_model, prompts, modules, tmp_path):
    def collected(name):
        return tlm.collect(own_model, prompts, store=tmp_path / name, **QUIET)

    clean = collected("clean").matrix().values
    point = own_model.hook_dict["blocks.1.hook_resid_post"]

    def halved(activation, hook):
        return activation / 2

    def raw(part, inputs, output):
        return None

    def before(part, inputs):
        return None

    def refused():
        for name in ("clean", "new"):
            with pytest.raises(tlm.ModulesError, match=r"needs a model without hooks"):
                collected(name)
        assert not (tmp_path / "new").exists()

    with modules[0].ablated(own_model, "zero"):
        refused()
    with modules[0].attach(own_model, "zero"):
        refused()
    with own_model.hooks([("blocks.1.hook_resid_post", halved)]):
        refused()
    point.add_hook(halved)
    refused()
    own_model.reset_hooks()
    layer = next(part for part in own_model.modules() if type(part) is not type(point))
    for register, hook in (
        (point.register_forward_hook, raw),
        (layer.register_forward_hook, raw),
        (layer.register_forward_pre_hook, before),
    ):
        handle = register(hook)
        refused()
        handle.remove()
    assert (collected("clean").matrix().values == clean).all()


def test_a_matrix_may_be_of_a_model_under_hooks(own_model, prompts, modules):
    with modules[0].ablated(own_model, "zero"):
        found = tlm.collect(own_model, prompts, **QUIET)
    assert (found.values[:, modules[0].units.flat()] == 0).all()


def test_the_hooks_that_libraries_put_on_parts_are_the_models_own():
    model = tiny_model()
    part = torch.nn.Linear(3, 3)
    model.added = part.eval()
    prune.random_unstructured(part, "weight", 0.5)
    assert part._forward_pre_hooks
    check_unhooked(model)


@pytest.mark.skipif(LEGACY, reason="a TransformerBridge wraps another model")
def test_hooks_that_runs_leave_on_a_bridge_are_its_own():
    bridge, wrapped = gpt2(False)
    tokens = torch.arange(3, 9)[None]
    bridge.run_with_cache(tokens)
    bridge.generate(tokens, max_new_tokens=2, verbose=False)
    wrapped(tokens, output_hidden_states=True, output_attentions=True)
    check_unhooked(bridge)
    wrapped.register_forward_hook(lambda part, inputs, output: None)
    refused_at(bridge, "original_model")


def test_knocked_out_neurons_make_another_store(prompts, tmp_path):
    model = tiny_model()
    tlm.collect(model, prompts, store=tmp_path / "acts", **QUIET)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(p for p in changed.parameters() if p.ndim == 2).view(-1)[-1] += 1
    with pytest.raises(tlm.ModulesError, match="the model's weights differ"):
        tlm.collect(changed, prompts, store=tmp_path / "acts", **QUIET)
    tlm.collect(model, prompts, store=tmp_path / "acts", **QUIET)
    tlm.ActivationStore(tmp_path / "acts")
