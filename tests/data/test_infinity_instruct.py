import json

import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.data import select_abilities
from tl_modules.data.infinity_instruct import ABILITIES

PER_CATEGORY = 12


def row(key, prompt, abilities, language="en", speaker="human"):
    """A row as the dataset has them."""
    return {
        "id": key,
        "conversations": [
            {"from": speaker, "value": prompt},
            {"from": "gpt", "value": f"Answer to {key}."},
            {"from": "human", "value": "And then?"},
            {"from": "gpt", "value": "Nothing."},
        ],
        "label": {
            "ability_en": abilities,
            "ability_zh": ["逻辑推理"] * len(abilities),
            "cate_ability_en": ["logic and reasoning"],
            "cate_ability_zh": ["逻辑与推理"],
        },
        "langdetect": language,
        "source": "Subjective",
    }


ROWS = [
    row(f"{category}-{n:02}", f"A {category} request, {n}.", ["logical reasoning", label])
    for category, labels in ABILITIES.items()
    for n, label in zip(range(PER_CATEGORY), labels * PER_CATEGORY, strict=False)
]
TWO = row("two", "Prove it in Python.", ["mathematical proof", "python programming"])
NONE = row("none", "Cook a soup.", ["cooking ability"])
FRENCH = row("french", "Écris une histoire.", ["story writing"], language="fr")
SYSTEM = row("system", "You are a helpful assistant.", ["story writing"], speaker="gpt")
UNLABELLED = {**row("unlabelled", "Write a story.", []), "label": None}
SILENT = {**row("silent", "Write a story.", ["story writing"]), "conversations": []}
ODD = [TWO, NONE, FRENCH, SYSTEM, UNLABELLED, SILENT]
ALL = {"n_train": PER_CATEGORY, "n_test": 0}


def frame_of(rows):
    return pd.DataFrame(rows)


@pytest.fixture(params=["jsonl", "parquet"])
def from_file(request, tmp_path):
    """The rows, written to a file and read as pandas reads them."""
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        frame_of(ROWS + ODD).to_parquet(path)
        return pd.read_parquet(path)
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in ROWS + ODD))
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])


def test_each_category_gets_as_many_prompts_as_asked_for(from_file):
    train, test = select_abilities(from_file, n_train=7, n_test=4)
    for selected, count in ((train, 7), (test, 4)):
        assert list(selected.columns) == ["id", "category", "prompt"]
        assert selected["category"].value_counts().to_dict() == dict.fromkeys(ABILITIES, count)
    first = {one["id"]: one["conversations"][0]["value"] for one in ROWS}
    drawn = pd.concat([train, test])
    assert drawn["prompt"].is_unique  # so none is on both sides
    for one in drawn.itertuples():
        assert one.prompt == first[one.id]
        assert one.id.startswith(f"{one.category}-")


def test_the_seed_draws_and_the_order_of_the_rows_does_not():
    frame = frame_of(ROWS)
    first = select_abilities(frame, n_train=5, n_test=3)
    other = select_abilities(frame, n_train=5, n_test=3, seed=1)
    shuffled = select_abilities(frame.sample(frac=1, random_state=0), n_train=5, n_test=3)
    for one, two, three in zip(first, shuffled, other, strict=True):
        pd.testing.assert_frame_equal(one, two)
        assert set(one["prompt"]) != set(three["prompt"])


def test_the_draw_is_not_the_files_order():
    train, _ = select_abilities(frame_of(ROWS), n_train=5, n_test=3)
    coding = train.loc[train["category"] == "coding", "id"].tolist()
    assert coding != sorted(coding)


@pytest.mark.parametrize("category", ABILITIES)
def test_rows_that_fit_no_category_or_several_are_left_out(category):
    categories = {category: ABILITIES[category], **ABILITIES}  # this one first
    frame = frame_of(ROWS + ODD)
    train, _ = select_abilities(frame, **ALL, categories=categories)
    assert set(train["id"]) == {one["id"] for one in ROWS}
    with pytest.raises(tlm.ModulesError, match=rf"'{category}' .* = 13 prompts; got 12"):
        select_abilities(frame, n_train=PER_CATEGORY + 1, n_test=0, categories=categories)


