from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.interpret.toys import Lensed, lensed_modules
from tl_modules.activations.reading import Reading
from tl_modules.interpret.contexts import top_contexts


def test_a_tokens_value_is_the_units_mean_activation_in_units_of_their_means():
    # Module 0: a = d = e = t / 10, means 0.1: token t has the value t. Token 7 is special.
    (first, second), _ = top_contexts(Lensed(), lensed_modules(), [["1 2 7 3"], []])
    assert first == ("1 2", "3", "", pytest.approx(3), 0)
    assert second == ("1", "2", "3", pytest.approx(2), 0)


def test_values_agree_with_a_cache_by_hand(model, modules, prompts):
    prompt = prompts["prompt"][15]
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    sizes = torch.cat([cache[name][0].abs() for name in modules.units.hook_names], dim=-1)
    own = modules.unit_labels == 1
    values = (sizes.numpy() / modules.normaliser.mean)[1:, own].mean(axis=1)
    found = top_contexts(model, modules, [[], [prompt], []], progress=False)
    assert found[0] == found[2] == ()
    assert found[1][0].value == pytest.approx(values.max(), rel=1e-5)
    assert found[1][0].token == prompt.split()[values.argmax() - len(values)]


def test_heads_count_by_the_length_of_their_output(model, prompts):
    acts = tlm.collect(model, prompts, units="attn_heads", progress=False)
    modules = replace(tlm.discover(acts, 2), unit_labels=np.array([0, 1, 1, 0, 1, 1]))
    prompt = "the cat sat on"
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    lengths = torch.cat([cache[name][0].norm(dim=-1) for name in modules.units.hook_names], dim=-1)
    own = modules.unit_labels == 0
    values = (lengths.numpy() / modules.normaliser.mean)[1:, own].mean(axis=1)
    found = top_contexts(model, modules, [[prompt], []], progress=False)
    assert found[0][0].value == pytest.approx(values.max(), rel=1e-5)


def test_the_batch_size_changes_nothing(model, modules, prompts):
    chosen = [prompts["prompt"][:5].tolist(), prompts["prompt"][5:9].tolist(), []]
    one, many = (
        top_contexts(model, modules, chosen, batch_size=size, progress=False) for size in (1, 16)
    )
    assert [[context[:3] for context in own] for own in one] == [
        [context[:3] for context in own] for own in many
    ]
    assert one[0][0].value == pytest.approx(many[0][0].value, rel=1e-5)


def test_prompts_are_cut_where_asked(model, modules):
    found = top_contexts(model, modules, [["cat dog bird"], [], []], max_tokens=2, progress=False)
    whole = top_contexts(model, modules, [["cat dog bird"], [], []], progress=False)
    assert len(found[0]) < len(whole[0])
    assert "bird" not in {context.token for context in found[0]}


def test_each_token_of_a_prompt_is_given_once():
    (own, _) = top_contexts(Lensed(), lensed_modules(), [["1 3 3 3 2", "1 3"], []])
    assert [(context.token, context.prompt) for context in own] == [("3", 0), ("3", 1), ("2", 0)]


def test_units_that_never_fired_count_as_nothing():
    modules = lensed_modules()
    dead = replace(modules, normaliser=type(modules.normaliser)(np.array([0.0, 0.2, 0.7, 0.1])))
    (first, *_), _ = top_contexts(Lensed(), dead, [["1 3"], []])
    assert first.value == pytest.approx(3)  # of the one unit that fires


def test_a_module_without_units_has_no_top_tokens():
    modules = replace(lensed_modules(), unit_labels=np.array([1, 1, 1, 1]))
    assert top_contexts(Lensed(), modules, [["1 3"], []]) == [(), ()]


@pytest.mark.parametrize(
    "change", [{"normaliser": None}, {"reading": Reading(weight="attribution")}]
)
def test_modules_that_know_no_mean_activation_are_refused(change):
    with pytest.raises(tlm.ModulesError, match="which these modules do not hold"):
        top_contexts(Lensed(), replace(lensed_modules(), **change), [["1 2"], []])


def test_activations_that_are_not_finite_are_refused():
    toy = Lensed()
    with (
        toy.hooks(fwd_hooks=[("hook_embed", lambda e, hook: e / 0)]),
        pytest.raises(tlm.ModulesError, match="Activations should be finite"),
    ):
        top_contexts(toy, lensed_modules(), [["1 2"], []])


class Bytes:
    """The toy's tokens 1 and 2 are the halves of one character; the others are letters."""

    all_special_ids = ()
    bos_token_id = None

    def decode(self, tokens, skip_special_tokens=False):
        codes = {1: b"\xc3", 2: b"\x9c", 3: b"a", 4: b"b", 5: b"c"}
        return b"".join(codes[token] for token in tokens).decode("utf-8", errors="replace")


def test_a_token_inside_a_character_is_shown_as_all_of_it():
    toy = Lensed()
    toy.tokenizer = Bytes()
    prompt = "3 1 2 4 1 2 3 3 3 3 3 3 3 5 1 2"  # eight before the 5 begin inside a character
    (own, _) = top_contexts(toy, lensed_modules(), [[prompt], []])
    by_value = {round(context.value): context[:3] for context in own}
    assert by_value[2] == ("a", "\u00dc", "b\u00dcaaaaa")
    assert by_value[1] == ("a", "\u00dc", "b\u00dcaaaaa")
    assert by_value[5] == ("aaaaaaa", "c", "\u00dc")
    assert "\ufffd" not in "".join("".join(texts) for texts in by_value.values())
