import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm


def effects_of(*modules):
    """A table with two categories; each module's numbers, and what ``module_effects`` would add."""
    rows = []
    for label, given in enumerate(modules):
        numbers = {"p": 0.01, "n": 99, "own": 1.0, "other": 0.25, "shared": False} | given
        for category in ("art", "law"):
            is_own = category == numbers.get("category", "art")
            gap = numbers["own"] - numbers["other"]
            rows.append(
                {
                    "module": label,
                    "category": category,
                    "own": is_own,
                    "effect": numbers["own"] if is_own else numbers["other"],
                    "selectivity": numbers.get("selectivity", gap),
                    "selectivity_ci_low": gap - 0.5,
                    "selectivity_ci_high": gap + 0.5,
                    "selectivity_control_mean": 0.05,
                    "selectivity_control_std": 0.1,
                    "selectivity_control_max": 0.4,
                    "selectivity_p_value": numbers["p"],
                    "n_controls": numbers["n"],
                    "shared_by_all": numbers["shared"],
                }
            )
    return pd.DataFrame(rows)


def test_each_module_gets_the_verdict_of_its_numbers():
    effects = effects_of(
        {"p": 0.01},
        {"p": 0.3},
        {"p": 0.01, "shared": True},
        {"p": 0.25, "n": 3},
        {"p": np.nan, "selectivity": np.nan, "category": "none"},
        {"p": np.nan, "n": 0},
        {"p": 0.02},
    )
    found = tlm.verdicts(effects)
    assert found["verdict"].tolist() == [
        "selective",
        "not beyond its controls",
        "shared by all",
        "too few controls to say",
        "not tested",
        "too few controls to say",
        "selective",
    ]
    assert found["module"].tolist() == list(range(7))
    assert found["category"].isna().tolist() == [False] * 4 + [True] + [False] * 2


def test_the_numbers_behind_a_verdict():
    found = tlm.verdicts(effects_of({"own": 2.0, "other": 0.5, "p": 0.01}, {"p": 0.04}))
    row = found.iloc[0]
    assert (row["effect"], row["others"], row["selectivity"]) == (2.0, 0.5, 1.5)
    assert (row["ci_low"], row["ci_high"]) == (1.0, 2.0)
    assert (row["control_mean"], row["control_max"]) == (0.05, 0.4)
    assert found["p_bh"].tolist() == pytest.approx([0.02, 0.04])
    assert found["p_floor"].tolist() == [0.01, 0.01]
    assert found["at_floor"].tolist() == [True, False]
    assert row["line"] == (
        "selective: selectivity 1.50 for 'art' (nats per token), 95 % interval 1.00 "
        "to 2.00; controls 0.05 on average, 0.40 at most; p = 0.01, 0.02 after correction "
        "(99 controls give no smaller p)"
    )


def test_a_floor_that_the_correction_exceeds_says_too_few_controls():
    """19 controls give 0.05 at the least, which no correction over seven tests can pass alone."""
    alone = effects_of({"p": 0.05, "n": 19}, *[{"p": 0.5, "n": 19}] * 6)
    found = tlm.verdicts(alone)
    assert found["p_bh"].iloc[0] > 0.05
    assert found["verdict"].iloc[0] == "too few controls to say"
    assert set(found["verdict"].iloc[1:]) == {"not beyond its controls"}
    together = tlm.verdicts(effects_of(*[{"p": 0.05, "n": 19}] * 7))
    assert set(together["verdict"]) == {"selective"}
    assert set(tlm.verdicts(alone, level=0.5)["verdict"].iloc[:1]) == {"selective"}


