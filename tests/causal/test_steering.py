from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control
from transformer_lens import HookedRootModule

import tl_modules as tlm
from tests.conftest import tiny_model, word_tokenizer
from tests.toy import Block
from tl_modules.causal import own_words, prompt_runs, written_texts
from tl_modules.causal.own_words import repeated_share
from tl_modules.causal.steering_numbers import TextNumbers, loss_row, text_row
from tl_modules.causal.steering_table import steering_table
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.tokens import tokenise
from tl_modules.modules.topic import Word

KNOWN = ["the", "cat", "loop"]
SHARED_COLUMNS = {
    "own_effect": "effect",
    "own_effect_ci_low": "ci_low",
    "own_effect_ci_high": "ci_high",
    "own_effect_control_mean": "control_mean",
    "own_effect_control_std": "control_std",
    "own_effect_p_value": "p_value",
    **{
        f"selectivity{end}": f"selectivity{end}"
        for end in ("", "_ci_low", "_ci_high", "_control_mean", "_p_value", "_p_holm", "_p_bh")
    },
}
"""Columns of a steering table, and those of the effects table with the same numbers."""


class WritingToy(HookedRootModule):
    """A model that writes, of which every number can be worked out by hand.

    Each of 60 neurons is 1 at every token. The logit of "cat" is the first neuron, that of "loop"
    the second, that of "the" is 1.5; all others are 0, and so are the other neurons' weights.
    Unsteered, it writes "the"; with the first neuron doubled, "cat".
    """

    def __init__(self):
        """Make the tokenizer: the words' tokens are 3, 4 and 5."""
        super().__init__()
        self.tokenizer = word_tokenizer(KNOWN)
        self.cfg = SimpleNamespace(n_layers=1, d_mlp=60, n_ctx=32, device="cpu", model_name="toy")
        self.cfg.d_vocab = 6
        self.blocks = torch.nn.ModuleList([Block()])
        self.setup()
        self.eval()

    def to_tokens(self, text, truncate=True):
        """Words are tokens."""
        return torch.tensor([self.tokenizer(text)["input_ids"]])

    def forward(self, tokens, return_type="logits", attention_mask=None):
        """``[batch, pos]`` to ``[batch, pos, 6]``."""
        neurons = self.blocks[0].mlp.hook_post(torch.ones(*tokens.shape, 60))
        logits = torch.zeros(*tokens.shape, 6)
        logits[..., 3], logits[..., 4], logits[..., 5] = 1.5, neurons[..., 0], neurons[..., 1]
        return logits

    def generate(self, tokens, max_new_tokens, do_sample, verbose, eos_token_id):
        """Write the likeliest tokens, without a key-value cache."""
        assert not do_sample
        assert eos_token_id == [0, 2]  # which it never writes
        for _ in range(max_new_tokens):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens


def loss_of(logits, word):
    """The loss of "the", "cat" or "loop" under three logits; the other three are 0."""
    return np.log(3 + np.exp(logits).sum()) - logits[KNOWN.index(word)]


PROMPTS = pd.DataFrame({"prompt": ["cat cat", "loop loop"], "category": ["animal", "code"]})
QUIET = {"progress": False}


def cat_module(unit=0):
    units = tlm.Units.whole(("blocks.0.mlp.hook_post",), (0,), (60,))
    samples = PROMPTS.query("category == 'animal'")
    return tlm.Module(0, units.select(np.arange(60) == unit), samples)


@pytest.fixture(scope="module")
def by_hand():
    options = {"factors": [0.5, 2], "positions": "all", "starts": ["the the", "loop", "the"]}
    return tlm.steering_effects(
        WritingToy(), cat_module(), PROMPTS, n_new_tokens=4, max_lost=0.6, **options, **QUIET
    )


