"""The audit of labels finds planted mistakes, and refuses labels that cannot be audited."""

import builtins

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.evaluation import label_audit
from tl_modules.evaluation.label_audit import _out_of_sample

TRUTH = np.repeat(["code", "verse"], [12, 6])


def matrix(prompts=None):
    """Two modules of two units each; prompts of a category drive one of them, 10 against 0.

    Prompts of one category differ a little, so that no unit is constant.
    """
    apart = 0.1 * (np.arange(18) % 3)
    values = np.stack([10 * (name == TRUTH) + apart for name in ("code", "verse")], axis=1)
    samples = {"prompt": prompts or [f"p{row}" for row in range(18)], "category": TRUTH}
    return tlm.ActivationMatrix.from_arrays(
        np.repeat(values, 2, axis=1), samples=pd.DataFrame(samples)
    )


@pytest.fixture(scope="module")
def acts():
    return matrix()


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 2, progress=False)


@pytest.mark.parametrize("of", ["modules", "components"])
def test_one_wrong_label_of_a_frequent_and_one_of_a_rare_category_are_found(of, acts, modules):
    given = TRUTH.copy()
    given[[4, 14]] = "verse", "code"
    audit = label_audit(acts, given, modules=modules if of == "modules" else None, n_folds=3)
    assert audit.profile == of
    assert audit.table["row"].tolist()[:2] in ([4, 14], [14, 4])
    flagged = audit.table[audit.table["issue"]].sort_values("row")
    assert flagged[["row", "prompt", "given", "suggested"]].to_numpy().tolist() == [
        [4, "p4", "verse", "code"],
        [14, "p14", "code", "verse"],
    ]
    assert (audit.table["quality"].iloc[2:] > audit.table["quality"].iloc[1]).all()
    assert audit.table["quality"].between(0, 1).all()
    # 12 code, one lost to verse and one gained from it; 6 verse, likewise.
    summary = audit.summary.set_index("category")
    assert summary["n"].to_dict() == {"code": 12, "verse": 6}
    assert summary["n_issues"].to_dict() == {"code": 1, "verse": 1}
    assert summary["n_suggested"].to_dict() == {"code": 1, "verse": 1}
    assert summary["share_issues"].to_dict() == {"code": 1 / 12, "verse": 1 / 6}
    assert "2 of 18 labels flagged" in repr(audit)
    assert "p14" in audit._repr_html_()


def test_right_labels_are_not_flagged(acts, modules):
    audit = label_audit(acts, modules=modules, n_folds=3)
    assert not audit.table["issue"].any()
    assert (audit.table["suggested"] == audit.table["given"]).all()
    assert sorted(audit.table["row"]) == list(range(18))


def test_one_label_for_every_prompt_of_a_store_that_has_modules(acts, modules, tmp_path):
    given = TRUTH.copy()
    given[4] = "verse"
    with tlm.ActivationStore.create(tmp_path / "store", acts.units, samples_per_chunk=9) as writer:
        writer.add(acts.values, acts.samples)
    store = tlm.ActivationStore(tmp_path / "store")
    found = label_audit(store, given, modules=modules, n_folds=3).table
    assert found.loc[found["issue"], "row"].tolist() == [4]
    with pytest.raises(tlm.ModulesError, match=r"got a store. Pass modules=, or store.matrix\(\)"):
        label_audit(store, given, n_folds=3)


def test_weights_keep_a_rare_label_from_being_taken_for_a_frequent_one():
    # 100 and 5 prompts whose profiles overlap: without weights the frequent label is likelier.
    generator = np.random.default_rng(0)
    truth = np.repeat(["head", "tail"], [100, 5])
    values = generator.normal(size=(105, 1)) + 2.0 * (truth == "tail")[:, None]
    acts = tlm.ActivationMatrix.from_arrays(values)

    def suggested(weights):
        table = label_audit(acts, truth, weights=weights).table
        found = table.groupby("given")["suggested"].agg(lambda labels: (labels == "tail").sum())
        return found.to_dict()

    equal, root, balanced = (suggested(weights) for weights in ("equal", "root", "balanced"))
    assert equal["tail"] == 0
    assert balanced["tail"] >= 3
    assert equal["head"] <= root["head"] < balanced["head"]
    assert equal["tail"] <= root["tail"] <= balanced["tail"]


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [1, 1]), (0.5, [5 / 6, 5 / 3]), (1.0, [0.625, 2.5])]
)
def test_a_prompts_weight_is_by_hand(power, expected, monkeypatch):
    # 16 prompts of 1 / 4 and 4 of 1 / 2, which have a mean of 0.3; and 1 / 16 and 1 / 4, of 0.1.
    from sklearn.linear_model import LogisticRegression

    given = []
    real = LogisticRegression.fit

    def spied(self, values, labels, sample_weight):
        given.append((labels, sample_weight))
        return real(self, values, labels, sample_weight=sample_weight)

    monkeypatch.setattr(LogisticRegression, "fit", spied)
    codes = np.repeat([0, 1], [20, 5])
    values = np.random.default_rng(0).normal(size=(25, 2))
    out = np.isin(np.arange(25), [0, 1, 2, 3, 20])
    _out_of_sample(values, codes, iter([out]), power)
    ((labels, weights),) = given
    for code, weight in enumerate(expected):
        np.testing.assert_allclose(weights[labels == code], weight)


