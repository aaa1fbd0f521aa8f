"""Several annotators' answers become labels with probabilities; what is no answer is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.evaluation.test_dawid_skene import EXPECTED, RIGHT, planted
from tl_modules.evaluation import annotate, annotations
from tl_modules.evaluation.dawid_skene import dawid_skene

NAMES = {"1": "code", "2": "verse"}


@pytest.fixture(scope="module")
def patterns():
    return planted()[0]


@pytest.fixture(scope="module")
def annotators(patterns):
    """Three lists of answers, whose fit test_dawid_skene.py works out by hand."""
    names = ("lexicon", "model", "ada")
    return {name: [NAMES[row[at]] for row in patterns] for at, name in enumerate(names)}


@pytest.fixture(scope="module")
def texts(patterns):
    return [f"prompt {number}" for number in range(len(patterns))]


@pytest.fixture(scope="module")
def found(texts, annotators):
    return annotate(texts, annotators, progress=False)


@pytest.fixture(scope="module")
def refits(found, texts):
    return found.refitted(texts, 40, seed=0)


def test_the_result_is_the_models(found, patterns, texts):
    assert found.labels == ["code", "verse"]
    table = found.table
    assert table["prompt"].tolist() == texts
    assert table["n_answers"].eq(3).all()
    assert not table["tied"].any()
    row = patterns.index("122")
    assert table["category"][row] == "code"  # a vote would say verse
    assert table["probability"][row] == pytest.approx(9 / 13, abs=1e-3)
    assert found.probabilities[patterns.index("222"), 1] == pytest.approx(36 / 37, abs=1e-3)
    assert found.quality["annotator"].tolist() == ["lexicon", "model", "ada"]
    np.testing.assert_allclose(found.quality["accuracy"], RIGHT, atol=1e-3)
    confusion = found.confusion("ada")
    assert confusion.index.tolist() == confusion.columns.tolist() == ["code", "verse"]
    assert confusion.loc["code", "verse"] == pytest.approx(1 / 3, abs=1e-3)
    assert "180 prompts, 3 annotators" in repr(found)
    assert "lexicon" in found._repr_html_()
    with pytest.raises(tlm.ModulesError, match="annotator should be one of 'lexicon', 'model'"):
        found.confusion("bob")


def test_functions_lists_and_columns_answer_alike(found, texts, annotators):
    by_text = dict(zip(texts, annotators["model"], strict=True))
    mixed = {
        "lexicon": pd.Series(annotators["lexicon"]),
        "model": by_text.get,
        "ada": np.array(annotators["ada"]),
    }
    frame = pd.DataFrame({"prompt": texts, "source": "x"}, index=range(100, 280))
    again = annotate(frame, mixed, progress=False)
    pd.testing.assert_frame_equal(again.table, found.table)
    numbered = annotate(texts, list(annotators.values()), progress=False)
    assert numbered.quality["annotator"].tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(numbered.probabilities, found.probabilities)


def test_the_bar_counts_the_answers_of_functions(texts, annotators, capsys):
    annotate(texts, annotators | {"rule": lambda text: "code" if len(text) > 8 else "verse"})
    assert "180/180" in capsys.readouterr().err


def test_abstentions_count_neither_for_nor_against(texts, annotators, patterns):
    silent = ["code" if at < 7 else (None, float("nan"), " ", pd.NA)[at % 4] for at in range(180)]
    verse = patterns.index("222")
    silent[verse] = "verse"
    found = annotate(texts, annotators | {"silent": silent}, progress=False)
    assert found.quality["n_answers"].tolist() == [180, 180, 180, 8]
    answered = [at < 7 or at == verse for at in range(180)]
    assert found.table["n_answers"].tolist() == [3 + more for more in answered]
    assert found.quality["accuracy"][3] > 0.9
    nothing = annotate(texts, annotators | {"nothing": [None] * 180}, progress=False)
    assert np.isnan(nothing.quality["accuracy"][3])
    assert nothing.confusion("nothing").isna().all(axis=None)
    np.testing.assert_allclose(
        nothing.probabilities, annotate(texts, annotators, progress=False).probabilities, atol=1e-6
    )


def test_of_equally_probable_labels_the_first_is_taken_and_the_tie_is_told():
    # Two annotators who never agree, and no third: nothing tells who is right.
    with pytest.warns(UserWarning, match="confusion of 3 or more annotators"):
        found = annotate(["a", "b"], [["x", "y"], ["y", "x"]], labels=["y", "x"], progress=False)
    assert found.table["category"].tolist() == ["y", "y"]
    assert found.table["tied"].all()
    assert found.table["probability"].tolist() == [0.5, 0.5]


def test_one_annotator_is_believed_with_a_warning():
    with pytest.warns(UserWarning, match="there are 1"):
        found = annotate(["a", "b", "c"], {"rule": ["x", "y", None]}, progress=False)
    assert found.table["category"].tolist()[:2] == ["x", "y"]
    assert found.table["probability"].tolist()[:2] == [1.0, 1.0]
    assert found.table["n_answers"].tolist() == [1, 1, 0]


def test_annotators_that_never_answer_do_not_count_as_annotators(texts, annotators):
    two = {name: annotators[name] for name in ("lexicon", "model")}
    with pytest.warns(UserWarning, match="there are 2"):
        annotate(texts, two | {"silent": [None] * 180}, progress=False)


def test_annotators_of_a_single_label_tell_nothing_and_are_named(texts, annotators, found):
    rule = [label if label == "code" else None for label in annotators["lexicon"]]
    with pytest.warns(UserWarning, match="'rule' gives 'code' alone. Let it return another"):
        again = annotate(texts, annotators | {"rule": rule}, progress=False)
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-3)
    two = {name: annotators[name] for name in ("lexicon", "model")}
    with (
        pytest.warns(UserWarning, match="'rule' gives 'code' alone"),
        pytest.warns(UserWarning, match="different labels can be told .* there are 2"),
    ):
        annotate(texts, two | {"rule": rule}, progress=False)


def test_a_single_label_in_all_is_no_reason_to_warn():
    found = annotate(["a", "b"], [["x", "x"], ["x", None], ["x", "x"]], progress=False)
    assert found.table["category"].tolist() == ["x", "x"]


def test_unanimous_prompts_are_certain_in_every_fit(texts):
    truth = ["code" if at % 3 else "verse" for at in range(180)]
    found = annotate(texts, [truth] * 3, progress=False)
    assert found.table["category"].tolist() == truth
    assert found.table["probability"].eq(1.0).all()
    is_code = np.array(truth) == "code"
    assert (found.refitted(texts, 5, seed=0).probabilities[..., 0] == is_code).all()


def test_a_label_that_nobody_gives_has_no_probability_in_any_fit(texts, annotators):
    labels = ["prose", "code", "verse"]
    found = annotate(texts, annotators, labels=labels, progress=False)
    assert found.labels == labels
    assert (found.probabilities[:, 0] == 0).all()
    assert found.confusion("ada").loc["prose"].isna().all()
    assert (found.refitted(texts, 5, seed=0).probabilities[..., 0] == 0).all()


def test_numbers_are_labels_as_in_every_column(texts):
    found = annotate(texts[:4], [[1, 1.0, 0, 0], ["1", 1, 0, " 0"], [1, 1, 0, 0]], progress=False)
    assert found.labels == ["0", "1"]
    assert found.table["category"].tolist() == ["1", "1", "0", "0"]


def test_refits_are_fits_to_weighted_prompts_and_repeat(refits, found, texts, patterns):
    assert refits.weights.shape == (40, 180)
    np.testing.assert_allclose(refits.weights.mean(axis=1), 1.0)
    assert refits.weights.std() == pytest.approx(1.0, abs=0.1)  # exponential
    for pattern, probability in EXPECTED.items():
        rows = [at for at, each in enumerate(patterns) if each == pattern]
        of_pattern = refits.probabilities[:, rows, 0]
        assert of_pattern.mean() == pytest.approx(probability, abs=0.15)
        assert of_pattern.std(axis=0).min() > 0.005
    expected = dawid_skene(found.counts, refits.weights[3], found.probabilities).probabilities
    np.testing.assert_array_equal(refits.probabilities[3], expected)
    again, other = (found.refitted(texts, 40, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(refits.probabilities, again.probabilities)
    assert (refits.weights != other.weights).any()


def test_refits_stay_near_the_fit_and_do_not_switch_its_labels(found, texts, patterns):
    # Both labels' names can change places in this model. A refit starts where the fit ended.
    switched = replace(found, probabilities=found.probabilities[:, ::-1])
    rows = [at for at, each in enumerate(patterns) if each == "111"]
    for each, expected in ((found, 36 / 37), (switched, 1 / 37)):
        of_code = each.refitted(texts, 5, seed=0).probabilities[:, rows, 0]
        assert of_code.mean() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["prompt 0"], "should be the 180 annotated ones; got 1"),
        ([f"prompt {at}" for at in range(1, 181)], "prompt 0 is 'prompt 1', and 'prompt 0'"),
    ],
)
def test_labels_are_refitted_for_the_annotated_prompts_alone(found, others, message):
    with pytest.raises(tlm.ModulesError, match=message):
        found.refitted(others, 2, seed=0)


def says(answer):
    return lambda text: answer


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([says("code"), says("verse "), says("prose")], {"labels": ["code", "verse"]}, "'prose'"),
        ([says(["code"])], {}, "'0' answers list to prompt 0. Return the label alone"),
        ({"rule": ["code"]}, {}, "for each of the 2 prompts; 'rule' has 1"),
        ({"rule": "code"}, {}, "'rule' is 'code'. Pass the function"),
        ({"rule": 3}, {}, "'rule' is 3. Pass the function"),
        ({"rule": {"code", "verse"}}, {}, "'rule' is set"),
        ([says(None)], {}, "all abstain everywhere"),
        ([], {}, "at least one annotator, each with a text as name; got none"),
        ([says("a")], {"labels": "a"}, "labels should be a list of labels; got 'a'"),
        ([says("a")], {"labels": ["a", None]}, "labels should be texts or numbers"),
        ([says("a")], {"labels": ["b"]}, "one of the labels 'b'; '0' answers 'a' to prompt 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Space around categories")
def test_what_is_no_answer_is_refused(given, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        annotate(["one", "two"], given, **options, progress=False)


def test_what_an_annotator_raises_reaches_its_author():
    with pytest.raises(ZeroDivisionError):
        annotate(["one"], [lambda text: 1 / 0], progress=False)


def test_a_fit_that_does_not_converge_is_told(texts, annotators, monkeypatch):
    monkeypatch.setattr("tl_modules.evaluation.dawid_skene.LIMIT", 2)
    with pytest.warns(UserWarning, match="did not converge"):
        annotations.annotate(texts, annotators, progress=False)
