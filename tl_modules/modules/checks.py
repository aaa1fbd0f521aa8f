"""Checks that the fields of a module set fit together."""

from typing import TYPE_CHECKING, get_args

from tl_modules.activations.normalise import check_normaliser
from tl_modules.activations.value_checks import check_unit_means
from tl_modules.errors import ModulesError, check_choice
from tl_modules.modules.labels import check_labels, check_shared
from tl_modules.tables.verdicts import Tested

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet


def check_fields(modules: "ModuleSet") -> None:
    """Refuse a module set whose fields do not fit together.

    Raises:
        ModulesError: If an array has another length or type than the set's units and samples ask
            for, a label is no module's, or a tuple has not one entry per module.
    """
    n_units, n_samples = len(modules.units), len(modules.samples)
    if not 2 <= modules.n_modules <= n_units + n_samples:
        raise ModulesError(
            f"n_modules should be at least 2, and not above samples + units = "
            f"{n_units + n_samples}; got {modules.n_modules}. Rebuild the module set from one "
            "discovery."
        )
    check_choice("holds", modules.holds, get_args(Tested))
    for name, length in (
        ("unit_labels", n_units),
        ("unit_means", modules.units.n_coordinates),
        ("content_means", modules.units.n_coordinates),
        ("unit_scores", n_units),
        ("unit_runners_up", n_units),
        ("is_shared", n_units),
        ("sample_labels", n_samples),
        ("sample_scores", n_samples),
    ):
        array = getattr(modules, name)
        if array is None:
            continue
        if array.shape != (length,):
            raise ModulesError(
                f"{name} should have {length} entries; it has shape {array.shape}. "
                "Rebuild the module set from one discovery."
            )
        if name.endswith(("labels", "runners_up")):
            check_labels(name, array, modules.n_modules)
        elif name == "is_shared":
            check_shared(array, modules.unit_labels)
        elif not name.endswith("_means") and array.dtype.kind != "f":  # made by hand, perhaps NaN
            raise ModulesError(
                f"{name} should be floats; they are {array.dtype}. Rebuild the module set from "
                "one discovery."
            )

    check_unit_means(modules.unit_means, modules.units)
    check_unit_means(modules.content_means, modules.units, "content_means")
    check_normaliser(modules.normaliser, n_units)
    remedies = {
        "topics": "Find them again: tlm.with_topics(modules, model).",
        "own_categories": "Give them again: modules.with_categories({0: ...}).",
        "shared_by_all": "Read them again: modules.with_effects(effects).",
        "verdicts": "Read them again: modules.with_effects(effects).",
        "scored_labels": "Score them again: tlm.with_labels(modules, acts).",
    }
    for name, remedy in remedies.items():
        of_modules = getattr(modules, name)
        if of_modules is not None and len(of_modules) != modules.n_modules:
            raise ModulesError(
                f"{name} should have one entry per module, {modules.n_modules}; they have "
                f"{len(of_modules)}. {remedy}"
            )