def test_losses_are_those_worked_out_by_hand(by_hand):
    for factor, row in by_hand.set_index("factor").iterrows():
        for name, word in (("own_effect", "cat"), ("other_effect", "loop")):
            rise = loss_of([1.5, factor, 1], word) - loss_of([1.5, 1, 1], word)
            assert row[name] == pytest.approx(rise, abs=1e-6)
        assert row["selectivity"] == pytest.approx(row["own_effect"] - row["other_effect"])
        assert np.isnan(row["own_effect_ci_low"])  # a single prompt has no interval


def test_the_text_that_is_written_is_scored_and_read_by_the_unsteered_model(by_hand):
    half, double = (by_hand.query("factor == @factor").iloc[0] for factor in (0.5, 2))
    assert (half["text"], double["text"]) == ("the the the the", "cat cat cat cat")
    assert half["score_rise"] == half["lost"] == 0
    assert (double["score_clean"], double["score"]) == (0, 1 / 4)  # of four words; it counts once
    assert double["text_loss"] == pytest.approx(loss_of([1.5, 1, 1], "cat"), abs=1e-6)
    assert double["lost"] == pytest.approx(0.5, abs=1e-6)  # the logits of "the" and "cat" differ so
    assert double["repeated"] == double["repeated_clean"] == pytest.approx(2 / 3)
    assert (double["n_starts"], double["n"], double["n_controls"]) == (3, 2, 19)


def test_it_steers_if_the_score_rises_beyond_controls_and_little_fluency_is_lost(by_hand):
    assert by_hand["steers"].tolist() == [False, True]
    assert by_hand["score_rise_p_value"].tolist() == [1, 1 / 20]  # the floor of 19 controls
    assert "the score of 1 of 1 module rises" in by_hand.attrs["sentence"]
    assert "module 0 at 2 (at 2 its score rises by 0.25" in by_hand.attrs["sentence"]
    options = {"factors": [2], "positions": "all", "n_new_tokens": 4, **QUIET}
    dear = tlm.steering_effects(WritingToy(), cat_module(), PROMPTS, max_lost=0.4, **options)
    assert not dear["steers"].any()
    assert "At none of 1 factors" in dear.attrs["sentence"]
    few = tlm.steering_effects(WritingToy(), cat_module(), PROMPTS, n_controls=9, **options)
    assert not few["steers"].any()
    assert "9 controls are too few to say" in few.attrs["sentence"]


def rows(factors, rises, lost=0.1, p_value=0.05):
    """Rows of one module that the controls do not reach."""
    frame = pd.DataFrame({"factor": factors, "score_rise": rises, "lost": lost})
    return frame.assign(
        module=0,
        category="animal",
        text="cat",
        n_controls=19,
        score_rise_control_mean=0.0,
        score_rise_p_value=p_value,
        selectivity_p_value=1.0,
    )


def test_a_module_does_not_steer_by_a_score_that_is_lower_than_the_controls():
    # Below 1, a low p-value says that the score rises less than the controls'.
    table = steering_table(rows([-2.0, 0.5, 1.0], [0.1, 0.1, 0.1]), 0.5)
    assert not table["steers"].any()
    assert "At none of 3 factors" in table.attrs["sentence"]
    assert "Before correction" not in table.attrs["sentence"]
    assert steering_table(rows([0.5, 2.0], [0.1, 0.1]), 0.5)["steers"].tolist() == [False, True]


def test_the_sentence_says_that_factors_are_not_corrected_for():
    one = steering_table(rows([0.5, 2.0], [-0.1, 0.1]), 0.5).attrs["sentence"]
    assert "Hochberg over the modules): module 0 at 2 (" in one
    two = steering_table(rows([0.5, 2.0, 3.0], [-0.1, 0.1, 0.2]), 0.5).attrs["sentence"]
    assert "Hochberg over the modules, not over the 2 factors above 1): module 0 at 2 and 3" in two


