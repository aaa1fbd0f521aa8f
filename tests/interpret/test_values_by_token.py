from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.interpret.toys import Lensed, lensed_modules
from tl_modules.interpret.token_texts import pieces_of


def test_a_value_is_the_units_mean_activation_in_units_of_their_means():
    # Module 0: a = d = e = t / 10, means 0.1: token t has the value t. Token 7 is special.
    table = tlm.token_values(Lensed(), lensed_modules(), ["1 2 7 3", "4 5"], progress=False)
    assert table.index.tolist() == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert table[0].tolist() == pytest.approx([1, 2, 7, 3, 4, 5])
    assert table["special"].tolist() == [True, False, True, False, True, False]
    assert table.columns.tolist() == ["token", "special", 0, 1]


def test_a_window_is_the_mean_over_its_ordinary_tokens():
    # Token t has the value t; 7 and each first token are special.
    def windows(texts, n):
        options = {"aggregate_over": n, "progress": False}
        return tlm.token_values(Lensed(), lensed_modules(), texts, **options)

    table = windows(["1 2 7 3 4 7 7 5", "4"], 3)
    assert table.index.tolist() == [(0, 0), (0, 3), (0, 6), (1, 0)]
    assert table.index.names == ["prompt", "position"]
    assert table[0].tolist() == pytest.approx([2, 3.5, 5, 4])
    assert table["special"].tolist() == [False, False, False, True]
    assert table["token"].tolist() == ["1 2<seven>", "3 4<seven>", "<seven>5", "4"]
    whole = tlm.token_values(Lensed(), lensed_modules(), ["1 2 7 3 4 7 7 5", "4"], progress=False)
    assert table.dtypes.equals(whole.dtypes)
    assert windows(["1 2 7 3 4 7 7 5", "4"], 1).equals(whole)
    alone = windows(["1 2 7 7"], 2)  # a window of special tokens alone
    assert alone[0].tolist() == pytest.approx([2, 7])
    assert alone["special"].tolist() == [False, True]
    with pytest.raises(tlm.ModulesError, match="aggregate_over should be at least 1; got 0"):
        tlm.token_values(Lensed(), lensed_modules(), ["1 2"], aggregate_over=0)


def test_values_agree_with_a_cache_by_hand(model, modules, prompts):
    chosen = prompts["prompt"][[15, 0, 9]].tolist()
    table = tlm.token_values(model, modules, chosen, batch_size=2, progress=False)
    for number, prompt in enumerate(chosen):
        _, cache = model.run_with_cache(model.to_tokens(prompt))
        sizes = torch.cat([cache[name][0].abs() for name in modules.units.hook_names], dim=-1)
        for k in range(3):
            own = modules.unit_labels == k
            expected = (sizes.numpy() / modules.normaliser.mean)[:, own].mean(axis=1)
            np.testing.assert_allclose(table.xs(number)[k], expected, rtol=1e-4)
        assert "".join(table.xs(number)["token"].str.strip()).endswith(prompt.replace(" ", ""))


def test_a_frame_of_prompts_will_do_and_they_are_cut_where_asked(model, modules, prompts):
    table = tlm.token_values(model, modules, prompts.tail(3), max_tokens=4, progress=False)
    assert table.index.get_level_values("prompt").unique().tolist() == [0, 1, 2]
    assert table.groupby("prompt").size().tolist() == [4, 4, 4]


class Bytes:
    """Two tokens a character, as byte-level tokenizers have them; 9 is special."""

    all_special_ids = (9,)

    def decode(self, tokens, skip_special_tokens=False):
        assert skip_special_tokens
        codes = {1: b"\xc3", 2: b"\x9c", 3: b"a"}
        text = b"".join(codes[token] for token in tokens if token != 9)
        return text.decode("utf-8", errors="replace")

    def convert_ids_to_tokens(self, token):
        return "<end>"


def test_a_character_of_two_tokens_stands_at_the_second():
    toy = Lensed()
    toy.tokenizer = Bytes()
    assert pieces_of(toy, [9, 1, 2, 3, 9]) == ["<end>", "", "Ü", "a", "<end>"]
    assert pieces_of(toy, [3, 1]) == ["a", "\ufffd"]


def test_spaces_at_the_beginning_are_kept():
    assert pieces_of(Lensed(), [1, 2, 7, 3]) == ["1", " 2", "<seven>", "3"]


def test_what_has_no_values_is_refused(other_model, model, modules):
    with pytest.raises(tlm.ModulesError, match="should be those of the model"):
        tlm.token_values(other_model, modules, ["the cat"])
    with pytest.raises(tlm.ModulesError, match="which these modules do not hold"):
        tlm.token_values(model, replace(modules, normaliser=None), ["the cat"], progress=False)
    toy = Lensed()
    with (
        toy.hooks(fwd_hooks=[("hook_embed", lambda e, hook: e / 0)]),
        pytest.raises(tlm.ModulesError, match="Activations should be finite; those of module 0"),
    ):
        tlm.token_values(toy, lensed_modules(), ["1 2"], progress=False)
