"""A model's own parts as targets: attention heads, MLP layers and the residual stream."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tl_modules.causal.experiment import Outcome
from tl_modules.errors import ModulesError, check_choice
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.prepared_units import AblatedUnits
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.models.hooked_model import HookedModel
from tl_modules.units import Units, site_units

Component = Literal["head", "mlp", "resid"]
"""``head``: one attention head, at ``hook_z``. ``mlp``: all neurons of a layer, at ``hook_post``.
``resid``: the residual stream after a layer, at ``hook_resid_post``."""

COMPONENTS: tuple[Component, ...] = get_args(Component)

_SITES: dict[Component, str] = {"head": "attn_heads", "mlp": "mlp", "resid": "resid"}

_CONTROLS: dict[Component, str] = {
    "head": "all other heads",
    "mlp": "all other MLP layers",
    "resid": "nothing",
}
"""What each kind is held against, in the table's column ``controls``. The residual stream holds all
that is written before it: how much that is depends on the layer, so that one layer's stream is no
control of another's."""


@dataclass(frozen=True, eq=False)
class _Alone(AblatedUnits):
    """Units that an experiment changes, without random sets as controls."""

    def controls(self, n_controls: int, generator: np.random.Generator) -> list[AblatedUnits]:
        """None: components are held against each other."""
        del n_controls, generator
        return []


@dataclass(frozen=True, eq=False)
class ModelComponent(UnitTarget):
    """A head, an MLP layer, or the residual stream after a layer."""

    kind: Component
    layer: int
    head: int | None
    label: str
    units: Units
    category: str | None = None
    reference: HasUnitMeans | None = None
    """Where ablation takes its values from, also in an experiment with another reference."""

    def in_experiment(self, ablation: Ablation) -> AblatedUnits:
        """The whole component, changed by the experiment's method.

        Args:
            ablation: The experiment's options. Its reference and the units that it excludes are
                the modules'.
        """
        return _Alone.of(self, replace(ablation, reference=None, exclude=None))

    @property
    def hook_name(self) -> str:
        """The hook point that the component is changed at."""
        return self.units.hook_names[self.units.hook[0]]


def check_components(components: Sequence[str]) -> list[Component]:
    """The kinds of components that a user asked for, each once.

    Args:
        components: Some of ``COMPONENTS``.

    Raises:
        ModulesError: If there is none, or one is unknown.
    """
    if not len(components):
        raise ModulesError(
            "components should hold one or more of 'head', 'mlp', 'resid'; it is empty. Leave it "
            "out for all of them, or use module_effects for modules alone."
        )
    for component in components:
        check_choice("components", component, COMPONENTS)
    return [kind for kind in COMPONENTS if kind in components]


def site_of(kinds: Sequence[Component]) -> str:
    """The name of the site that holds components of these kinds."""
    return "+".join(_SITES[kind] for kind in kinds)


def components_of(model: HookedModel, kinds: Sequence[Component]) -> list[ModelComponent]:
    """All components of a model, kind by kind and layer by layer.

    Args:
        model: The model.
        kinds: The kinds, each once.

    Raises:
        ModulesError: If the model lacks a kind's hook points.
    """
    units = site_units(model, site_of(kinds))
    n_layers = len(units.hook_names) // len(kinds)
    found = []
    for hook, at in units.by_hook():
        kind, layer = kinds[hook // n_layers], units.layers[hook]
        if kind == "head":
            found += [
                ModelComponent(kind, layer, head, f"L{layer}H{head}", units.select(at[[head]]))
                for head in range(len(at))
            ]
        else:
            found.append(ModelComponent(kind, layer, None, f"L{layer} {kind}", units.select(at)))
    return found


def beside_others(
    components: Sequence[ModelComponent], outcomes: Sequence[Outcome]
) -> list[tuple[Outcome, str]]:
    """Hold each component against all others of its kind, which are as wide as it is.

    Args:
        components: The components.
        outcomes: What changing each alone did.

    Returns:
        Each component's outcome with the others as controls, and what the controls are called. The
        residual stream has none.
    """
    kinds = np.array([each.kind for each in components])
    rises = np.concatenate([outcome.rises for outcome in outcomes])
    found = []
    for number, (each, outcome) in enumerate(zip(components, outcomes, strict=True)):
        others = np.flatnonzero((kinds == each.kind) & (each.kind != "resid"))
        runs = np.concatenate([[number], others[others != number]])
        found.append((Outcome(outcome.trial, rises[runs]), _CONTROLS[each.kind]))
    return found
