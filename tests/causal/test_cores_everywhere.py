"""What takes modules takes cores."""

from types import SimpleNamespace

import pytest

from tests.calls import CALLS, cored, setting

TAKE_MODULES = (
    *("probe svc", "match_modules", "module_effects", "dissociation", "compare_detectors"),
    *("unlearn", "forgetting", "fuse_pathways", "shared_units"),
    *("unit_estimates", "causal_cores", "get_act_patch_module", "get_act_patch_module_by_layer"),
    *("attribute_modules", "module_graph", "circuit_scores", "greedy_circuit", "with_topics"),
    *("token_values", "thought_states", "module_layers", "module_depth", "hierarchy"),
    *("nestedness", "coverage", "plot_landscape", "write_report"),
)


@pytest.fixture(scope="module")
def these(model, prompts, acts, modules, tmp_path_factory):
    found = cored(SimpleNamespace(model=model, prompts=prompts, modules=modules))
    pairs = list(zip(found.cores, modules, strict=True))
    assert all(0 < core.n_units <= module.n_units for core, module in pairs)
    assert any(core.n_units < module.n_units for core, module in pairs)
    return setting(model, prompts, acts, found.cores, tmp_path_factory.mktemp("cores"))


@pytest.mark.parametrize("name", TAKE_MODULES)
def test_what_takes_modules_takes_cores(name, these):
    assert CALLS[name](these) is not None or these.page.exists()


def test_cores_travel_in_a_folder(these, tmp_path):
    these.modules.save_pretrained(tmp_path / "cores")
    loaded = type(these.modules).from_pretrained(tmp_path / "cores")
    assert (loaded.unit_labels == these.modules.unit_labels).all()