def test_prompts_with_the_same_text_never_help_to_predict_each_other():
    # Noise tells nothing, so that only a twin in another fold could tell a prompt's label.
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(size=(40, 100)), 2, axis=0)
    labels = np.repeat(generator.permutation(np.repeat(["a", "b"], 20)), 2)

    def agreement(prompts):
        samples = pd.DataFrame({"prompt": prompts})
        acts = tlm.ActivationMatrix.from_arrays(values, samples=samples)
        table = label_audit(acts, labels, n_components=39).table
        return (table["given"] == table["suggested"]).mean()

    assert agreement([f"p{row}" for row in range(80)]) > 0.85
    # White space at the end of a text makes no other prompt of it.
    assert agreement([f"p{row // 2}" + " " * (row % 2) for row in range(80)]) < 0.6


def test_prompts_without_a_text_have_no_such_column():
    values = np.where(TRUTH == "code", 1.0, 0.0)[:, None] + np.linspace(0, 0.1, 18)[:, None]
    table = label_audit(tlm.ActivationMatrix.from_arrays(values), TRUTH, n_folds=3).table
    assert "prompt" not in table


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["code"] * 18, "at least two labels, so that one can be wrong; all 18 .* 'code'"),
        ([*TRUTH[:-1], "solo"], "at least n_folds=3 different prompts; 'solo' has 1. Add prompts"),
        ([*TRUTH[:-1], None], "Every prompt should have a category; prompt 17 has none"),
        ([*TRUTH[:-1], " "], "Every prompt should have a category; prompt 17 has none"),
        (TRUTH[:-1], "one label for each of the 18 prompts; got 17. Pass them in the order"),
        ("code", "labels should be one label per prompt; got 'code'"),
    ],
)
def test_labels_that_cannot_be_audited_are_refused(labels, message, acts):
    with pytest.raises(tlm.ModulesError, match=message):
        label_audit(acts, labels, n_folds=3)


def test_prompts_that_repeat_count_once_for_the_folds():
    acts = matrix([f"p{row}" for row in range(12)] + ["the same"] * 6)
    with pytest.raises(tlm.ModulesError, match=r"'verse' has 1\. Add prompts"):
        label_audit(acts, n_folds=3)


def test_prompts_without_categories_need_labels():
    acts = tlm.ActivationMatrix.from_arrays(np.eye(4), samples={"Category": list("aabb")})
    with pytest.raises(tlm.ModulesError, match=r"there are none\. Rename 'Category' to 'category'"):
        label_audit(acts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_folds": 1}, "n_folds should be at least 2"),
        ({"n_components": 0}, "n_components should be at least 1"),
        ({"weights": "inverse"}, "weights should be one of 'equal', 'root', 'balanced'"),
        ({"seed": -1}, "seed should lie between"),
    ],
)
def test_options_out_of_range_are_refused(options, message, acts):
    with pytest.raises(tlm.ModulesError, match=message):
        label_audit(acts, **options)


def test_modules_of_other_units_are_refused(modules):
    other = tlm.ActivationMatrix.from_arrays(np.arange(36.0).reshape(18, 2))
    with pytest.raises(tlm.ModulesError, match="have the modules' units"):
        label_audit(other, TRUTH, modules=modules)


def test_without_cleanlab_it_says_what_to_install(monkeypatch, acts):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "cleanlab":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(tlm.ModulesError, match=r"pip install 'tl_modules\[labels\]'"):
        label_audit(acts, n_folds=3)
