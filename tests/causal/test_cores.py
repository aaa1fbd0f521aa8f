from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from benchmarks.truth.files import shipped
from benchmarks.truth.loading import load
from tests.conftest import unsaid
from tl_modules.causal.cores import CausalCores
from tl_modules.modules.module_set import BACKGROUND

QUIET = {"progress": False, "batch_size": 200}


@pytest.fixture(scope="module")
def truth():
    """A model whose units' owners are known."""
    return load(next(path for path in shipped() if path.stem == "hard-0"))


@pytest.fixture(scope="module")
def true_modules(truth):
    acts = tlm.collect(truth.model, truth.prompts(20, 0), batch_size=64, progress=False)
    return tlm.discover(acts, truth.n_tasks, seed=0, progress=False)


@pytest.fixture(scope="module")
def padded(truth, true_modules):
    """Modules that share the units of the last one among them, beside the true units of each."""
    owner_of = [truth.categories.index(module.category) for module in true_modules]
    labels = np.argsort(owner_of)[truth.owners]
    last = true_modules.n_modules - 1
    others = np.random.default_rng(0).permutation(np.flatnonzero(labels == last))
    labels[others] = np.arange(len(others)) % last
    return replace(true_modules, unit_labels=labels.astype(np.int64))


@pytest.fixture(scope="module")
def found(truth, true_modules):
    choosing, testing = truth.prompts(8, 100), truth.prompts(6, 200)
    options = {"sizes": [5, 15], "n_controls": 3}
    return tlm.causal_cores(truth.model, true_modules, choosing, testing, **options, **QUIET)


def test_the_table_has_every_ranking_at_every_size(found, true_modules):
    table = found.table
    assert isinstance(found, CausalCores)
    sizes = table.groupby(["module", "ranking"])["n_units"].apply(list)
    for module in true_modules:
        for ranking in ("core", "random", "fit", "all units", "t-contrast"):
            assert sizes[module.label, ranking] == [5, 15, module.n_units]
    np.testing.assert_allclose(table["selectivity"], table["effect"] - table["others"])
    low, high = table["selectivity_ci_low"], table["selectivity_ci_high"]
    assert (low <= table["selectivity"]).all()
    assert (table["selectivity"] <= high).all()
    is_core = table["ranking"] == "core"
    for kind in ("layer", "magnitude"):
        mean, least = table[f"{kind}_selectivity"], table[f"{kind}_selectivity_min"]
        largest = table[f"{kind}_selectivity_max"]
        assert (mean[is_core] < largest[is_core] + 1e-9).all()
        assert (least[is_core] < mean[is_core] + 1e-9).all()
        assert (least[is_core] < largest[is_core]).any()
        assert mean[~is_core].isna().all()
    whole = table[table["n_units"] == table.groupby("module")["n_units"].transform("max")]
    of_module = whole[whole["ranking"].isin(["core", "random", "fit"])]
    assert of_module.groupby("module")["effect"].agg(np.ptp).max() < 1e-4


def test_one_core_of_each_module_is_chosen_and_is_in_the_set(found, true_modules):
    chosen = found.choice[found.choice["chosen"]].set_index("module")["n_units"]
    assert chosen.index.tolist() == list(range(len(true_modules)))
    assert found.table["chosen"].sum() == len(true_modules)
    for core, module in zip(found.cores, true_modules, strict=True):
        assert core.n_units == chosen[core.label]
        assert set(core.units.flat()) <= set(module.units.flat())
        assert core.samples.equals(module.samples)
    assert (found.cores.unit_labels == BACKGROUND).sum() == len(true_modules.units) - chosen.sum()


def test_the_units_of_the_cores_are_listed_by_score(found, true_modules):
    for core, module in zip(found.cores, true_modules, strict=True):
        rows = found.units[found.units["module"] == core.label]
        places = core.units.to_frame()[["layer", "unit"]]
        listed = rows[["layer", "unit"]].sort_values(["layer", "unit"], ignore_index=True)
        assert listed.equals(places.sort_values(["layer", "unit"], ignore_index=True))
        assert (np.diff(rows["score"]) <= 0).all()
        assert set(rows["category"]) == {module.category}


def test_the_choice_is_the_smallest_that_reaches_the_share(found):
    for _, rows in found.choice.groupby("module"):
        values = rows["selectivity"].to_numpy()
        first = int(np.argmax(values >= 0.9 * values.max()))
        assert np.flatnonzero(rows["chosen"]).tolist() == [first]


def test_the_effects_are_those_of_module_effects(found, truth):
    effects = tlm.module_effects(
        truth.model, found.cores, truth.prompts(6, 200), n_controls=0, **QUIET
    )
    own = effects[effects["own"]].set_index("module")
    chosen = found.table[found.table["chosen"]].set_index("module")
    np.testing.assert_allclose(own["effect"], chosen["effect"], atol=1e-5)
    np.testing.assert_allclose(own["selectivity"], chosen["selectivity"], atol=1e-5)
    assert found.cores.holds == "cores"


