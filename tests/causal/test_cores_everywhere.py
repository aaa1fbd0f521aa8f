"""What takes modules takes cores."""

from types import SimpleNamespace

import pytest

from tests.calls import CALLS, cored, setting

TAKE_NO_MODULES = {
    *("collect", "collect_reference", "discover", "discover starts", "discover topics", "iterd"),
    *("discover_baseline kmeans", "discover_baseline spectral", "discover_baseline both"),
    *("stability", "best_n_modules", "choose_n_modules", "compare_methods", "split_by_category"),
    *("eigenshift", "leace", "concept_effects", "specialised_parts", "with_corrupted"),
    *("untrained_twin", "content_positions", "plot_concepts", "plot_detectors"),
    "language_neurons",
}
REFUSES = {"set_aside_background"}
"""It takes modules of which nothing is set aside yet."""


@pytest.fixture(scope="module")
def these(model, prompts, acts, modules, tmp_path_factory):
    found = cored(SimpleNamespace(model=model, prompts=prompts, modules=modules))
    pairs = list(zip(found.cores, modules, strict=True))
    assert all(0 < core.n_units <= module.n_units for core, module in pairs)
    assert any(core.n_units < module.n_units for core, module in pairs)
    return setting(model, prompts, acts, found.cores, tmp_path_factory.mktemp("cores"))


@pytest.mark.parametrize("name", [name for name in CALLS if name not in TAKE_NO_MODULES | REFUSES])
def test_what_takes_modules_takes_cores(name, these):
    assert CALLS[name](these) is not None or these.page.exists()


def test_cores_travel_in_a_folder(these, tmp_path):
    these.modules.save_pretrained(tmp_path / "cores")
    loaded = type(these.modules).from_pretrained(tmp_path / "cores")
    assert (loaded.unit_labels == these.modules.unit_labels).all()
