import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm


@pytest.fixture(scope="module")
def interpreted(model, modules):
    return tlm.with_topics(modules, model, progress=False)


def with_samples(modules, **columns):
    """The set with other columns of samples."""
    return replace(modules, samples=modules.samples.assign(**columns))


def test_every_module_gets_a_topic(interpreted, modules):
    assert modules[0].topic is None
    assert len(interpreted.topics) == 3
    for module, topic in zip(interpreted, interpreted.topics, strict=True):
        assert module.topic is topic
        assert topic.prompts == tuple(module.samples["prompt"].head(5))
        assert topic.contexts
        assert topic.promoted
        assert topic.suppressed
        assert topic.notes == ()


def test_contexts_stand_in_the_topics_prompts(interpreted):
    for topic in interpreted.topics:
        for context in topic.contexts:
            parts = (context.before, context.token, context.after)
            assert " ".join(filter(None, parts)) in topic.prompts[context.prompt]


def test_categories_are_shares_largest_first(interpreted):
    for module, topic in zip(interpreted, interpreted.topics, strict=True):
        counts = module.samples["category"].value_counts(normalize=True)
        assert topic.categories == pytest.approx(counts.to_dict())
        assert list(topic.categories.values()) == sorted(topic.categories.values(), reverse=True)


def test_without_a_model_the_samples_alone_tell(modules, interpreted):
    for topic, whole in zip(tlm.with_topics(modules).topics, interpreted.topics, strict=True):
        assert (topic.label, topic.words, topic.prompts) == (
            whole.label,
            whole.words,
            whole.prompts,
        )
        assert topic.contexts == topic.promoted == topic.suppressed == ()
        assert "tlm.with_topics(modules, model)" in topic.notes[0]


def test_what_cannot_be_found_is_said_and_the_rest_is_there(model, modules):
    found = tlm.with_topics(replace(modules, unit_means=None), model, progress=False).topics[0]
    assert found.contexts
    assert found.promoted == ()
    assert found.notes[0].startswith("An output direction needs the units' mean activations")


def test_modules_of_another_model_are_refused(modules, other_model):
    with pytest.raises(tlm.ModulesError, match="units should be those of the model"):
        tlm.with_topics(modules, other_model, progress=False)


def test_samples_without_prompts_are_refused(modules):
    without = replace(modules, samples=modules.samples.drop(columns="prompt"))
    with pytest.raises(tlm.ModulesError, match="samples should have a column 'prompt'") as refused:
        tlm.with_topics(without)
    # Nothing to rename: these modules have been discovered on activations without prompts.
    assert "Discover on activations that hold their prompts" in str(refused.value)
    assert "Rename" not in str(refused.value)


@pytest.mark.parametrize("name", ["n_words", "n_prompts", "n_contexts", "n_tokens"])
def test_asking_for_none_is_refused(modules, name):
    with pytest.raises(tlm.ModulesError, match=f"{name} should be at least 1; got 0"):
        tlm.with_topics(modules, **{name: 0})


def test_a_label_is_the_dominant_category_and_the_most_distinctive_words(modules):
    labels = modules.sample_labels
    own = np.array(["python function", "poem rhyme", "goal football"])
    categories = np.array(["coding", "writing", "sport"])
    found = tlm.with_topics(with_samples(modules, prompt=own[labels], category=categories[labels]))
    assert [topic.label for topic in found.topics] == [
        "coding: function, python",
        "writing: poem, rhyme",
        "sport: football, goal",
    ]


def test_a_category_of_no_majority_is_no_label(acts):
    modules = tlm.discover(acts, 3, method="ulcmod")  # each with more than two samples
    n_samples = len(modules.samples)
    words = np.array(["python", "poem", "goal"])[modules.sample_labels]
    found = with_samples(modules, prompt=words, category=[f"{i}" for i in range(n_samples)])
    assert [topic.label for topic in tlm.with_topics(found).topics] == ["python", "poem", "goal"]


def test_the_categorys_own_name_is_not_repeated(modules):
    words = np.array(["coding python", "poem", "goal"])[modules.sample_labels]
    found = tlm.with_topics(with_samples(modules, prompt=words, category="Coding"))
    assert found.topics[0].label == "Coding: python"


def test_a_label_holds_no_word_twice(modules):
    words = np.array(["function functions code", "poem", "goal"])[modules.sample_labels]
    found = tlm.with_topics(with_samples(modules, prompt=words, category="all"))
    assert found.topics[0].label == "all: code, function"


def test_labels_differ_where_nothing_tells_modules_apart(modules):
    found = tlm.with_topics(with_samples(modules, prompt="alike", category="same"))
    assert [topic.label for topic in found.topics] == ["same", "same (1)", "same (2)"]
    nameless = modules.samples.drop(columns="category").assign(prompt="alike")
    found = tlm.with_topics(replace(modules, samples=nameless))
    assert [topic.label for topic in found.topics] == ["module 0", "module 1", "module 2"]
    assert found.topics[0].categories == {}