class SilentToy(WritingToy):
    """A model that ends each text at once."""

    def generate(self, tokens, max_new_tokens, do_sample, verbose, eos_token_id):
        end = torch.full((len(tokens), max_new_tokens), self.tokenizer.eos_token_id)
        return torch.cat([tokens, end], dim=1)


def test_texts_without_a_word_have_the_score_0_and_the_loss_of_their_end():
    options = {"factors": [2], "positions": "all", "n_new_tokens": 4, "n_controls": 1, **QUIET}
    row = tlm.steering_effects(SilentToy(), cat_module(), PROMPTS, **options).iloc[0]
    assert (row["text"], row["score"], row["repeated"], row["steers"]) == ("", 0, 0, False)
    # Its logit is 0, whatever the first neuron says.
    assert row["text_loss"] == pytest.approx(np.log(3 + np.exp([1.5, 1, 1]).sum()), abs=1e-6)
    assert row["lost"] == pytest.approx(0, abs=1e-6)


def test_a_users_function_reads_the_unsteered_texts_once():
    texts = []
    options = {"factors": [2], "n_controls": 1, "n_new_tokens": 2, "starts": ["the"], **QUIET}
    modules = [replace(cat_module(unit), label=unit) for unit in (0, 1, 2)]
    table = tlm.steering_effects(
        WritingToy(), modules, PROMPTS, scorer=lambda said: texts.append(said) or 1.0, **options
    )
    assert len(texts) == 1 + 3 * 2
    assert table["score_clean"].tolist() == [1.0] * 3


def test_a_unit_that_writes_no_own_word_does_not_steer():
    options = {"factors": [2], "positions": "all", "n_new_tokens": 4, **QUIET}
    row = tlm.steering_effects(WritingToy(), cat_module(unit=1), PROMPTS, **options).iloc[0]
    assert row["text"] == "loop loop loop loop"
    assert (row["score_rise"], row["score_rise_p_value"], row["steers"]) == (0, 1, False)


def test_content_positions_leave_a_texts_first_token_alone():
    options = {"factors": [2], "n_new_tokens": 3, "n_controls": 0, **QUIET}
    found = [
        tlm.steering_effects(WritingToy(), cat_module(), PROMPTS, starts=[start], **options)
        for start in ("the", "the the")
    ]
    # "the" itself is not changed, and so predicts "the"; every token that is written is changed.
    assert [table["text"].item() for table in found] == ["the cat cat", "cat cat cat"]


@pytest.fixture(scope="module")
def table(model, modules, prompts):
    options = {"factors": [0, 1, 3], "n_controls": 3, "n_new_tokens": 3}
    return tlm.steering_effects(model, modules, prompts, **options, **QUIET)


def test_factor_1_changes_nothing(table):
    one = table.query("factor == 1")
    for name in ("own_effect", "other_effect", "selectivity", "score_rise", "lost"):
        assert np.allclose(one[name], 0, atol=1e-6)
        assert np.allclose(one[f"{name}_control_mean"], 0, atol=1e-6)
        assert (one[f"{name}_p_value"] == 1).all()
    assert np.allclose(one["repeated"], one["repeated_clean"])


def test_factor_0_is_zero_ablation(table, model, modules, prompts):
    options = {"method": "zero", "n_controls": 3, **QUIET}
    effects = tlm.module_effects(model, modules, prompts, **options)
    own = effects.loc[effects["own"]].set_index("module")
    zero = table.query("factor == 0").set_index("module")
    for mine, theirs in SHARED_COLUMNS.items():
        assert zero[mine].to_numpy() == pytest.approx(own[theirs].to_numpy(), abs=1e-5), mine
    others = effects.loc[~effects["own"]].set_index("module")  # there are two categories
    assert np.allclose(zero["other_effect"], others["effect"], atol=1e-5)
    assert np.allclose(zero["other_effect_ci_low"], others["ci_low"], atol=1e-5)


