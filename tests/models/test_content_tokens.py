"""Content: neither special tokens, nor the first token, nor tokens with massive activations."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.toy import SinkToy
from tl_modules.models.content_tokens import content_masks


@pytest.fixture(scope="module")
def toy():
    return SinkToy()


def test_the_first_token_is_no_content_whatever_it_is(toy):
    found = tlm.content_positions(toy, [[1, 1, 1], [2, 1, 3]])
    assert found.tolist() == [[False, True, True]] * 2


def test_a_token_ten_times_larger_than_the_median_is_no_content_wherever_it_stands(toy):
    found = tlm.content_positions(toy, [[1, 1, 1, 50, 1, 1], [1, 1, 1, 5, 1, 1]])
    assert found.tolist() == [[False, True, True, False, True, True], [False, *[True] * 5]]


@pytest.mark.parametrize("mask", [[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]])
def test_padding_is_no_content_on_either_side(toy, mask):
    found = tlm.content_positions(toy, [[1, 1, 1, 1, 1]], mask)
    expected = torch.tensor(mask).bool() & (torch.tensor(mask).cumsum(1) > 1)
    assert found.tolist() == expected.tolist()


def test_a_mask_of_another_shape_is_refused(toy):
    with pytest.raises(tlm.ModulesError, match=r"attention_mask should have the tokens' shape"):
        tlm.content_positions(toy, [[1, 1, 1]], [[1, 1]])


def test_special_tokens_are_no_content_wherever_they_stand():
    model = tiny_model()
    eos = model.tokenizer.eos_token_id
    tokens = model.to_tokens("the cat sat on the mat")
    tokens[0, 3] = eos
    found = tlm.content_positions(model, tokens)
    assert found.tolist() == [[place not in (0, 3) for place in range(tokens.shape[1])]]


def test_masks_of_many_prompts_do_not_depend_on_the_batch(toy):
    lists = [torch.tensor(each) for each in ([1, 1, 1, 50], [1, 1], [3, 3, 20, 3, 3, 3])]
    alone = [tlm.content_positions(toy, tokens)[0].tolist() for tokens in lists]
    assert [mask.tolist() for mask in content_masks(toy, lists, 2)] == alone
    assert alone[2] == [False, True, True, True, True, True]  # 20 is not ten times 3


def test_means_over_content_leave_sinks_out_that_a_later_layer_shows(toy):
    acts = tlm.collect(toy, ["1 1 1 50 1 1", "20 1 1 1"], progress=False)
    np.testing.assert_allclose(acts.content_means, [0.1, 0.2, 0.7, 0.1], rtol=1e-6)
    e = (8 * 0.1 + 5.0 + 2.0) / 10
    np.testing.assert_allclose(acts.unit_means, np.array([1, 2, 7, 1]) * e, rtol=1e-6)


def test_means_over_content_are_over_the_tokens_that_count(toy):
    acts = tlm.collect(toy, ["1 1 1 50 1 3", "20 1 1 1"], tokens="last", progress=False)
    np.testing.assert_allclose(acts.content_means, acts.unit_means, rtol=1e-6)
    np.testing.assert_allclose(acts.content_means[0], 0.2, rtol=1e-6)


@pytest.mark.parametrize("weight", ["activation", "attribution"])
def test_means_over_content_are_those_of_the_positions(model, prompts, weight):
    acts = tlm.collect(model, prompts, weight=weight, progress=False)
    total, n_content = 0.0, 0
    for prompt in prompts["prompt"]:
        tokens = model.to_tokens(prompt)
        where = tlm.content_positions(model, tokens)[0]
        _, cache = model.run_with_cache(tokens)
        rows = [cache[name][0, where].double() for name in acts.units.hook_names]
        total, n_content = total + torch.cat(rows, dim=1).sum(0), n_content + int(where.sum())
    np.testing.assert_allclose(acts.content_means, (total / n_content).numpy(), atol=1e-5)
    assert np.abs(acts.content_means - acts.unit_means).max() > 1e-3


def test_a_store_and_a_collector_hold_the_same_means(model, prompts, acts, tmp_path):
    store = tlm.collect(
        model, prompts, store=tmp_path / "acts", dtype="float32", progress=False, batch_size=5
    )
    np.testing.assert_allclose(store.content_means, acts.content_means, atol=1e-6)
    np.testing.assert_array_equal(store.matrix().content_means, store.content_means)
    collector = tlm.Collector(model)
    for prompt in prompts["prompt"]:
        _, cache = model.run_with_cache(
            model.to_tokens(prompt), names_filter=collector.names_filter
        )
        collector.add(cache, samples=[prompt])
    np.testing.assert_allclose(collector.matrix().content_means, acts.content_means, atol=1e-6)


def test_a_reference_holds_them_too(model, prompts, acts):
    reference = tlm.collect_reference(model, prompts, n_tokens=10**6, progress=False)
    np.testing.assert_allclose(reference.content_means, acts.content_means, atol=1e-5)
    content = reference.tokens[reference.is_content]
    assert len(content) < len(reference.tokens)
    np.testing.assert_allclose(content.mean(0), acts.content_means, atol=1e-5)


def test_files_keep_them(acts, modules, tmp_path):
    for thing in (acts, modules):
        thing.save(tmp_path / "saved.safetensors")
        loaded = type(thing).load(tmp_path / "saved.safetensors")
        np.testing.assert_array_equal(loaded.content_means, acts.content_means)


def test_a_prompt_of_one_token_has_no_content(toy):
    acts = tlm.collect(toy, ["1", "2"], progress=False)
    assert acts.content_means is None
