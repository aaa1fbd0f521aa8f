import pytest

import tl_modules as tlm
from tl_modules.data import load_prompts

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


@pytest.mark.parametrize("name", ["abilities", "recall", "reasoning"])
def test_prompts_hold_eight_to_sixty_words(name):
    words = load_prompts(name)["prompt"].str.split().str.len()
    assert words.between(8, 60).all()


@pytest.mark.parametrize("name", ["abilities", "recall", "reasoning"])
def test_no_two_prompts_share_their_first_six_words(name):
    found = openings(load_prompts(name)["prompt"])
    assert len(set(found)) == len(found)


def test_no_template_is_filled_in_again_and_again():
    for _, group in load_prompts().groupby("category"):
        first = group["prompt"].str.split().str[:2].str.join(" ").str.lower()
        assert first.value_counts().max() <= 4


@pytest.mark.parametrize("name", ["abilities", "recall", "reasoning"])
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
    with pytest.raises(tlm.ModulesError, match="one of 'abilities', 'recall', 'reasoning'"):
        load_prompts("abilties")
