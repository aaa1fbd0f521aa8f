from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import module_set
from tests.interpret.toys import ByToken
from tl_modules.interpret.language_numbers import LanguageNumbers, Shuffles

QUIET = {"progress": False}
NEURONS, STREAM = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
UNITS = tlm.Units.whole((NEURONS,), (0,), (3,), site="mlp")


def grid(*languages):
    """A frame with a prompt per cell; each is token 0, which does not count, and what is given."""
    rows = [
        {"prompt": f"0 {prompt}", "category": "de" if language else "en", "meaning": f"m{meaning}"}
        for language, prompts in enumerate(languages)
        for meaning, prompt in enumerate(prompts)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def by_hand():
    """Neuron 0 has the token's number. Neuron 1 knows the language, in the size; 2 is constant."""
    neurons = [[9, 9, 9], [1, 1, 5], [2, -1, 5], [3, -2, 5], [4, 2, 5]]
    # Dimension 0 has the meaning, dimension 1 the language.
    stream = [[1, 1], [-1, -1], [1, -1], [-1, 1], [1, 1]]
    return ByToken({NEURONS: neurons, STREAM: stream})


@pytest.fixture
def found(by_hand):
    modules = module_set([0, 1, 2], UNITS)
    return tlm.language_consistency(by_hand, modules, grid(["1", "2"], ["3", "4"]), **QUIET)


def test_shares_nulls_and_likeness_as_worked_out_by_hand(found):
    first, second, constant, stream = found.table.to_dict("records")
    # 1 2 / 3 4: sums of squares 4 between languages, 1 between meanings, 5 in all.
    shares = ("language_share", "meaning_share", "rest_share", "language_null", "meaning_null")
    assert [first[name] for name in shares] == pytest.approx([0.8, 0.2, 0, 0.4, 0.1])
    # The languages lie on the two sides of the mean, whatever the meaning.
    likeness = ("similarity", "similarity_shuffled", "gain", "retrieved")
    assert [first[name] for name in likeness] == pytest.approx([-1, -1, 0, 0.5])
    # The size of neuron 1 is 1 in one language and 2 in the other; its sign does not count.
    assert [second[name] for name in shares[:2]] == pytest.approx([1, 0])
    assert (first["language"], first["meaning"]) == ("de", "m1")
    assert (stream["kind"], stream["number"], stream["n_units"]) == ("resid", 0, 2)
    assert [stream[name] for name in shares[:2]] == pytest.approx([0.5, 0.5])
    # (m, l) and (m, -l) are orthogonal, (m, l) and (-m, -l) opposite.
    assert [stream[name] for name in likeness] == pytest.approx([0, -1, 1, 1])
    # Of two by two cells, some permutation does as well.
    assert {row["serves"] for row in (first, second, stream)} <= {"neither"}
    numbers = [*likeness, *shares, "language", "meaning", "serves"]
    assert pd.Series([constant[name] for name in numbers]).isna().all()


def test_pairs_and_activity_are_those_of_the_languages(found):
    assert found.pairs[["kind", "number", "language", "other"]].to_numpy().tolist() == [
        *(["module", number, "en", "de"] for number in range(3)),
        ["resid", 0, "en", "de"],
    ]
    assert set(found.activity["kind"]) == {"module"}
    first = found.activity[found.activity["number"] == 0].set_index("language")["activity"]
    # 1.5 and 3.5, from 2.5, by the sample's standard deviation, the root of 5 / 3.
    assert first.to_dict() == pytest.approx({"en": -((3 / 5) ** 0.5), "de": (3 / 5) ** 0.5})
    assert repr(found).startswith("LanguageConsistency(2 languages, 2 meanings; of 3 modules 0 ")
    assert "gain" in found._repr_html_()


def test_only_content_counts_and_padding_and_batches_change_nothing(by_hand):
    modules = module_set([0, 1, 2], UNITS)
    # The mean of 1 and 3 is 2, and so on; lengths differ.
    frame = grid(["1 1 1", "1 3"], ["3", "4 4 4 4"])
    wanted = tlm.language_consistency(by_hand, modules, frame, batch_size=1, **QUIET)
    assert wanted.table.loc[0, "language_share"] == pytest.approx(0.8)
    for options in ({"batch_size": 3}, {"batch_size": 2}):
        again = tlm.language_consistency(by_hand, modules, frame, **options, **QUIET)
        pd.testing.assert_frame_equal(again.table, wanted.table)
    turned = frame.iloc[[3, 1, 2, 0]]
    again = tlm.language_consistency(by_hand, modules, turned, **QUIET).table
    for name in ("language_share", "meaning_share", "similarity", "retrieved"):
        assert again[name].to_numpy() == pytest.approx(wanted.table[name], nan_ok=True)


def test_cores_are_measured_beside_their_modules(by_hand):
    modules, cores = module_set([0, 0, 1], UNITS), module_set([0, -1, -1], UNITS, n_modules=2)
    frame = grid(["1", "2"], ["3", "4"])
    table = tlm.language_consistency(by_hand, modules, frame, cores=cores, **QUIET).table
    core = table[table["kind"] == "core"].set_index("number")
    assert core["n_units"].to_list() == [1, 0]
    assert core.loc[0, "language_share"] == pytest.approx(0.8)
    module = table[table["kind"] == "module"].set_index("number").loc[0]
    # Two neurons count the same: 0.8 and 1 of their variances.
    assert module["language_share"] == pytest.approx(0.9)
    assert core.loc[1, ["similarity", "language_share", "serves"]].isna().all()
    other = module_set([0, 1], tlm.Units.whole((NEURONS,), (0,), (2,), site="mlp"))
    with pytest.raises(tlm.ModulesError, match="cores should be those of the modules"):
        tlm.language_consistency(by_hand, modules, frame, cores=other, **QUIET)


@pytest.mark.parametrize("site", ["mlp", "resid", "mlp+attn_heads"])
def test_shares_of_a_real_model_are_those_of_collected_activations(site, model, prompts):
    frame = prompts.assign(
        category=np.repeat(["a", "b", "c", "d"], 4), meaning=np.tile([1, 2, 3, 4], 4)
    )
    acts = tlm.collect(model, frame, units=site, tokens="content", **QUIET)
    modules = module_set(np.arange(len(acts.units)) % 2, acts.units)
    found = tlm.language_consistency(model, modules, frame, batch_size=5, **QUIET)
    for row, module in zip(found.table.itertuples(), modules, strict=False):
        values = pd.DataFrame(acts.values[:, module.units.flat()].astype(float))
        values = (values - values.mean()) / values.std(ddof=0)
        for name in ("category", "meaning"):
            means = values.groupby(frame[name].to_numpy()).transform("mean")
            share = row.language_share if name == "category" else row.meaning_share
            assert share == pytest.approx(float((means**2).to_numpy().mean()), rel=1e-4)


def test_the_nulls_are_the_means_over_all_permutations():
    values = np.random.default_rng(3).normal(size=(2, 3, 2)) + np.arange(2)[:, None, None]
    shuffles = Shuffles.draw(2, 3, 200, 0)
    found = LanguageNumbers.of(values, shuffles)
    meanings, languages = [], []
    for orders in product(permutations(range(3)), repeat=2):
        turned = np.stack([values[at, list(order)] for at, order in enumerate(orders)])
        meanings.append(LanguageNumbers.of(turned, shuffles).meaning_share)
    for orders in product(permutations(range(2)), repeat=3):
        turned = np.stack([values[list(order), at] for at, order in enumerate(orders)], axis=1)
        languages.append(LanguageNumbers.of(turned, shuffles).language_share)
    assert found.meaning_null == pytest.approx(np.mean(meanings))
    assert found.language_null == pytest.approx(np.mean(languages))
    # So many draws meet the largest of 36 and of 8.
    assert found.meaning_null_max == pytest.approx(max(meanings))
    assert found.language_null_max == pytest.approx(max(languages))


def test_meanings_that_are_equally_near_up_to_rounding_share_the_retrieval():
    # The cosines of single numbers are 1 and -1, but for rounding.
    values = np.random.default_rng(0).normal(size=(2, 20, 1))
    found = LanguageNumbers.of(values, Shuffles.draw(2, 20, 1, 0))
    is_above = values[..., 0] > values.mean()
    hits = []
    for own, other in (is_above, is_above[::-1]):
        for meaning in range(20):
            n_nearest = int((other == own[meaning]).sum())
            hits.append(1 / n_nearest if other[meaning] == own[meaning] else 0)
    assert found.retrieved[0, 1] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(("language", "meaning", "wanted"), [(2, 1, "language"), (1, 3, "meaning")])
def test_a_set_serves_what_explains_more_of_it(language, meaning, wanted):
    generator = np.random.default_rng(0)
    shape = 4, 6, 20
    values = generator.normal(size=shape)
    values += language * generator.normal(size=(4, 1, 20))
    values += meaning * generator.normal(size=(1, 6, 20))
    assert LanguageNumbers.of(values, Shuffles.draw(4, 6, 99, 0)).serves == wanted


def test_a_set_that_knows_neither_serves_neither_in_most_draws():
    shuffles = Shuffles.draw(4, 6, 99, 0)
    generator = np.random.default_rng(1)
    found = [LanguageNumbers.of(generator.normal(size=(4, 6, 5)), shuffles) for _ in range(200)]
    # Each share is above all 99 permutations in one of a hundred.
    assert sum(each.serves != "neither" for each in found) <= 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="meaning"), "should have a column 'meaning'; it has none. Give"),
        (lambda f: f.drop(columns="category"), "should have a column 'category'; it has none"),
        (lambda f: f.iloc[:3], "'m1' is there 0 times in 'de'. Drop the meaning"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "'m0' is there 2 times in 'en'"),
        (lambda f: f.iloc[:2], "at least two languages and two meanings; got 1 and 2"),
        (lambda f: f.iloc[[0, 2]], "at least two languages and two meanings; got 2 and 1"),
        (lambda f: f.assign(meaning=[1, None, 1, 2]), "have a meaning; prompt 1 has none. Fill"),
        (lambda f: f.assign(meaning=["m", "n", " ", "n"]), "have a meaning; prompt 2 has none"),
        (lambda f: f.assign(prompt=["0 1", "0", "0 1", "0 1"]), "prompt 1 has none. Drop or"),
    ],
)
def test_a_grid_with_holes_is_refused(change, message, by_hand):
    frame = change(grid(["1", "2"], ["3", "4"]))
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.language_consistency(by_hand, module_set([0, 1, 2], UNITS), frame, **QUIET)


def test_modules_of_another_model_are_refused(by_hand):
    modules = module_set([0, 1], tlm.Units.whole((NEURONS,), (0,), (2,), site="mlp"))
    with pytest.raises(tlm.ModulesError, match="The modules' units should be those of the model"):
        tlm.language_consistency(by_hand, modules, grid(["1", "2"], ["3", "4"]), **QUIET)


def test_values_that_are_not_finite_are_refused():
    rows = [[1.0, 1, 1], [float("nan"), 1, 1], [1, 1, 1]]
    model = ByToken({NEURONS: rows, STREAM: [[1.0], [1], [1]]})
    with pytest.raises(tlm.ModulesError, match="Activations should be finite; some are not"):
        tlm.language_consistency(
            *(model, module_set([0, 1, 2], UNITS), grid(["1", "2"], ["2", "2"])), **QUIET
        )
