import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.tables.test_verdicts import effects_of


def test_the_table_keeps_each_controls_selectivity(model, modules, prompts):
    effects = tlm.module_effects(model, modules, prompts, n_controls=5, progress=False)
    found = tlm.control_selectivities(effects)
    assert found.groupby("module")["draw"].apply(list).tolist() == [list(range(5))] * 3
    each = found.groupby("module")["selectivity"]
    first = effects.drop_duplicates("module").set_index("module")
    for name, got in (("mean", each.mean()), ("std", each.std()), ("max", each.max())):
        expected = first[f"selectivity_control_{name}"]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)


def test_the_controls_survive_a_file(model, modules, prompts, tmp_path):
    effects = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    effects.to_csv(tmp_path / "effects.csv", index=False)
    read = tlm.control_selectivities(pd.read_csv(tmp_path / "effects.csv"))
    pd.testing.assert_frame_equal(read, tlm.control_selectivities(effects))


def test_modules_without_controls_have_no_rows(model, modules, prompts):
    options = {"n_controls": 0, "progress": False}
    none = tlm.control_selectivities(tlm.module_effects(model, modules, prompts, **options))
    assert len(none) == 0
    assert none.dtypes.astype(str).tolist()[1:] == ["int64", "float64"]


def test_modules_without_selectivity_have_no_rows(model, modules, prompts):
    one = prompts.assign(category="animal")  # no other category
    with pytest.warns(UserWarning, match="is not among the prompts'"):
        effects = tlm.module_effects(model, modules, one, n_controls=2, progress=False)
    assert len(tlm.control_selectivities(effects)) == 0


def test_other_tables_are_refused():
    earlier = effects_of({})
    with pytest.raises(tlm.ModulesError, match=r"lacks \['selectivity_controls'\]"):
        tlm.control_selectivities(earlier)
    both = earlier.assign(selectivity_controls="0.5")
    twice = pd.concat([both.assign(controls=kind) for kind in ("layer", "magnitude")])
    with pytest.raises(tlm.ModulesError, match="should be of one run"):
        tlm.control_selectivities(twice)