def test_keep_only_of_cores_ablates_everything_else(found, truth):
    testing, options = truth.prompts(6, 200), {"n_controls": 3, **QUIET}
    kept = tlm.module_effects(truth.model, found.cores, testing, keep_only=True, **options)
    rest = [replace(core, units=core.units.complement()) for core in found.cores]
    ablated = tlm.module_effects(truth.model, rest, testing, n_controls=0, **QUIET)
    np.testing.assert_allclose(kept["effect"], ablated["effect"], atol=1e-4)
    own = kept[kept["own"]]
    assert (own["effect"] < own["control_mean"]).mean() > 0.5
    assert (
        kept["n_units"].tolist()
        == np.repeat([core.n_units for core in found.cores], truth.n_tasks).tolist()
    )


def test_the_core_leaves_out_units_that_others_own(truth, padded):
    choosing, testing = truth.prompts(8, 100), truth.prompts(6, 200)
    found = tlm.causal_cores(
        truth.model,
        padded,
        choosing,
        testing,
        sizes=[20],
        rankings=["random"],
        n_controls=0,
        **QUIET,
    )
    few = found.table[found.table["n_units"] == 20].set_index(["module", "ranking"])
    each = range(truth.n_tasks - 1)
    cores, drawn = (
        np.mean([few.loc[(number, ranking), "selectivity"] for number in each])
        for ranking in ("core", "random")
    )
    assert drawn > 0
    assert cores > 2 * drawn
    own = [truth.owners[core.units.flat()] for core in found.cores if core.n_units == 20]
    assert all(np.bincount(owners).max() >= 17 for owners in own)


def test_the_path_finds_what_a_single_gradient_does_not(truth, true_modules):
    choosing, testing = truth.prompts(8, 100), truth.prompts(6, 200)
    means = {}
    for by in ("path", "magnitude"):
        found = tlm.causal_cores(
            *(truth.model, true_modules, choosing, testing),
            **{"sizes": [10], "rankings": [], "n_controls": 0, "by": by} | QUIET,
        )
        means[by] = found.table.loc[found.table["n_units"] == 10, "selectivity"].mean()
    assert means["path"] > 1.3 * means["magnitude"]


def test_units_to_exclude_are_in_no_core(truth, true_modules):
    choosing, testing = truth.prompts(4, 100), truth.prompts(3, 200)
    exclude = true_modules[0].units.select(np.arange(0, true_modules[0].n_units, 2))
    found = tlm.causal_cores(
        *(truth.model, true_modules, choosing, testing),
        **{"sizes": [10], "rankings": [], "n_controls": 1, "exclude": exclude} | QUIET,
    )
    assert not set(exclude.flat()) & set(found.cores[0].units.flat())


@unsaid
def test_shared_units_are_in_no_core_and_no_rival(truth, true_modules):
    prompts = truth.prompts(6, 100), truth.prompts(6, 200)
    options = {"sizes": [5], "n_controls": 0, "by": "magnitude", "rankings": ["all units"]}
    with_all = tlm.causal_cores(truth.model, true_modules, *prompts, **options, **QUIET)
    best = with_all.cores.units.select(with_all.cores.unit_labels >= 0).flat()
    shared = true_modules.units.select(best[::2])
    is_shared = np.isin(np.arange(len(true_modules.units)), shared.flat())
    labels = np.where(is_shared, BACKGROUND, true_modules.unit_labels)
    without = replace(true_modules, unit_labels=labels, is_shared=is_shared)
    found = tlm.causal_cores(truth.model, without, *prompts, **options, **QUIET)
    given = tlm.causal_cores(
        truth.model, true_modules, *prompts, exclude=shared, **options, **QUIET
    )
    assert found.cores.shared.units.flat().tolist() == sorted(shared.flat().tolist())
    assert not np.isin(found.cores[0].units.flat(), shared.flat()).any()
    rivals, expected = (
        each.table.query("ranking == 'all units'")["effect"] for each in (found, given)
    )
    np.testing.assert_allclose(rivals, expected, rtol=1e-4, atol=1e-6)


@unsaid
def test_what_a_reference_or_a_ranking_lacks_is_said_before_the_model_runs(
    model, modules, prompts, acts
):
    halves = prompts.iloc[:8], prompts.iloc[8:]
    heads = tlm.collect_reference(model, prompts, units="attn_heads", progress=False)
    one_each = prompts.groupby("category").head(1)
    unnamed = replace(modules, samples=modules.samples.drop(columns="category"))
    cases = [
        (
            modules,
            {"reference": replace(acts, unit_means=None, content_means=None)},
            "needs the units' mean activations",
        ),
        (modules, {"reference": heads}, "hook points"),
        (modules, {"exclude": heads.units}, "exclude should be units of the modules' model"),
        (modules, {"exclude": modules.units}, "exclude should leave a unit of some module"),
        (unnamed, {}, r"modules should have own categories; \[0, 1, 2\] have none"),
        (replace(modules, units=replace(modules.units, site="mid")), {}, "named site"),
    ]
    with pytest.raises(tlm.ModulesError, match=r"needs two prompts of '\w+' and of the others"):
        tlm.causal_cores(model, modules, one_each, prompts.iloc[2:], progress=False)
    runs = []
    hook = model.hook_dict["blocks.0.mlp.hook_post"].register_forward_hook(
        lambda *given: runs.append(given)
    )
    try:
        for given, options, message in cases:
            with pytest.raises(tlm.ModulesError, match=message):
                tlm.causal_cores(model, given, *halves, progress=False, **options)
    finally:
        hook.remove()
    assert not runs


