"""Functional modules of a hooked transformer, and causal tests on them.

Collect activations, discover modules, ablate them beside their controls::

    acts = tlm.collect(model, prompts)
    modules = tlm.discover(acts, n_modules=10)
    effects = tlm.module_effects(model, modules, held_out_prompts)
"""

from tl_modules.activations.collection import collect
from tl_modules.activations.collector import Collector
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.reading import Reading
from tl_modules.activations.reference import Reference, collect_reference
from tl_modules.activations.store import ActivationStore, StoreWriter
from tl_modules.causal.attribution import Attribution, attribute_modules
from tl_modules.causal.circuits import CircuitScores, circuit_scores, greedy_circuit
from tl_modules.causal.concepts import concept_effects
from tl_modules.causal.double_dissociation import Dissociation, dissociation
from tl_modules.causal.effects import module_effects
from tl_modules.causal.graph import ModuleGraph, module_graph
from tl_modules.causal.pairs import with_corrupted
from tl_modules.causal.parts import Parts, specialised_parts
from tl_modules.causal.patching import (
    get_act_patch_module,
    get_act_patch_module_by_layer,
    get_act_patch_module_by_pos,
)
from tl_modules.causal.selectivities import Selectivity, selectivity
from tl_modules.causal.shared_unit_scores import SharedUnits, shared_units
from tl_modules.discovery.baselines import discover_baseline
from tl_modules.discovery.descent import IterDResult, iterd
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.membership import set_aside_background
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.stability_scores import choose_n_modules, stability
from tl_modules.errors import ModulesError
from tl_modules.evaluation.comparison import compare_methods, split_by_category
from tl_modules.evaluation.detectors import Detectors, compare_detectors
from tl_modules.evaluation.downstream import Probe, probe, probe_accuracy
from tl_modules.evaluation.matching import ModuleMatch, match_modules
from tl_modules.interpret.categories_covered import Coverage, coverage
from tl_modules.interpret.depth import module_depth, module_layers
from tl_modules.interpret.merge_tree import Hierarchy, hierarchy
from tl_modules.interpret.nesting import Nestedness, nestedness
from tl_modules.interpret.topics import with_topics
from tl_modules.interpret.values_by_token import token_values
from tl_modules.interventions.attachments import attached, detach_all
from tl_modules.interventions.target import Target
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import Module, ModuleSet, Objective
from tl_modules.modules.topic import Topic
from tl_modules.plots.blocks import plot_activations
from tl_modules.plots.concepts import plot_concepts
from tl_modules.plots.costs import plot_costs
from tl_modules.plots.dendrogram import plot_hierarchy
from tl_modules.plots.detectors import plot_detectors
from tl_modules.plots.heatmaps import plot_coverage, plot_effects, plot_layers
from tl_modules.plots.landscape import plot_landscape
from tl_modules.plots.n_modules import plot_n_modules
from tl_modules.plots.thoughts import plot_thoughts
from tl_modules.plots.tokens import plot_tokens
from tl_modules.related.concept_erasure import ConceptErasure, leace
from tl_modules.related.eigen_shift import EigenShift, eigenshift
from tl_modules.report.page import write_report
from tl_modules.runtime import determinism as determinism  # first: before anything multiplies
from tl_modules.saes.spliced import SplicedModel
from tl_modules.saes.splicing import with_saes
from tl_modules.thoughts.states import thought_states
from tl_modules.thoughts.thoughts import Thoughts
from tl_modules.training.forgetting_controls import forgetting
from tl_modules.training.limited import training_all_but, training_only
from tl_modules.training.masks import parameter_masks
from tl_modules.training.pathways import Fusion, fuse_pathways
from tl_modules.training.rectify import rectified
from tl_modules.training.reweight import satimp_weights
from tl_modules.training.unlearning import Unlearning, unlearn
from tl_modules.units import Site, Units

__all__ = [
    "ActivationMatrix",
    "ActivationStore",
    "Attribution",
    "CircuitScores",
    "Collector",
    "ConceptErasure",
    "Coverage",
    "Detectors",
    "Dissociation",
    "EigenShift",
    "Fusion",
    "Hierarchy",
    "HookedModel",
    "IterDResult",
    "Module",
    "ModuleGraph",
    "ModuleMatch",
    "ModuleSet",
    "ModulesError",
    "Nestedness",
    "Objective",
    "Parts",
    "Probe",
    "Reading",
    "Reference",
    "Selectivity",
    "SharedUnits",
    "Site",
    "SplicedModel",
    "StoreWriter",
    "Target",
    "Thoughts",
    "Topic",
    "Units",
    "Unlearning",
    "attached",
    "attribute_modules",
    "choose_n_modules",
    "circuit_scores",
    "collect",
    "collect_reference",
    "compare_detectors",
    "compare_methods",
    "concept_effects",
    "coverage",
    "detach_all",
    "discover",
    "discover_baseline",
    "dissociation",
    "eigenshift",
    "forgetting",
    "fuse_pathways",
    "get_act_patch_module",
    "get_act_patch_module_by_layer",
    "get_act_patch_module_by_pos",
    "greedy_circuit",
    "hierarchy",
    "iterd",
    "leace",
    "match_modules",
    "module_depth",
    "module_effects",
    "module_graph",
    "module_layers",
    "nestedness",
    "objective",
    "parameter_masks",
    "plot_activations",
    "plot_concepts",
    "plot_costs",
    "plot_coverage",
    "plot_detectors",
    "plot_effects",
    "plot_hierarchy",
    "plot_landscape",
    "plot_layers",
    "plot_n_modules",
    "plot_thoughts",
    "plot_tokens",
    "probe",
    "probe_accuracy",
    "rectified",
    "satimp_weights",
    "selectivity",
    "set_aside_background",
    "shared_units",
    "specialised_parts",
    "split_by_category",
    "stability",
    "thought_states",
    "token_values",
    "training_all_but",
    "training_only",
    "unlearn",
    "with_corrupted",
    "with_saes",
    "with_topics",
    "write_report",
]