def test_p_values_are_corrected_over_the_modules_within_a_factor(table):
    for _, rows in table.groupby("factor"):
        for name in ("selectivity", "score_rise"):
            adjusted = false_discovery_control(rows[f"{name}_p_value"])
            assert rows[f"{name}_p_bh"].to_numpy() == pytest.approx(adjusted)


def test_controls_have_as_many_units_in_each_layer_and_are_the_same_in_losses_and_texts(
    model, modules, prompts, monkeypatch
):
    written, measured = [], []
    write, run = written_texts.Writer.written, prompt_runs.run_task

    def writing(self, sets, *rest):
        written.append(sets)
        return write(self, sets, *rest)

    def running(model, task, runs, *rest):
        measured.append([each.target for each in runs if isinstance(each, prompt_runs.UnitRun)])
        return run(model, task, runs, *rest)

    monkeypatch.setattr(written_texts.Writer, "written", writing)
    monkeypatch.setattr("tl_modules.causal.steering.run_task", running)
    options = {"factors": [0.5, 2], "n_controls": 3, "n_new_tokens": 1, **QUIET}
    table = tlm.steering_effects(model, modules, prompts, **options)
    assert (table["control_units"] == table["n_units"]).all()
    clean, *steered = written
    assert clean == []
    numbers = [[each.units.flat().tolist() for each in sets] for sets in steered]
    assert numbers == [[each.units.flat().tolist() for each in sets] for sets in measured[1:]]
    assert numbers[::2] == numbers[1::2]  # one draw for both factors
    for module, (own, *controls) in zip(modules, steered[::2], strict=True):
        assert np.array_equal(own.units.flat(), module.units.flat())
        assert len(controls) == 3
        for control in controls:
            assert np.array_equal(np.bincount(control.units.hook), np.bincount(own.units.hook))
    factors = [{each.recipe.factor for each in sets} for sets in steered]
    assert factors == [{0.5}, {2}] * 3


def written_alone(model, module, start, content, factor, n_new):
    """The likeliest tokens, one forward pass of the whole text for each, as texts' tokens."""
    tokens = start.clone()
    for _ in range(n_new):
        grown = torch.ones(len(tokens) - len(start), dtype=torch.bool)
        where = torch.cat([content, grown])[None]
        hooks = module.fwd_hooks("scale", factor=float(factor), positions=where)
        with torch.inference_mode():
            logits = model.run_with_hooks(tokens[None], fwd_hooks=hooks)[0, -1]
        tokens = torch.cat([tokens, logits.argmax()[None].cpu()])
    return tokens


def test_texts_are_those_that_the_model_writes_one_at_a_time(model, modules, prompts):
    starts = ["the cat sat on", "the dog ran over", "one plus", "print ("]
    tokens = tokenise(model, starts)
    content = content_masks(model, tokens, 4)
    for module in modules:
        options = {"factors": [4], "n_controls": 2, "n_new_tokens": 5, "starts": starts, **QUIET}
        texts = []
        tlm.steering_effects(
            model, module, prompts, scorer=lambda said, to=texts: to.append(said) or 0.0, **options
        )
        # Four texts without steering come first; then the module's, then each control's.
        alone = [
            written_alone(model, module, *given, 4, 5)
            for given in zip(tokens, content, strict=True)
        ]
        said = [
            model.tokenizer.decode(each[len(start) :], skip_special_tokens=True)
            for each, start in zip(alone, tokens, strict=True)
        ]
        # A special token ends a text.
        assert all(one.startswith(other) for one, other in zip(said, texts[4:8], strict=True))
        assert texts[4:8] != texts[:4]
        assert len(texts) == 16