def test_a_text_is_drawn_once_under_its_smallest_id():
    again = {**ROWS[0], "id": "again"}
    for rows in ([*ROWS, again], [again, *ROWS]):
        train, _ = select_abilities(frame_of(rows), **ALL)
        assert train.loc[train["prompt"] == "A coding request, 0.", "id"].tolist() == ["again"]
    with pytest.raises(tlm.ModulesError, match=r"'coding' .* = 13 prompts; got 12"):
        select_abilities(frame_of([*ROWS, again]), n_train=PER_CATEGORY, n_test=1)


@pytest.mark.parametrize(("category", "count"), [("coding", 11), ("writing", 12)])
def test_a_text_whose_rows_fit_two_categories_is_left_out(category, count):
    prompt = ROWS[0]["conversations"][0]["value"]  # of coding
    frame = frame_of([*ROWS, row("clash", prompt, ["creative writing"])])
    categories = {category: ABILITIES[category], **ABILITIES}  # this one first
    with pytest.raises(tlm.ModulesError, match=rf"'{category}' .* = 13 prompts; got {count}"):
        select_abilities(frame, n_train=13, n_test=0, categories=categories)


def test_one_language_is_kept_or_all():
    only_writing = {"writing": ABILITIES["writing"]}
    frame = frame_of([*ROWS, FRENCH])
    english, _ = select_abilities(frame, **ALL, categories=only_writing)
    assert "french" not in set(english["id"])
    french, _ = select_abilities(frame, n_train=1, n_test=0, categories=only_writing, language="fr")
    assert french["id"].tolist() == ["french"]
    everything, _ = select_abilities(
        frame.drop(columns="langdetect"),
        n_train=PER_CATEGORY + 1,
        n_test=0,
        categories=only_writing,
        language=None,
    )
    assert set(everything["id"]) == {*english["id"], "french"}


def test_malformed_rows_are_passed_over():
    odd = [
        row("number", 7, ["story writing"]),
        row("list", ["a"], ["story writing"]),
        row("space", "  ", ["story writing"]),
        row("labels", "Write.", [["story writing"], 3]),
        row("half", "Write \ud800.", ["story writing"]),
    ]
    train, _ = select_abilities(frame_of(ROWS + odd), **ALL)
    assert set(train["id"]) == {one["id"] for one in ROWS}


def test_categories_may_be_ones_own():
    train, test = select_abilities(
        frame_of([*ROWS, NONE]), n_train=1, n_test=0, categories={"Cooking": ["cooking ability"]}
    )
    assert train.to_dict("records") == [
        {"id": "none", "category": "Cooking", "prompt": "Cook a soup."}
    ]
    assert list(test.columns) == ["id", "category", "prompt"]
    assert test.empty


def test_too_few_prompts_are_refused_with_the_labels_that_were_looked_for():
    rows = [one for one in ROWS if not one["id"].startswith("ethical-0")]
    message = r"'ethical' should have .* = 1200 prompts; got 2 .* \['ethical analysis', "
    with pytest.raises(tlm.ModulesError, match=message):
        select_abilities(
            frame_of(rows), categories={"ethical": ABILITIES["ethical"]}, n_train=1000, n_test=200
        )


def test_the_papers_numbers_are_the_defaults():
    with pytest.raises(tlm.ModulesError, match=r"n_train \+ n_test = 1200 prompts; got 12"):
        select_abilities(frame_of(ROWS))


def test_the_seven_categories_are_those_of_the_projects_own_prompts():
    assert set(ABILITIES) == set(tlm.data.load_prompts()["category"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_train": 0}, "n_train should be at least 1"),
        ({"n_test": -1}, "n_test should be at least 0"),
        ({"seed": -1}, "seed should lie between"),
        ({"categories": {"a": ["x", "y"], "b": ["y"]}}, "'y' belongs to 'a' and 'b'"),
        ({"categories": {"a": "xyz"}}, "labels of 'a' should be a list"),
    ],
)
def test_what_cannot_be_selected_is_refused(options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        select_abilities(frame_of(ROWS), **options)


@pytest.mark.parametrize("column", ["id", "conversations", "label", "langdetect"])
def test_a_frame_of_another_shape_is_refused(column):
    with pytest.raises(tlm.ModulesError, match=rf"it lacks \['{column}'\]"):
        select_abilities(frame_of(ROWS).drop(columns=column))
