import unicodedata

import pytest

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.corpora import CORPORA

CATEGORIES = {"coding", "math", "linguistic", "knowledge", "translation", "ethical", "writing"}


def openings(prompts):
    return [" ".join(prompt.lower().split()[:6]) for prompt in prompts]


def test_the_seven_categories_have_at_least_forty_prompts_each():
    counts = load_prompts()["category"].value_counts()
    assert set(counts.index) == CATEGORIES
    assert counts.min() >= 40


@pytest.mark.parametrize("name", ["recall", "reasoning"])
def test_recall_and_reasoning_have_at_least_forty_prompts_with_short_answers(name):
    frame = load_prompts(name)
    assert len(frame) >= 40
    assert set(frame["category"]) == {name}
    assert frame["answer"].str.split().str.len().between(1, 3).all()
    assert frame["answer"].value_counts().max() <= 3
    assert not frame["prompt"].str.endswith(" ").any()
    assert set(frame["separator"]) == {" "}


def test_each_question_has_four_choices_and_the_answer_stands_at_every_place_alike():
    frame = load_prompts("choices")
    assert set(frame["category"].value_counts()) == {8}
    assert set(frame["separator"]) == {" "}
    assert all(len(set(choices)) == 4 for choices in frame["choices"])
    places = [row.choices.index(row.answer) for row in frame.itertuples()]
    assert [places.count(at) for at in range(4)] == [6, 6, 6, 6]
    assert frame["answer"].value_counts().max() <= 2
    lengths = frame["choices"].explode().str.split().str.len().groupby(level=0)
    assert (lengths.max() - lengths.min() <= 1).all()


def test_a_premise_is_implicit_or_late_and_the_explicit_question_says_it_first():
    frame = load_prompts("premises")
    assert frame["category"].value_counts().to_dict() == {"implicit": 12, "late": 12}
    assert all(len(set(choices)) == 4 for choices in frame["choices"])
    for _, group in frame.groupby("category"):
        places = [row.choices.index(row.answer) for row in group.itertuples()]
        assert [places.count(at) for at in range(4)] == [3, 3, 3, 3]
    lengths = frame["choices"].explode().str.split().str.len().groupby(level=0)
    assert (lengths.max() - lengths.min() <= 1).all()
    assert frame["explicit"].str.endswith("?").all()
    late = frame["category"] == "late"
    assert frame.loc[late, "prompt"].str.endswith(".").all()
    assert frame.loc[~late, "prompt"].str.endswith("?").all()
    assert frame["explicit"].str.split().str.len().between(8, 60).all()
    assert len(set(openings(frame["explicit"]))) == len(frame)


def test_contrasts_come_in_pairs_of_twenty():
    frame = load_prompts("contrasts")
    counts = frame["category"].value_counts()
    assert counts.to_dict() == dict.fromkeys(("formal", "informal", "english", "french"), 20)
    numbers = frame["id"].str.split("-").str[1]
    for _, group in numbers.groupby(frame["category"]):
        assert group.tolist() == sorted(set(group))
    lengths = frame["prompt"].str.split().str.len()
    assert lengths.between(7, 20).all()


def test_contrasts_of_other_genres_share_the_categories_and_no_prompt():
    near, far = load_prompts("contrasts"), load_prompts("contrasts-ood")
    counts = far["category"].value_counts()
    assert counts.to_dict() == dict.fromkeys(near["category"].unique(), 10)
    assert not set(near["prompt"]) & set(far["prompt"])
    assert not set(near["id"]) & set(far["id"])


SCRIPTS = {
    **{name: {"LATIN"} for name in ("english", "german", "spanish", "turkish", "swahili")},
    "russian": {"CYRILLIC"},
    "arabic": {"ARABIC"},
    "hindi": {"DEVANAGARI"},
    "chinese": {"CJK"},
    "japanese": {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK", "IDEOGRAPHIC"},
}


def test_parallel_prompts_have_every_meaning_once_in_every_language():
    frame = load_prompts("parallel")
    counts = frame.groupby(["category", "meaning"]).size().unstack()
    assert counts.shape == (10, 40)
    assert (counts == 1).all(axis=None)
    # The same order everywhere, so that rows can be paired by number.
    assert frame.groupby("category")["meaning"].agg(list).map(tuple).nunique() == 1


def test_each_parallel_prompt_is_in_its_languages_script_and_composed():
    frame = load_prompts("parallel")
    for language, prompt in zip(frame["category"], frame["prompt"], strict=True):
        found = {unicodedata.name(letter).split()[0] for letter in prompt if letter.isalpha()}
        assert found <= SCRIPTS[language], prompt
        assert unicodedata.is_normalized("NFC", prompt)


def test_a_meaning_is_a_question_in_all_languages_or_in_none():
    frame = load_prompts("parallel")
    ends = frame["prompt"].str.strip().str[-1]
    # Japanese marks its questions by a particle before the full stop.
    marks = ["?", "\N{FULLWIDTH QUESTION MARK}", "\N{ARABIC QUESTION MARK}"]
    is_question = ends.isin(marks) | frame["prompt"].str.endswith("か。")
    shares = is_question.groupby(frame["meaning"]).mean()
    assert set(shares) == {0, 1}
    assert (shares == 1).sum() == 10


@pytest.mark.parametrize("name", ["abilities", "choices", "premises", "recall", "reasoning"])
def test_prompts_hold_eight_to_sixty_words(name):
    words = load_prompts(name)["prompt"].str.split().str.len()
    assert words.between(8, 60).all()


@pytest.mark.parametrize("name", CORPORA)
def test_no_two_prompts_share_their_first_six_words(name):
    found = openings(load_prompts(name)["prompt"])
    assert len(set(found)) == len(found)


def test_no_template_is_filled_in_again_and_again():
    for _, group in load_prompts().groupby("category"):
        first = group["prompt"].str.split().str[:2].str.join(" ").str.lower()
        assert first.value_counts().max() <= 4


@pytest.mark.parametrize("name", CORPORA)
def test_ids_are_unique_and_begin_with_the_category(name):
    frame = load_prompts(name)
    assert frame["id"].is_unique
    for row in frame.itertuples():
        assert row.id.startswith(f"{row.category}-")


def test_nothing_of_the_public_benchmark_is_in_the_projects_prompts(shared):
    import json

    text = (shared / "data" / "abilities-public.jsonl").read_text()
    public = set(openings(json.loads(line)["prompt"] for line in text.splitlines()))
    assert not public & set(openings(load_prompts()["prompt"]))


def test_an_unknown_corpus_is_refused():
    with pytest.raises(tlm.ModulesError, match="one of 'abilities', 'choices', 'co"):
        load_prompts("abilties")