def test_the_batch_size_does_not_matter(model, modules, prompts):
    options = {"factors": [3], "n_controls": 2, "n_new_tokens": 3, **QUIET}
    one, other = (
        tlm.steering_effects(model, modules[0], prompts, batch_size=size, **options)
        for size in (3, 64)
    )
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_sampled_texts_follow_the_seed(model, modules, prompts):
    def text(seed):
        options = {"factors": [1], "n_controls": 0, "n_new_tokens": 12, "temperature": 2.0}
        found = tlm.steering_effects(
            model, modules[0], prompts, starts=["the cat"], seed=seed, **options, **QUIET
        )
        assert found["lost"].item() == pytest.approx(0, abs=1e-6)  # the same luck without steering
        return found["text"].item()

    assert text(1) == text(1) != text(2)


def test_bfloat16(modules, prompts):
    model = tiny_model().to(torch.bfloat16)
    options = {"factors": [2], "n_controls": 1, "n_new_tokens": 2, **QUIET}
    found = tlm.steering_effects(model, modules[0], prompts, **options)
    assert np.isfinite(found[["own_effect", "selectivity", "lost", "score"]].to_numpy()).all()


def test_words_are_the_topics_and_the_categorys_or_those_given(model, modules, prompts):
    (of_category,) = own_words.scores_of([modules[0]], prompts, None, None)
    assert "cat" in of_category.words or "print" in of_category.words
    with_topic = tlm.with_topics(modules)[0]
    topic = replace(with_topic.topic, words=(*with_topic.topic.words, Word("zebra", 1.0)))
    (found,) = own_words.scores_of([replace(with_topic, topic=topic)], prompts, None, None)
    assert found.words == {*of_category.words, *(word.word for word in topic.words)}
    (given,) = own_words.scores_of([modules[0]], prompts, {0: ["Cat", "dog"]}, None)
    assert given.words == {"cat", "dog"}
    assert given("the cat sat") == pytest.approx(1 / 3)
    assert given("") == 0


def test_repetition_is_the_share_of_pairs_seen_before():
    assert repeated_share("a bb cc bb cc bb") == pytest.approx(2 / 4)
    assert repeated_share("one") == 0


def test_default_starts_are_the_beginnings_of_prompts_of_each_category_in_turn(model, prompts):
    found = written_texts.start_tokens(model, None, prompts.iloc[::-1])
    assert len(found) == 8
    longest = tokenise(model, prompts["prompt"].tolist()[::-1])
    for start, whole in zip(found, longest, strict=False):  # categories alternate
        assert torch.equal(start, whole[:16])
    of_code = pd.concat([prompts.query("category == 'code'")] * 2 + [prompts.iloc[:1]])
    turns = written_texts.start_tokens(model, None, of_code)
    assert torch.equal(turns[1], tokenise(model, [prompts["prompt"][0]])[0])


