"""Chains of thought through a model whose every probability can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import WORDS, byte_tokenizer, tiny_model
from tests.interpret.toys import Digits, Lensed, lensed_modules
from tests.related.test_refusals import untyped
from tl_modules.tables.p_values import holm
from tl_modules.thoughts.beside_correctness import beside_correctness
from tl_modules.thoughts.chains import question_tokens, thought_ends, written_chains
from tl_modules.thoughts.choices import choice_tokens, question_frame
from tl_modules.thoughts.styles import STYLES, ask_in
from tl_modules.thoughts.thoughts import Thoughts

QUIET = {"progress": False}


class Dots(Digits):
    """Token 2 is a full stop."""

    def decode(self, tokens, skip_special_tokens=False):
        """``"0 . 1"``."""
        return super().decode(tokens, skip_special_tokens).replace("2", ".")


class Talker(Lensed):
    """The toy of three tokens, 0, 1 and the full stop, where only the last one counts.

    After token t the logits are (0, 1.7 t, 0).
    """

    def __init__(self):
        """With its tokenizer."""
        super().__init__()
        self.tokenizer = Dots()

    def to_tokens(self, text, truncate=True):
        """``"0 ."`` as 0 and 2; a colon, as 9, is never predicted."""
        return super().to_tokens(text.replace(".", "2").replace(":", "9"))


def logprob(token, after):
    """What the toy gives a token after another."""
    return 1.7 * after * (token == 1) - np.log(2 + np.exp(1.7 * after))


def asked(choices=("1", "0", "0 1"), answer="0", **columns):
    row = {"prompt": "0 1", "choices": list(choices), "answer": answer, **columns}
    return pd.DataFrame([row])


def follow(questions, chains, **options):
    options = {"style": "{question}", "lead": "", **QUIET} | options
    return tlm.thoughts.thought_states(Talker(), questions, chains=chains, **options)


def test_distances_are_the_choices_perplexities_as_worked_out_by_hand():
    found = follow(asked(id="q"), ["0 . 1 1"], modules=lensed_modules())
    states = found.states
    assert states["thought"].tolist() == ["0 1", "0 .", "1 1"]
    assert states["step"].tolist() == [0, 1, 2]
    last = [1, 2, 1]  # the last tokens of the question and of its thoughts
    expected = np.exp(
        [[-logprob(0, at), -logprob(1, at), -(logprob(0, at) + logprob(1, 0)) / 2] for at in last]
    )
    names = [f"perplexity_{k}" for k in (1, 2, 3)]
    np.testing.assert_allclose(states[names], expected, rtol=1e-5)
    shares = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.features, shares, rtol=1e-5)
    entropy = -(shares * np.log(shares)).sum(axis=1)
    np.testing.assert_allclose(states["uncertainty"], entropy, rtol=1e-5)
    assert states["nearest"].tolist() == ["1", "1", "1"]
    assert not states["is_correct"].any()
    assert states["consistent"].all()
    own = [-(logprob(0, 1) + logprob(2, 0)) / 2, -(logprob(1, 2) + logprob(1, 1)) / 2]
    np.testing.assert_allclose(states["thought_perplexity"], [np.nan, *np.exp(own)], rtol=1e-5)
    # Token t has the value t in both modules; the question's first token is left out.
    np.testing.assert_allclose(states["module_0"], [1, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(states["module_1"], [1, 1, 1], rtol=1e-5)


def test_after_a_uniform_model_every_choice_is_as_far_as_the_vocabulary_is_large():
    question = asked(["0", "1", "0 ."], "0").assign(prompt="0 0")
    found = follow(question, ["0 0"])
    perplexities = found.states[["perplexity_1", "perplexity_2", "perplexity_3"]]
    np.testing.assert_allclose(perplexities, 3, rtol=1e-6)
    np.testing.assert_allclose(found.features, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(found.states["uncertainty"], np.log(3), rtol=1e-6)


def test_the_correct_choice_comes_first_and_the_others_keep_their_order():
    found = follow(asked(["1", "0", "."], "."), ["0 0"])
    by_hand = [3.0, 3.0, 3.0]  # after the thought, which ends in 0
    np.testing.assert_allclose(found.features[1] * 9, by_hand, rtol=1e-5)
    first = np.exp([-logprob(2, 1), -logprob(1, 1), -logprob(0, 1)])
    np.testing.assert_allclose(found.features[0], first / first.sum(), rtol=1e-5)
    np.testing.assert_array_equal(found.landmarks, [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def test_a_state_is_consistent_if_it_is_nearest_to_what_the_last_is_nearest_to():
    # After 1 the choice "1" is nearest; after 0 all are equally far, and the first, "0", counts.
    found = follow(asked(["1", "0"], "0"), ["1 . 0 0"])
    assert found.states["nearest"].tolist() == ["1", "1", "0"]
    assert found.states["consistent"].tolist() == [False, False, True]
    assert found.states["is_correct"].tolist() == [False, False, True]
    chain = found.chains().iloc[0]
    assert (chain["is_correct"], chain["correct_at_first"]) == (True, False)
    assert chain["n_thoughts"] == 2


def test_the_lead_stands_between_state_and_choice_and_does_not_count():
    found = follow(asked(["1", "0"], "0"), ["1 1"], lead=" .")
    expected = np.exp([-logprob(0, 2), -logprob(1, 2)])  # whatever the state
    np.testing.assert_allclose(found.states[["perplexity_1", "perplexity_2"]], [expected] * 2)


def test_rows_with_one_id_are_chains_of_one_question():
    questions = pd.concat([asked(["1", "0"], id="q", category="c")] * 2, ignore_index=True)
    found = follow(questions, ["1 . 1", "0"], modules=lensed_modules())
    chains = found.chains()
    assert chains["id"].tolist() == ["q", "q"]
    assert chains["category"].tolist() == ["c", "c"]
    assert chains["chain"].tolist() == [0, 1]
    assert chains["n_thoughts"].tolist() == [2, 1]
    np.testing.assert_allclose(chains["module_0"], [(1.5 + 1) / 2, 0], atol=1e-6)
    steps = found.steps()
    assert steps["n_chains"].tolist() == [2, 2, 1]
    assert steps["share_correct"].tolist() == [0, 0.5, 0]
    assert "2 chains on 1 questions" in repr(found)
    assert "<td>" in found._repr_html_()


@pytest.fixture(scope="module")
def talker():
    return tiny_model(known=[*WORDS, "."])


@pytest.fixture(scope="module")
def questions():
    rows = [("the cat sat on", "the mat", "one"), ("two plus one equals", "three", "a red bird")]
    return pd.DataFrame(
        [{"prompt": q, "choices": [wrong, answer], "answer": answer} for q, answer, wrong in rows]
    )


ASK = "{question} ( {choices} ) why"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_distances_equal_log_softmax_of_one_text_at_a_time(talker, questions, batch_size):
    chains = ["the cat sat . on the big mat .", "two and one is three"]
    options = {"style": ASK, "lead": " so it is", "batch_size": batch_size, **QUIET}
    found = tlm.thoughts.thought_states(talker, questions, chains=chains, **options)
    expected = []
    for row, thoughts in enumerate([["the cat sat .", "on the big mat ."], [chains[1]]]):
        first = questions.loc[row]
        listed = " ".join(f"- {choice}" for choice in first["choices"])
        state = f"{first['prompt']} ( {listed} ) why"
        for thought in ["", *thoughts]:
            state = f"{state} {thought}".strip()
            distances = []
            for choice in first["choices"][::-1]:  # the answer first
                tokens = talker.to_tokens(f"{state} so it is {choice}")
                with torch.inference_mode():
                    logprobs = talker(tokens)[0].double().log_softmax(-1)
                n = len(choice.split())
                chosen = logprobs[-n - 1 : -1].gather(1, tokens[0, -n:, None])
                distances.append(np.exp(-chosen.mean().item()))
            expected.append(distances)
    names = ["perplexity_1", "perplexity_2"]
    np.testing.assert_allclose(found.states[names], expected, rtol=1e-4)


def written(model, asked, **options):
    options = {"n_chains": 1, "n_new_tokens": 5, "temperature": 0.0, "seed": 0} | options
    starts = question_tokens(model, asked, tlm.Reading())
    return written_chains(model, starts, **options, **QUIET)


def test_a_greedy_chain_is_what_the_model_would_say_token_by_token(talker):
    (chain,) = written(talker, ["the cat sat on"])
    tokens = talker.to_tokens("the cat sat on")
    for _ in range(5):
        with torch.inference_mode():
            token = talker(tokens)[:, -1:].argmax(-1)
        if int(token) in (talker.tokenizer.eos_token_id, talker.tokenizer.pad_token_id):
            break
        tokens = torch.cat([tokens, token], dim=1)
    assert chain.tokens.tolist() == tokens[0].tolist()
    assert chain.ends[-1] == len(chain.tokens)


def test_sampled_chains_repeat_and_leave_the_global_generator_alone(talker):
    texts = ["the cat sat on", "one plus two equals"]
    before = torch.get_rng_state()
    chains = written(talker, texts, n_chains=3, temperature=1.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert [(chain.row, chain.number) for chain in chains] == [
        (row, number) for row in range(2) for number in range(3)
    ]
    torch.rand(1)  # another state of it gives the same chains
    again = written(talker, texts, n_chains=2, temperature=1.5)
    for chain in again:  # also beside fewer
        same = next(c for c in chains if (c.row, c.number) == (chain.row, chain.number))
        assert torch.equal(chain.tokens, same.tokens)
    assert len({tuple(chain.tokens.tolist()) for chain in chains}) == 6
    others = written(talker, texts, n_chains=3, temperature=1.5, seed=1)
    assert any(not torch.equal(a.tokens, b.tokens) for a, b in zip(chains, others, strict=True))


def test_in_chat_form_the_chain_is_the_reply(questions):
    model = tiny_model(known=[*WORDS, "."])
    model.tokenizer.chat_template = "the {{ messages[0]['content'] }} how "
    options = {"style": "{question}", "chat": True, **QUIET}
    found = tlm.thoughts.thought_states(model, questions, chains=["a cat .", "red"], **options)
    plain = tlm.thoughts.thought_states(
        model,
        questions,
        chains=["a cat .", "red"],
        style="the {question} how",
        **QUIET,
    )
    # A template holds its special tokens itself: this one has no BOS.
    assert found.states["thought"].tolist() == plain.states["thought"].tolist()
    tokens = model.to_tokens("the the cat sat on how a cat .")[0]
    tokens = tokens[int(tokens[0]) == model.tokenizer.bos_token_id :]
    with torch.inference_mode():
        logprobs = model(tokens[None])[0].double().log_softmax(-1)
    loss = -logprobs[-4:-1].gather(1, tokens[-3:, None]).mean()
    assert found.states["thought_perplexity"][1] == pytest.approx(loss.exp().item(), rel=1e-4)


def test_a_system_prompt_comes_before_the_question(questions):
    model = tiny_model(known=[*WORDS, "."])
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}how "
    options = {"chains": ["a cat .", "red"], "chat": True, **QUIET}
    found = tlm.thoughts.thought_states(
        model, questions, style="{question}", system="why not", **options
    )
    same = tlm.thoughts.thought_states(model, questions, style="why not {question}", **options)
    numbers = found.states.select_dtypes("number")
    pd.testing.assert_frame_equal(numbers, same.states[numbers.columns])
    (written_after,) = question_tokens(model, ["a"], tlm.Reading(chat=True, system="why not"))
    assert model.tokenizer.decode(written_after) == "why not a how"
    with pytest.raises(tlm.ModulesError, match="system should come with chat=True"):
        tlm.thoughts.thought_states(model, questions, system="why not", **QUIET)


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        (["One", ".", " Two", "!", ' "', "Three", '?"', " Four"], [2, 4, 7, 8]),
        (["a", "\n", "\n", "b", "\n"], [1, 5]),  # white space goes with what follows, or ends it
        (["1", ".", " Add", " 3", ".", "5", ".", " So"], [7, 8]),
        (["so.\n", "b", ".", " c"], [1, 4]),
        ([], []),
        (["\n", " "], []),
    ],
)
def test_thoughts_end_where_sentences_and_lines_do(pieces, ends):
    assert thought_ends(pieces) == ends


def test_a_module_that_is_more_active_where_chains_end_right_is_found():
    generator = np.random.default_rng(0)
    correct = np.arange(40) % 2 == 0
    values = generator.normal(size=(40, 3))
    values[correct, 1] += 2
    ids = pd.Series([f"q{row}" for row in range(40)])
    table = beside_correctness(values, correct, ids, 999, 0)
    expected = values[correct].mean(axis=0) - values[~correct].mean(axis=0)
    np.testing.assert_allclose(table["difference"], expected)
    assert table["p_value"][1] == 1 / 1000
    assert table["ci_low"][1] > 1
    assert (table.loc[[0, 2], "p_value"] > 0.05).all()
    np.testing.assert_allclose(table["p_holm"], holm(table["p_value"].to_numpy()))
    assert table["n_correct"].tolist() == [20] * 3


def test_chains_of_one_question_do_not_count_as_independent():
    # Two questions, ten chains each, alike: ten times the rows say no more.
    correct = np.repeat([True, False], 10)
    values = np.where(correct, 1.0, 0.0)[:, None] + np.zeros((20, 1))
    ids = pd.Series(np.repeat(["a", "b"], 10))
    table = beside_correctness(values, correct, ids, 99, 0)
    assert table["difference"][0] == 1
    assert table["p_value"][0] == 1
    apart = beside_correctness(values, correct, pd.Series(map(str, range(20))), 99, 0)
    assert apart["p_value"][0] == 0.01


def test_the_interval_is_as_wide_as_questions_vary_however_often_each_was_asked():
    correct = np.arange(40) % 2 == 0
    values = np.random.default_rng(0).normal(size=(40, 2))
    once = beside_correctness(values, correct, pd.Series(range(40)), 9, 0)
    sides = (values[correct], values[~correct])
    spread = np.sqrt(sum(each.var(axis=0) / 20 for each in sides))
    np.testing.assert_allclose(once["ci_high"] - once["ci_low"], 2 * 1.96 * spread, rtol=0.15)
    tenfold = (np.repeat(each, 10, axis=0) for each in (values, correct, np.arange(40)))
    *repeated, ids = tenfold
    often = beside_correctness(*repeated, pd.Series(ids), 9, 0)
    ends = ["ci_low", "ci_high"]
    np.testing.assert_allclose(often[ends], once[ends])


def test_where_all_chains_end_alike_there_is_no_difference():
    ids = pd.Series(["a", "b", "c"])
    table = beside_correctness(np.ones((3, 2)), np.ones(3, dtype=bool), ids, 9, 0)
    measured = ["difference", "ci_low", "ci_high", "p_value", "p_holm"]
    assert table[measured].isna().all(axis=None)


def test_the_question_is_asked_exactly_as_it_is_written():
    (text,) = ask_in(asked(), "{question}\n{choices} \n ")
    assert text == "0 1\n- 1\n- 0\n- 0 1 \n "


STYLES_BY_HAND = {
    "direct": "Reply with the answer alone.",
    "cot": "Let us think step by step.",
    "lot": "Let us first observe, expand and echo all the information that matters for the "
    "question, and then think step by step.",
}


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_the_sentence_after_the_question_and_its_choices(style):
    (text,) = ask_in(asked(), style)
    assert text == f"0 1\nPossible answers:\n- 1\n- 0\n- 0 1\n{STYLES_BY_HAND[style]}"


@pytest.mark.parametrize("style", STYLES)
def test_the_model_is_asked_in_the_named_style(style, questions):
    known = [*WORDS, "Let", "us", "first", "think", "Reply", "alone."]
    model = tiny_model(known=known, n_ctx=128)
    options = {"chains": ["a cat .", "red"], **QUIET}
    template = "{question}\nPossible answers:\n{choices}\n" + STYLES_BY_HAND[style]
    found = tlm.thoughts.thought_states(model, questions, style=style, **options).states
    same = tlm.thoughts.thought_states(model, questions, style=template, **options).states
    pd.testing.assert_frame_equal(found, same)
    default = tlm.thoughts.thought_states(model, questions, **options).states
    assert np.allclose(found["uncertainty"], default["uncertainty"]) == (style == "cot")


def pair_of_runs():
    """Three questions in two runs; of the third one only the first run has a thought."""
    rows = [asked(["1", "0"], "0", id=name) for name in "abc"]
    questions = pd.concat(rows, ignore_index=True)
    given = {"modules": lensed_modules()}
    return (
        follow(questions, ["1 . 0 0", "1 1", "1"], **given),
        follow(questions, ["0 1", "0 0 . 1", "1"], **given),
    )


def test_two_runs_are_compared_question_by_question_by_hand():
    one, other = pair_of_runs()
    table = one.beside(other).set_index("measure")
    # After a last token of 1 the choice "1" is nearest, after 0 all are, and the answer is first.
    assert table.loc["is_correct", ["mean", "other_mean"]].tolist() == pytest.approx([1 / 3, 0])
    assert table.loc["correct_at_first", "difference"] == 0
    # Thoughts "1 ." and "0 0", "1 1", "1" against "0 1", "0 0 ." and "1", "1".
    assert table.loc["n_thoughts", ["mean", "other_mean"]].tolist() == pytest.approx([4 / 3, 4 / 3])
    # A token's value is itself; "." is 2.
    own, beside = [(1.5 + 0) / 2, 1, 1], [0.5, (2 / 3 + 1) / 2, 1]
    differences = np.subtract(own, beside)
    row = table.loc["module_0"]
    assert row["mean"] == pytest.approx(np.mean(own), abs=1e-6)
    assert row["difference"] == pytest.approx(differences.mean(), abs=1e-6)
    # A resample of three questions often draws one of them three times.
    assert row["ci_low"] == pytest.approx(differences.min(), abs=1e-6)
    assert row["ci_high"] == pytest.approx(differences.max(), abs=1e-6)
    assert row["n_questions"] == 3
    ends = [one, other]
    uncertain = [run.states.groupby("id")["uncertainty"].last().mean() for run in ends]
    found = table.loc["uncertainty", ["mean", "other_mean"]].tolist()
    assert found == pytest.approx(uncertain)
    assert list(table.index[-2:]) == ["module_0", "module_1"]


def test_questions_are_paired_by_their_id_and_not_by_their_place():
    one, other = pair_of_runs()
    states = other.states
    turned = pd.concat([states[states["id"] == name] for name in "cab"], ignore_index=True)
    pd.testing.assert_frame_equal(
        one.beside(Thoughts(turned, 2, 2)), one.beside(other), check_exact=False
    )


def test_questions_without_an_id_are_not_paired_by_their_place_alone():
    first, second = asked(["1", "0"], "0"), asked(["1", "0"], "0").assign(prompt="1 1")
    chains = ["1", "0"]
    one, turned = (
        follow(pd.concat(rows, ignore_index=True), chains)
        for rows in ([first, second], [second, first])
    )
    assert len(one.beside(one)) == 4
    said = r"number 0 is '0 1' in one and '1 1' in the other\. Give both frames a column id"
    with pytest.raises(tlm.ModulesError, match=said):
        one.beside(turned)
    # An id names a question, however it is worded.
    named, reworded = (follow(rows.assign(id="q"), ["1"]) for rows in (first, second))
    assert named.beside(reworded)["n_questions"].eq(1).all()


def test_a_question_counts_once_however_many_chains_it_has():
    rows = pd.concat([asked(["1", "0"], "0", id=name) for name in "aab"], ignore_index=True)
    once = rows.iloc[1:].reset_index(drop=True)
    one, other = follow(rows, ["1", "0", "0"]), follow(once, ["1", "1"])
    row = one.beside(other).set_index("measure").loc["is_correct"]
    # "a" is right in one of two chains, "b" in its only one.
    assert (row["mean"], row["other_mean"], row["n_questions"]) == (0.75, 0, 2)


def test_a_question_without_a_thought_says_nothing_of_modules():
    one, other = pair_of_runs()
    states = one.states
    silent = Thoughts(states[(states["id"] != "c") | (states["step"] == 0)], 2, 2)
    table = silent.beside(other).set_index("measure")
    assert table.loc["module_0", "n_questions"] == 2
    assert table.loc["is_correct", "n_questions"] == 3
    assert table.loc["module_0", "other_mean"] == pytest.approx((0.5 + 5 / 6) / 2, abs=1e-6)
    mute = Thoughts(states[states["step"] == 0], 2, 2).beside(other).set_index("measure")
    assert mute.loc["module_0", "n_questions"] == 0
    assert mute.loc["module_0", ["mean", "difference", "ci_low"]].isna().all()


def test_one_question_has_no_interval():
    table = follow(asked(), ["0"]).beside(follow(asked(), ["1"]))
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)
    assert table["difference"].notna().all()


def test_an_interval_over_questions_is_as_wide_as_their_differences_vary():
    generator = np.random.default_rng(0)
    runs = []
    for spread in (1.0, 2.0):
        values = pd.DataFrame({"id": [f"q{row}" for row in range(40)], "chain": 0, "step": 0})
        values = values.assign(thought="", is_correct=True)
        values = values.assign(uncertainty=spread * generator.normal(size=40))
        runs.append(Thoughts(values, 2, 0))
    row = runs[0].beside(runs[1]).set_index("measure").loc["uncertainty"]
    differences = runs[0].states["uncertainty"] - runs[1].states["uncertainty"]
    width = 2 * 1.96 * differences.std() / np.sqrt(40)
    assert row["ci_high"] - row["ci_low"] == pytest.approx(width, rel=0.1)


def test_runs_that_cannot_be_paired_are_refused():
    one, _ = pair_of_runs()
    with pytest.raises(tlm.ModulesError, match="same questions; only one has '0'"):
        one.beside(follow(asked(["1", "0"], "0"), ["0"], modules=lensed_modules()))
    bare = Thoughts(one.states, 2, 0)
    with pytest.raises(tlm.ModulesError, match="same n_modules; got 2 and 0"):
        one.beside(bare)
    with pytest.raises(tlm.ModulesError, match="same n_choices; got 2 and 3"):
        one.beside(Thoughts(one.states, 3, 2))
    with untyped(), pytest.raises(tlm.ModulesError, match="what thought_states returned; got None"):
        one.beside(None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"questions": pd.DataFrame({"prompt": ["0"]})}, "columns 'prompt', 'choices' and"),
        ({"questions": asked(["0"], "0")}, "at least two different texts"),
        ({"questions": asked(["0", "0 "], "0")}, "at least two different texts"),
        ({"questions": asked(["0", 1], "0")}, "at least two different texts"),
        ({"questions": asked(["0", "1"], ".")}, "answer should be one of its choices"),
        ({"chains": ["0", "1"]}, "one text per question, 1 in all; got 2"),
        ({"chains": "0"}, "got one string"),
        ({"style": "why"}, "style should be .* with '{question}'; got 'why'"),
        ({"chains": None}, r"needs generate\(\).* Pass chains="),
        ({"chains": None, "n_chains": 2}, "all chains would be equal"),
        ({"n_new_tokens": 0}, "n_new_tokens should be at least 1"),
        ({"temperature": -1.0}, "temperature should be 0 or a positive number"),
        ({"temperature": float("nan")}, "temperature should be 0 or a positive number"),
        ({"chains": ["0 " * 63]}, "should fit the model's context"),
    ],
)
def test_what_cannot_be_followed_is_refused(change, said):
    given = {"questions": asked(), "chains": ["0"]} | change
    with pytest.raises(tlm.ModulesError, match=said):
        follow(given.pop("questions"), given.pop("chains"), **given)


def test_questions_with_other_numbers_of_choices_or_the_same_id_are_refused(talker):
    mixed = pd.concat([asked(), asked(["0", "1"])], ignore_index=True)
    with pytest.raises(tlm.ModulesError, match=r"same number of choices.*got \[2, 3\]"):
        follow(mixed, ["0", "0"])
    twice = pd.concat([asked(id="q")] * 2)
    with pytest.raises(tlm.ModulesError, match=r"'q' twice\. Set n_chains"):
        tlm.thoughts.thought_states(talker, twice, **QUIET)
    with pytest.raises(tlm.ModulesError, match="they were read without"):
        follow(asked(), ["0"]).beside_correctness()


def test_chains_without_a_thought_say_nothing_of_modules():
    states = follow(asked(), ["0"]).states.assign(module_0=1.0)
    bare = Thoughts(states.loc[states["step"] == 0], 3, 1)
    with pytest.raises(tlm.ModulesError, match="At least one chain should hold a thought"):
        bare.beside_correctness()


def test_chains_that_might_leave_no_room_for_a_choice_are_refused_before_they_are_written(
    questions, monkeypatch
):
    model = tiny_model(known=[*WORDS, "."], n_ctx=16)
    options = {"style": "{question}", "lead": " so it is", **QUIET}
    # The question, the lead and all of "a red bird" but its last token are read.
    n_question = len(model.to_tokens("two plus one equals")[0])
    room = 16 - n_question - 3 - 2
    tlm.thoughts.thought_states(model, questions, n_new_tokens=room, **options)
    monkeypatch.setattr(model, "generate", None)
    said = "context of 16 tokens; got up to 17. Shorten them, or lower n_new_tokens"
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.thoughts.thought_states(model, questions, n_new_tokens=room + 1, **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lead": None}, 'lead should be a text; got None. Pass lead=""'),
        ({"style": None}, "style should be .* with '{question}'; got None"),
        ({"chains": 5}, "chains should be a list of texts; got 5. Pass one text per row"),
        ({"chains": iter(["0"])}, "chains should be a list of texts; got list_iterator"),
        ({"modules": list(lensed_modules())}, "modules should be a module set; got list. Pass the"),
        ({"modules": lensed_modules()[0]}, "modules should be a module set; got Module. Pass the"),
    ],
)
def test_what_is_of_another_type_is_refused(change, said):
    given = {"chains": ["0"]} | change
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        follow(asked(), given.pop("chains"), **given)


@pytest.mark.parametrize("lead", ["\nAnswer:\n", " The answer is", "<s>user\n", ""])
@pytest.mark.parametrize("separator", [" ", ""])
def test_lead_separator_and_choices_are_read_exactly_as_given(lead, separator):
    """The BOS of a lead stays, and none is put before it: it stands inside a text."""
    tokenizer = byte_tokenizer(["\nAnswer:\nParis", " The answer is Paris", "user\n"])
    model = tiny_model(tokenizer=tokenizer)
    led, ((paris, new_york),) = choice_tokens(model, [["Paris", "New York"]], lead, separator)
    assert led.tolist() == tokenizer(lead, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(paris.tolist()) == f"{separator}Paris"
    assert tokenizer.decode(new_york.tolist()) == f"{separator}New York"


def test_a_choice_is_measured_with_its_own_white_space_and_found_without_it():
    frame = question_frame(asked([" 1", "0\n"], "0"))
    assert frame["in_order"][0] == ["0\n", " 1"]