def test_one_sentence_for_the_set():
    sentence = tlm.verdict_sentence(
        effects_of({"p": 0.01}, {"p": 0.3}, {"p": 0.4}, {"shared": True})
    )
    assert sentence == (
        "1 of 4 modules is selective (p at most 0.05 after Benjamini and Hochberg's correction for "
        "4 tests), 1 is needed by every category, and 2 are not beyond their controls."
    )
    assert tlm.verdict_sentence(effects_of({"p": 0.9})) == (
        "0 of 1 modules are selective (p at most 0.05 after Benjamini and Hochberg's correction "
        "for 1 test), and 1 is not beyond its controls."
    )
    assert tlm.verdict_sentence(effects_of({}, {})) == (
        "2 of 2 modules are selective (p at most 0.05 after Benjamini and Hochberg's correction "
        "for 2 tests)."
    )


def test_the_sentence_on_cores_begins_with_the_cores():
    effects = effects_of({"p": 0.01}, {"p": 0.3}, {"p": 0.01})
    sentence = tlm.verdict_sentence(effects, of="cores")
    assert sentence.startswith("The cores of 2 of 3 modules are selective (p at most 0.05 ")
    assert sentence.endswith(" for 3 tests), and 1 is not beyond its controls.")
    assert tlm.verdicts(effects, of="cores").attrs["sentence"] == sentence
    one = tlm.verdict_sentence(effects_of({"p": 0.01}, {"p": 0.3}), of="cores")
    assert one.startswith("The core of 1 of 2 modules is selective (")
    none = effects_of(*[{"p": 0.1, "n": 9}] * 3)
    assert tlm.verdict_sentence(none, of="cores") == (
        "Too few controls to say whether the cores of the 3 modules are selective: 9 controls each."
    )
    most = effects_of(*[{"p": 0.1, "n": 9}] * 2, {"p": 0.9, "n": 9})
    assert tlm.verdict_sentence(most, of="cores").startswith(
        "Too few controls to say whether the cores of 2 of 3 modules are selective (9 controls"
    )


def test_if_most_modules_have_too_few_controls_the_sentence_begins_with_them():
    few = [{"p": 0.1, "n": 9}] * 3
    beyond = {"p": 0.9, "n": 9}, {"p": 0.8, "n": 9}
    assert tlm.verdict_sentence(effects_of(*few, *beyond)) == (
        "Too few controls to say whether 3 of 5 modules are selective (9 controls each), and 2 are "
        "not beyond their controls."
    )
    others = {"p": 0.001, "n": 999}, {"shared": True, "n": 29}
    assert tlm.verdict_sentence(effects_of(*few, *others)) == (
        "Too few controls to say whether 3 of 5 modules are selective (9 controls each), 1 is "
        "selective (p at most 0.05 after Benjamini and Hochberg's correction for 5 tests), and 1 "
        "is needed by every category."
    )
    half = tlm.verdict_sentence(effects_of(*few[:2], *[{"p": 0.001, "n": 999}] * 2))
    assert half.startswith("2 of 4 modules are selective (")


def test_a_table_of_a_real_experiment(model, modules, prompts):
    effects = tlm.module_effects(model, modules, prompts, n_controls=4, progress=False)
    found = tlm.verdicts(effects)
    per_module = effects.drop_duplicates("module").set_index("module")
    assert found["module"].tolist() == per_module.index.tolist()
    np.testing.assert_allclose(found["p_bh"], per_module["selectivity_p_bh"])
    np.testing.assert_allclose(found["selectivity"], found["effect"] - found["others"])
    assert "selective" not in set(found["verdict"])  # 4 give no p below 0.2


def test_a_table_that_was_read_from_a_file(tmp_path):
    effects = effects_of({"p": 0.01}, {"shared": True})
    effects.to_csv(tmp_path / "effects.csv", index=False)
    for options in ({}, {"dtype": {"own": str, "shared_by_all": str}}):
        loaded = pd.read_csv(tmp_path / "effects.csv", **options)
        pd.testing.assert_frame_equal(tlm.verdicts(loaded), tlm.verdicts(effects))