def test_a_module_without_samples_is_named_by_its_number(modules):
    labels = np.where(modules.sample_labels == 2, 1, modules.sample_labels)
    found = tlm.with_topics(replace(modules, sample_labels=labels))
    assert found.topics[2].label == "module 2"
    assert found.topics[2].prompts == ()
    assert found.describe()["top_prompt"].isna().tolist() == [False, False, True]


def test_topics_are_saved_with_the_set(interpreted, tmp_path):
    interpreted.save(tmp_path / "modules.safetensors")
    found = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    assert found.topics == interpreted.topics
    assert found[1].topic.contexts[0].value == interpreted[1].topic.contexts[0].value


def test_a_set_that_was_not_interpreted_is_saved_without(modules, tmp_path):
    modules.save(tmp_path / "modules.safetensors")
    assert tlm.ModuleSet.load(tmp_path / "modules.safetensors").topics is None


def malformed():
    """Changes to a topic's description that no topic gives."""
    yield "label", 3
    yield "categories", ["coding"]
    yield "categories", {"coding": "most"}
    yield "words", "cat"
    yield "words", [["cat"]]
    yield "words", [["cat", float("nan")]]
    yield "prompts", [None]
    yield "contexts", [["a", "b", "c", 1.0, 99]]
    yield "contexts", [["a", "b", "c", 1.0, -1]]
    yield "contexts", [["a", "b", "c", True, 0]]
    yield "promoted", [["cat", 1.0]]
    yield "suppressed", None
    yield "chance_z", "2"
    yield "chance_z", 10**400
    yield "notes", [1]


@pytest.mark.parametrize(("name", "value"), list(malformed()))
def test_a_malformed_topic_is_refused(interpreted, name, value):
    described = interpreted.topics[0].to_dict()
    with pytest.raises(tlm.ModulesError, match="The file's topic is malformed"):
        tlm.Topic.from_dict({**described, name: value})
    del described[name]
    with pytest.raises(tlm.ModulesError, match="The file's topic is malformed"):
        tlm.Topic.from_dict(described)


def test_a_topic_goes_through_json_unchanged(interpreted):
    for topic in interpreted.topics:
        assert tlm.Topic.from_dict(json.loads(json.dumps(topic.to_dict()))) == topic


def test_a_topic_saved_before_labels_could_be_given_is_read(interpreted):
    described = interpreted.topics[0].to_dict()
    del described["label_is_given"]
    assert tlm.Topic.from_dict(described) == interpreted.topics[0]
    with pytest.raises(tlm.ModulesError, match="The file's topic is malformed"):
        tlm.Topic.from_dict({**described, "label_is_given": 1})


def test_as_many_topics_as_modules_are_asked_for(interpreted):
    with pytest.raises(tlm.ModulesError, match="one entry per module, 3; they have 2"):
        replace(interpreted, topics=interpreted.topics[:2])


def test_the_description_has_one_row_a_module(interpreted):
    frame = interpreted.describe()
    assert frame.columns.tolist() == [
        "module",
        "label",
        "category",
        "category_share",
        "words",
        "promoted",
        "suppressed",
        "top_prompt",
        "n_units",
        "n_samples",
    ]
    table = interpreted.to_frame()
    for name in ("module", "category", "category_share", "n_units", "n_samples"):
        pd.testing.assert_series_equal(frame[name], table[name])
    topic = interpreted.topics[1]
    assert frame["label"][1] == topic.label
    assert frame["words"][1].split(", ") == [word.word for word in topic.words]
    clear = [token for token in topic.promoted if token.z > topic.chance_z]
    assert frame["promoted"][1] == ", ".join(repr(token.token) for token in clear)
    assert frame["top_prompt"][1] == topic.prompts[0]


def test_describing_what_was_not_interpreted_says_how_to(modules):
    with pytest.raises(tlm.ModulesError, match=r"tlm\.with_topics\(modules, model\)"):
        modules.describe()


def test_the_notebook_shows_labels_once_they_are_there(interpreted, modules):
    label = interpreted.topics[0].label
    assert label in interpreted._repr_html_()
    assert label in interpreted[0]._repr_html_()
    assert label not in modules._repr_html_()


def test_labels_are_text_not_markup(modules):
    found = tlm.with_topics(with_samples(modules, category="<b>x</b>"))
    assert "<b>x" not in found._repr_html_()
    assert "<b>x" not in found[0]._repr_html_()


def test_setting_units_aside_forgets_what_all_units_write(interpreted, acts):
    assert tlm.set_aside_background(acts, interpreted).topics is None


def test_one_seed_gives_one_topic(model, modules, interpreted):
    assert tlm.with_topics(modules, model, progress=False).topics == interpreted.topics
    assert tlm.with_topics(modules, model, seed=1, progress=False).topics != interpreted.topics