def test_a_module_without_own_words_has_no_score_and_a_warning(model, modules, prompts):
    module = replace(modules[0], own_category="animal")
    options = {"factors": [2], "n_controls": 1, "n_new_tokens": 1, **QUIET}
    plain = prompts["prompt"].tolist()
    with pytest.warns(UserWarning, match="No module's own|no own words") as warned:
        found = tlm.steering_effects(model, module, plain, **options)
    said = [str(each.message) for each in warned]
    assert any("Modules [0] have no own words" in each for each in said)
    assert any("No module's own category is among the prompts'" in each for each in said)
    unknown = ["score", "score_rise", "score_rise_p_value", "own_effect", "selectivity"]
    assert found[unknown].isna().all(axis=None)
    assert np.isfinite(found["other_effect"].item())
    assert not found["steers"].item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": []}, r"factors should be finite numbers, at least one.*\[0.0, 0.5, 1.5"),
        ({"factors": [2, float("nan")]}, "factors should be finite numbers"),
        ({"factors": [2, 2.0]}, "and each once; got"),
        ({"n_new_tokens": 0}, "n_new_tokens should be at least 1; got 0"),
        ({"n_controls": -1}, "n_controls should be at least 0; got -1"),
        ({"temperature": -1.0}, "temperature should be a finite number of at least 0; got -1"),
        ({"max_lost": float("inf")}, "max_lost should be a finite number of at least 0; got inf"),
        ({"words": {7: ["cat"]}}, r"words should be by the modules' labels, \[0\]; \[7\] are none"),
        ({"words": {0: ["two words"]}}, r"words\[0\] should be single words.*got 'two words'"),
        ({"words": {0: []}}, r"words\[0\] should be single words.*got none. Pass scorer="),
        ({"words": {0: ["cat"]}, "scorer": len}, "words and scorer exclude each other"),
        ({"scorer": lambda text: "good"}, "scorer should return a finite number.*returned 'good'"),
        ({"scorer": lambda text: float("nan")}, "scorer should return a finite number.*nan"),
        ({"starts": ["the"] * 2, "n_new_tokens": 99}, "should fit the model's context of 64"),
        ({"starts": []}, "starts should hold at least one"),
    ],
)
def test_what_cannot_be_is_refused(options, message, model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.steering_effects(model, modules[0], prompts, **options, **QUIET)


def test_a_target_that_cannot_be_scaled_is_refused(model, acts, prompts):
    part = tlm.Parts("layer", acts.units, acts, "all", "animal")
    with pytest.raises(tlm.ModulesError, match="modules should be sets of units without a method"):
        tlm.steering_effects(model, part, prompts, **QUIET)


def test_a_model_that_cannot_be_read_is_refused(modules, prompts):
    model = tiny_model()
    model.tokenizer = None
    with pytest.raises(tlm.ModulesError, match="should have a tokenizer"):
        tlm.steering_effects(model, modules, prompts, **QUIET)


def test_what_a_scorer_raises_is_passed_on_with_the_text_and_leaves_no_hooks(
    model, modules, prompts
):
    texts = []

    def failing(text):
        texts.append(text)
        if len(texts) > 9:  # the unsteered texts are eight
            raise KeyError("no such word")
        return 0.0

    options = {"factors": [3], "n_controls": 1, "n_new_tokens": 2, "scorer": failing, **QUIET}
    with pytest.raises(KeyError, match="no such word") as raised:
        tlm.steering_effects(model, modules[0], prompts, **options)
    assert raised.value.__notes__ == [f"scorer raised this for the text {texts[-1]!r}."]
    assert tlm.attached(model) == []
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_p_values_are_at_most_5_percent_in_5_of_100_cases_if_all_sets_are_alike(factor):
    generator = np.random.default_rng(0)
    categories = np.repeat(["a", "b"], 3).astype(object)
    found = []
    for seed in range(400):
        values, losses = generator.normal(size=(2, 20, 4))
        zero = np.zeros((1, 4))
        texts = TextNumbers(values, losses + 9, np.abs(values))
        row = text_row(texts, TextNumbers(zero, zero + 9, zero), factor, seed)
        rises = generator.normal(size=(20, 6))
        row |= loss_row(categories, np.full(6, 3.0), rises, "a", seed)
        found.append({name: row[name] for name in row if name.endswith("p_value")})
    shares = (pd.DataFrame(found) <= 0.05).mean()
    assert len(shares) == 5
    # Of 400 tests that are at most 0.05 in 5 % of cases, between 9 and 33 in 998 of 1,000 cases.
    assert shares.between(0.0225, 0.0825).all(), shares
    assert pd.DataFrame(found).min().min() == 1 / 20


def test_below_factor_1_the_score_should_fall():
    scores = np.array([[0.1], [0.2], [0.3]])
    zero = np.zeros((1, 1))
    for factor, p_value in ((-2.0, 1 / 3), (0.5, 1 / 3), (2.0, 1.0)):
        texts = TextNumbers(scores, scores, scores)
        row = text_row(texts, TextNumbers(zero, zero, zero), factor, 0)
        assert row["score_rise_p_value"] == pytest.approx(p_value)
        assert row["lost_p_value"] == 1.0