def test_more_on_the_other_categories_is_not_selective():
    found = tlm.verdicts(effects_of({"own": 0.1, "other": 0.5, "p": 0.01}))
    assert found["verdict"].tolist() == ["not beyond its controls"]


def test_few_controls_can_still_say_that_a_module_is_not_beyond_them():
    """Of 9 controls, 5 exceed the one module, and none or one the others."""
    found = tlm.verdicts(effects_of(*[{"p": p, "n": 9} for p in (0.6, 0.1, 0.2)]))
    assert found["verdict"].tolist() == [
        "not beyond its controls",
        "too few controls to say",
        "too few controls to say",
    ]
    many = tlm.verdicts(effects_of({"p": 0.2, "n": 99}, {"p": 0.04, "n": 99}))
    assert many["verdict"].tolist() == ["not beyond its controls", "too few controls to say"]


def test_if_no_module_had_enough_controls_the_sentence_says_so():
    assert tlm.verdict_sentence(effects_of(*[{"p": 0.1, "n": 9}] * 3)) == (
        "Too few controls to say whether the 3 modules are selective: 9 controls each."
    )
    unlike = effects_of({"p": 0.1, "n": 9}, {"p": 0.2, "n": 4})
    assert tlm.verdict_sentence(unlike).endswith("are selective: at most 9 controls each.")
    assert tlm.verdict_sentence(effects_of({"p": np.nan, "n": 0})).endswith(": no controls.")


def test_a_number_of_controls_that_is_missing_says_nothing():
    effects = effects_of({"p": 0.1}, {"p": 0.01})
    effects["n_controls"] = effects["n_controls"].astype(float)
    effects.loc[effects["module"] == 0, "n_controls"] = np.nan
    assert tlm.verdicts(effects)["verdict"].tolist() == ["too few controls to say", "selective"]


def test_units_that_all_modules_share_have_no_verdict():
    effects = effects_of({"p": 0.01}, {"p": 0.01, "shared": True, "selectivity": np.nan})
    effects["module"] = effects["module"].astype(object).replace({1: "shared by all"})
    assert tlm.verdicts(effects)["module"].tolist() == [0]
    with pytest.raises(tlm.ModulesError, match="this table has 0 rows"):
        tlm.verdicts(effects[effects["module"] != 0])
    unnamed = effects_of({"p": np.nan, "selectivity": np.nan, "category": "x", "shared": True})
    assert "nan" not in tlm.verdicts(unnamed)["line"].iloc[0]


def test_kept_modules_have_no_verdict(model, modules, prompts):
    options = {"n_controls": 2, "progress": False}
    kept = tlm.module_effects(model, modules, prompts, keep_only=True, **options)
    with pytest.raises(tlm.ModulesError, match="Run module_effects without keep_only"):
        tlm.verdicts(kept)
    assert modules.with_effects(kept).verdicts is None
    accuracy = tlm.module_effects(
        model, modules, prompts.assign(answer=" cat"), metric="answer_accuracy", **options
    )
    assert "(share of answers)" in tlm.verdicts(accuracy)["line"].iloc[0]


def test_where_nothing_was_tested_no_correction_is_named():
    untested = effects_of({}, {}).assign(selectivity=np.nan, selectivity_p_value=np.nan, own=False)
    assert "correction" not in tlm.verdict_sentence(untested)


def test_other_tables_are_refused():
    effects = effects_of({}, {})
    with pytest.raises(tlm.ModulesError, match="lacks \\['selectivity'\\]"):
        tlm.verdicts(effects.drop(columns="selectivity"))
    two = pd.concat([effects.assign(controls="layer"), effects.assign(controls="magnitude")])
    with pytest.raises(tlm.ModulesError, match=r"one run; this table holds 2\. .*controls=layer"):
        tlm.verdicts(two)
    with pytest.raises(tlm.ModulesError, match="level should lie between 0 and 1; got 5"):
        tlm.verdicts(effects, level=5.0)
