"""Causal tests on modules and other targets: ablation, patching, attribution, circuits.

Every effect is reported beside the effects of its controls.
"""

from tl_modules.causal.attribution import Attribution, attribute_modules
from tl_modules.causal.beside_components import with_components
from tl_modules.causal.circuits import CircuitScores, circuit_scores, greedy_circuit
from tl_modules.causal.concepts import concept_effects
from tl_modules.causal.cores import CausalCores, causal_cores
from tl_modules.causal.double_dissociation import Dissociation, dissociation
from tl_modules.causal.effects import module_effects
from tl_modules.causal.faithfulness import FaithfulnessCurves, faithfulness_curves
from tl_modules.causal.graph import ModuleGraph, module_graph
from tl_modules.causal.intervention_plan import InterventionPlan, plan_interventions
from tl_modules.causal.pairs import with_corrupted
from tl_modules.causal.parts import Parts, specialised_parts
from tl_modules.causal.patching import (
    get_act_patch_module,
    get_act_patch_module_by_layer,
    get_act_patch_module_by_pos,
)
from tl_modules.causal.selectivities import Selectivity, selectivity
from tl_modules.causal.shared_unit_scores import SharedUnits, shared_units
from tl_modules.causal.steering import steering_effects
from tl_modules.causal.unit_estimates import UnitEstimates, unit_estimates
from tl_modules.tables.control_selectivities import control_selectivities
from tl_modules.tables.verdicts import verdict_sentence, verdicts

__all__ = [
    "Attribution",
    "CausalCores",
    "CircuitScores",
    "Dissociation",
    "FaithfulnessCurves",
    "InterventionPlan",
    "ModuleGraph",
    "Parts",
    "Selectivity",
    "SharedUnits",
    "UnitEstimates",
    "attribute_modules",
    "causal_cores",
    "circuit_scores",
    "concept_effects",
    "control_selectivities",
    "dissociation",
    "faithfulness_curves",
    "get_act_patch_module",
    "get_act_patch_module_by_layer",
    "get_act_patch_module_by_pos",
    "greedy_circuit",
    "module_effects",
    "module_graph",
    "plan_interventions",
    "selectivity",
    "shared_units",
    "specialised_parts",
    "steering_effects",
    "unit_estimates",
    "verdict_sentence",
    "verdicts",
    "with_components",
    "with_corrupted",
]
