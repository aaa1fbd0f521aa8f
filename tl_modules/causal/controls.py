"""What the controls of an experiment have in common with its modules, by kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.causal.metrics import Task, make_task
from tl_modules.causal.unit_estimates import estimates_of
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.strata import Strata
from tl_modules.models.hooked_model import HookedModel
from tl_modules.units import Units

ControlKind = Literal["layer", "magnitude", "attribution"]
"""``layer``: random units of the same layers. ``magnitude``: of the same layers and a similar mean
|a|. ``attribution``: of the same layers and a similar estimated size of what ablating each alone
does to the loss."""

KINDS: tuple[ControlKind, ...] = get_args(ControlKind)


@dataclass(frozen=True, eq=False)
class Setting:
    """What controls are made from, besides the modules."""

    model: HookedModel
    frame: pd.DataFrame
    """The prompts of the experiment."""

    reference: HasUnitMeans | None
    """The experiment's reference, which precedes each module's own."""

    exclude: Units | None
    batch_size: int
    max_tokens: int | None
    task: Task | None = None
    """The prompts' task where its metric is the loss: tokenised already."""

    positions: Touched = "all"
    """The tokens at which units are changed."""


_Maker = Callable[[Setting, Units, HasUnitMeans | None], Strata]
"""``make(setting, units, own_reference)``: strata of the site that the units lie in."""


def strata_maker(
    kind: ControlKind, setting: Setting
) -> Callable[[Units, HasUnitMeans | None], Strata]:
    """What makes an experiment's strata; see ``Ablation.strata``.

    The modules of an experiment share their strata, which the first module's units and reference
    make: ``"attribution"`` runs the model.

    Args:
        kind: One of ``KINDS``.
        setting: What controls are made from.

    Returns:
        The maker.
    """
    made: list[Strata] = []

    def strata(units: Units, own_reference: HasUnitMeans | None) -> Strata:
        if not made:
            made.append(_MAKERS[kind](setting, units, own_reference))
        return made[0]

    return strata


def _layer(setting: Setting, units: Units, own_reference: HasUnitMeans | None) -> Strata:
    del own_reference
    return Strata.by_layer(units, setting.exclude)


def _magnitude(setting: Setting, units: Units, own_reference: HasUnitMeans | None) -> Strata:
    for source in (setting.reference, own_reference):
        values = None if source is None else _mean_magnitudes(source, units)
        if values is not None:
            return Strata.matched(units, values, setting.exclude)
    raise ModulesError(
        "controls='magnitude' needs the units' mean |activation|, which these modules do "
        "not hold. Discover them from raw activations (or pass modules that were as "
        "reference=), or use controls='layer'."
    )


def has_magnitudes(units: Units, *sources: HasUnitMeans | None) -> bool:
    """Whether a source holds the mean |activation| of the units, as ``"magnitude"`` needs."""
    return any(
        source is not None and _mean_magnitudes(source, units) is not None for source in sources
    )


def _mean_magnitudes(source: HasUnitMeans, units: Units) -> Float[np.ndarray, " units"] | None:
    """The mean |activation| of every unit of the site; None if the source does not hold it."""
    normaliser, reading = (getattr(source, name, None) for name in ("normaliser", "reading"))
    if normaliser is None or reading is None or not reading.is_magnitude:
        return None
    if not source.units.same_hooks(units):
        return None
    return np.asarray(normaliser.mean, dtype=np.float64)


def _attribution(setting: Setting, units: Units, own_reference: HasUnitMeans | None) -> Strata:
    means = own_reference if setting.reference is None else setting.reference
    if means is None:
        raise ModulesError("controls='attribution' needs means to ablate to. Pass reference=...")
    if not means.units.same_hooks(units):
        raise ModulesError(
            "controls='attribution' needs a reference of the modules' own units; its site or "
            "model is another. Collect it with the same units=..."
        )
    task = setting.task
    if task is None:
        options = (setting.batch_size, setting.max_tokens, setting.positions)
        task = make_task(setting.model, setting.frame, "loss", *options)
    estimated = estimates_of(
        setting.model,
        setting.frame,
        means,
        task,
        of_content=setting.positions == "content",
        progress=False,
    )
    names, estimates = estimated.categories, estimated.magnitude
    # Every prompt counts the same, as it does in the mean over all prompts.
    counts = setting.frame["category"].astype(str).value_counts() if len(names) > 1 else None
    weights = np.array([1 if counts is None else counts[name] for name in names], dtype=float)
    return Strata.matched(units, weights @ estimates / weights.sum(), setting.exclude)


_MAKERS: dict[ControlKind, _Maker] = {
    "layer": _layer,
    "magnitude": _magnitude,
    "attribution": _attribution,
}
