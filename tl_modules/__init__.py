"""Functional modules of a hooked transformer, and causal tests on them.

Collect activations, discover modules, ablate them beside their controls::

    acts = tlm.collect(model, prompts)
    modules = tlm.discover(acts, n_modules=10)
    effects = tlm.module_effects(model, modules, held_out_prompts)
"""

from tl_modules import plots, related, thoughts, training
from tl_modules.activations import (
    ActivationMatrix,
    ActivationStore,
    Collector,
    Reading,
    Reference,
    StoreWriter,
    collect,
    collect_reference,
)
from tl_modules.causal import (
    Parts,
    attribute_modules,
    causal_cores,
    circuit_scores,
    concept_effects,
    control_selectivities,
    dissociation,
    faithfulness_curves,
    get_act_patch_module,
    get_act_patch_module_by_layer,
    get_act_patch_module_by_pos,
    greedy_circuit,
    module_effects,
    module_graph,
    plan_interventions,
    selectivity,
    shared_units,
    specialised_parts,
    steering_effects,
    unit_estimates,
    verdict_sentence,
    verdicts,
    with_components,
    with_corrupted,
)
from tl_modules.discovery import (
    best_n_modules,
    choose_n_modules,
    discover,
    discover_baseline,
    iterd,
    merge_modules,
    objective,
    set_aside_background,
    stability,
)
from tl_modules.errors import ModulesError
from tl_modules.evaluation import (
    compare_detectors,
    compare_methods,
    match_modules,
    probe,
    probe_accuracy,
    probe_confusion,
    split_by_category,
)
from tl_modules.interpret import (
    category_similarity,
    coverage,
    describe_units,
    hierarchy,
    language_consistency,
    module_depth,
    module_layers,
    nestedness,
    token_values,
    with_labels,
    with_topics,
)
from tl_modules.interventions import Target, attached, content_positions, detach_all
from tl_modules.models import HookedModel, untrained_twin
from tl_modules.modules import Module, ModuleSet, Topic
from tl_modules.report import (
    explore,
    write_attribution_graph,
    write_neuronpedia_list,
    write_report,
)
from tl_modules.saes import SplicedModel, with_saes
from tl_modules.units import Site, Units

__all__ = [
    "ActivationMatrix",
    "ActivationStore",
    "Collector",
    "HookedModel",
    "Module",
    "ModuleSet",
    "ModulesError",
    "Parts",
    "Reading",
    "Reference",
    "Site",
    "SplicedModel",
    "StoreWriter",
    "Target",
    "Topic",
    "Units",
    "attached",
    "attribute_modules",
    "best_n_modules",
    "category_similarity",
    "causal_cores",
    "choose_n_modules",
    "circuit_scores",
    "collect",
    "collect_reference",
    "compare_detectors",
    "compare_methods",
    "concept_effects",
    "content_positions",
    "control_selectivities",
    "coverage",
    "describe_units",
    "detach_all",
    "discover",
    "discover_baseline",
    "dissociation",
    "explore",
    "faithfulness_curves",
    "get_act_patch_module",
    "get_act_patch_module_by_layer",
    "get_act_patch_module_by_pos",
    "greedy_circuit",
    "hierarchy",
    "iterd",
    "language_consistency",
    "match_modules",
    "merge_modules",
    "module_depth",
    "module_effects",
    "module_graph",
    "module_layers",
    "nestedness",
    "objective",
    "plan_interventions",
    "plots",
    "probe",
    "probe_accuracy",
    "probe_confusion",
    "related",
    "selectivity",
    "set_aside_background",
    "shared_units",
    "specialised_parts",
    "split_by_category",
    "stability",
    "steering_effects",
    "thoughts",
    "token_values",
    "training",
    "unit_estimates",
    "untrained_twin",
    "verdict_sentence",
    "verdicts",
    "with_components",
    "with_corrupted",
    "with_labels",
    "with_saes",
    "with_topics",
    "write_attribution_graph",
    "write_neuronpedia_list",
    "write_report",
]


def __dir__() -> list[str]:
    return __all__