@unsaid
def test_modules_of_effects_have_layer_controls_alone(model, prompts):
    acts = tlm.collect(model, prompts, weight="effect", progress=False)
    modules = tlm.discover(acts, 2, progress=False)
    halves = prompts.iloc[:8], prompts.iloc[8:]
    options = {"sizes": [3], "rankings": ["random"], "n_controls": 2}
    found = tlm.causal_cores(model, modules, *halves, **options, **QUIET)
    assert found.table["layer_selectivity"].notna().any()
    assert "magnitude_selectivity" not in found.table


@unsaid
def test_heads_have_cores_and_cores_are_saved(model, prompts, tmp_path):
    acts = tlm.collect(model, prompts, units="attn_heads", progress=False)
    modules = tlm.discover(acts, 2, progress=False)
    halves = prompts.iloc[:8], prompts.iloc[8:]
    found = tlm.causal_cores(model, modules, *halves, sizes=[1], n_controls=0, **QUIET)
    assert {core.n_units for core in found.cores} <= {1, *(module.n_units for module in modules)}
    found.cores.save(tmp_path / "cores")
    again = tlm.ModuleSet.load(tmp_path / "cores")
    assert again.unit_labels.tolist() == found.cores.unit_labels.tolist()
    with again[0].ablated(model):
        pass


@unsaid
def test_what_cannot_be_is_refused_before_anything_runs(model, modules, prompts):
    halves = prompts.iloc[:8], prompts.iloc[8:]
    for options, message in (
        ({"share": 0.0}, "share should lie above 0 and at most at 1; got 0.0"),
        ({"n_controls": -1}, "n_controls should be at least 0; got -1"),
        ({"sizes": [0]}, "sizes should be a whole number of units"),
    ):
        with pytest.raises(tlm.ModulesError, match=message):
            tlm.causal_cores(model, modules, *halves, progress=False, **options)
    with pytest.raises(tlm.ModulesError, match="choosing and testing should share no prompt; they"):
        tlm.causal_cores(model, modules, prompts, prompts.iloc[::3], progress=False)
    one = prompts[prompts["category"] == "code"]
    for choosing, testing, name in ((one, prompts, "choosing"), (prompts, one, "testing")):
        with pytest.raises(tlm.ModulesError, match=f"{name} should hold prompts of every module's"):
            tlm.causal_cores(model, modules, choosing, testing, progress=False)


def test_the_untrained_twin_has_rows_of_little_selectivity(truth, true_modules):
    twin = tlm.untrained_twin(truth.model)
    acts = tlm.collect(twin, truth.prompts(20, 0), batch_size=64, progress=False)
    twins_modules = tlm.discover(acts, truth.n_tasks, progress=False)
    choosing, testing = truth.prompts(8, 100), truth.prompts(6, 200)
    options = {"sizes": [5, 15], "n_controls": 0, "rankings": ["random"]} | QUIET
    found = tlm.causal_cores(
        *(truth.model, true_modules, choosing, testing),
        untrained=(twin, twins_modules),
        **options,
    )
    table = found.table
    alone = tlm.causal_cores(truth.model, true_modules, choosing, testing, **options).table
    is_twins = table["ranking"] == "untrained twin"
    pd.testing.assert_frame_equal(table[~is_twins], alone)
    assert set(table.loc[is_twins, "module"]) == set(range(truth.n_tasks))
    assert not table.loc[is_twins, "chosen"].any()
    means = table[table["n_units"] == 15].groupby("ranking")["selectivity"].mean()
    assert abs(means["untrained twin"]) < 0.25 * means["core"]
    assert "untrained twin" in [line.name for line in tlm.plots.core_curve(table).data]
    assert "untrained twin" not in [
        line.name for line in tlm.plots.core_curve(table, module=0).data
    ]


def test_a_twin_of_another_shape_is_refused(model, modules, prompts, other_model):
    others = tlm.discover(tlm.collect(other_model, prompts, progress=False), 2, progress=False)
    halves = prompts.iloc[:8], prompts.iloc[8:]
    cases = {
        "modules of the same units": (other_model, others),
        r"untrained should be a tuple of .* and .*Pass \(twin, discover": (other_model, model),
        r"untrained should be a tuple of .* and .*Pass \(twin, ": modules,
        "another model than model": (model, modules),
    }
    for message, untrained in cases.items():
        with pytest.raises(tlm.ModulesError, match=message):
            tlm.causal_cores(model, modules, *halves, untrained=untrained, progress=False)
