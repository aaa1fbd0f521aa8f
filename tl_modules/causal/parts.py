"""Layers, heads and neurons that one kind of prompts needs more than another, as targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from numbers import Integral
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int

from tl_modules.causal.metrics import check_loss_on, reads_answers
from tl_modules.causal.unit_estimates import unit_estimates
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_type
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.strata import Strata
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.models.answers import with_separator
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.labels import column_hint
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units

KINDS = {"layer": 1, "head": 8, "neuron": 200}
"""Kinds of parts, and how many of each are taken."""


@dataclass(frozen=True, eq=False, repr=False)
class Parts(UnitTarget):
    """A set of layers, heads or neurons, as a target that is ablated to its means."""

    method = "mean"

    kind: str
    """``"layer"`` (all heads and neurons of a layer), ``"head"`` or ``"neuron"``."""

    units: Units
    """The units of the parts."""

    reference: HasUnitMeans | None = field()  # it has no default, unlike a UnitTarget's
    """Source of the means that ablation puts in place of the units' activations."""

    label: str
    category: str | None = None

    def controls(self, n_controls: int, generator: np.random.Generator) -> list["Parts"]:
        """Draw random sets of equally many layers, heads of any layer, or neurons per layer.

        A control may share some of its parts with this set, as any two random sets may.

        Args:
            n_controls: How many.
            generator: Draws them.

        Returns:
            The controls. Sets of layers or heads differ from this set and from each other, so there
            may be fewer than ``n_controls``: one layer of 30 has 29 controls.
        """
        if self.kind == "neuron":
            strata = Strata.by_layer(self.units)
            sets = [strata.draw(self.units, generator) for _ in range(n_controls)]
        else:
            sets = self._others(n_controls, generator)
        return [replace(self, units=units) for units in sets]

    def _others(self, n_controls: int, generator: np.random.Generator) -> list[Units]:
        every = self.units.every()
        groups = _groups(every, self.kind)
        names = np.unique(groups[groups >= 0])
        own = np.unique(groups[self.units.flat()])
        sets = {tuple(own.tolist()): None}  # a dictionary keeps the order of the draws
        while len(sets) < 1 + min(n_controls, comb(len(names), len(own)) - 1):
            drawn = np.sort(generator.choice(names, size=len(own), replace=False))
            sets[tuple(drawn.tolist())] = None
        return [every.select(np.isin(groups, drawn)) for drawn in list(sets)[1:]]

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return f"Parts({self.label}: {self.size:,} units, category {self.category})"


@checked
@measures
def specialised_parts(  # noqa: PLR0913 - the options of one search, all by keyword
    model: HookedModel,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    kinds: Annotated[Mapping[str, int] | Sequence[str], Elsewhere("kinds")] = tuple(KINDS),
    metric: Literal["loss", "answer_logprob"] = "answer_logprob",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    positions: Touched = "content",
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> list[Parts]:
    """Find the layers, heads and neurons that each category of prompts needs more than the others.

    Fartale et al. 2025 ("Disentangling Recall and Reasoning in Transformer Models through
    Layer-wise Attention and Activation Analysis", arXiv 2510.03366) ablate and patch parts on
    recall and on reasoning prompts. A part is in the circuit of one set if its loss impairs that
    set and spares the other. Here a part's score for a category is its estimated effect there,
    ``sum of (mean - activation) * d metric / d activation`` over its units, minus its mean effect
    on the other categories. The parts with the highest scores are taken. Test them with
    ``module_effects`` on other prompts.

    Args:
        model: The model.
        prompts: A frame with ``prompt``, ``category`` (two or more) and, where answers are read,
            ``answer``.
        reference: Means of the units of ``"mlp+attn_heads"``, for example from
            ``collect_reference(model, prompts, units="mlp+attn_heads")``.
        kinds: Some of ``"layer"``, ``"head"`` and ``"neuron"``, or a mapping of these to numbers of
            parts; by default 1, 8 and 200.
        metric: ``"answer_logprob"`` or ``"loss"``; see ``module_effects``.
        loss_on: The tokens over which ``"loss"`` is averaged; see ``module_effects``.
        separator: See ``module_effects``.
        positions: See ``module_effects``.
        batch_size: Prompts per pass; ``"auto"``: as many as memory holds (``collect``).
        progress: Show a progress bar.

    Returns:
        One target per kind and category, such as ``"recall heads"``. If there are fewer parts than
        wanted, the target has all of them.

    Raises:
        ModulesError: If there are fewer than two categories, the reference has no neurons or heads,
            a kind is unknown or none is given, a number of parts is not a whole number of at least
            1, or as in ``module_effects``.
    """
    wanted = _counts(kinds)
    remedy = "Use collect_reference(model, prompts, units='mlp+attn_heads')."
    check_type(reference, HasUnitMeans, "reference should hold units and their means", remedy)
    units = reference.units
    if units.site != "mlp+attn_heads":
        raise ModulesError(
            f"reference should hold neurons and heads; its units are of another site. {remedy}"
        )
    check_loss_on(metric, loss_on)
    frame = labelled(prompt_frame(prompts))
    frame = with_separator(frame, separator, answers=reads_answers(metric, loss_on))
    if len(set(categories_of(frame))) < 2:
        remedy = "Add prompts of another"
        if "category" not in frame.columns:
            remedy = column_hint(list(frame.columns))
        raise ModulesError(
            "prompts should have two categories or more, to need a part for one of them; there is "
            f"one. {remedy}."
        )
    estimated = unit_estimates(
        model,
        frame,
        reference,
        estimate="gradient",
        metric=metric,
        loss_on=loss_on,
        batch_size=batch_size,
        progress=progress,
        positions=positions,
    )
    parts = []
    for kind, count in wanted.items():
        groups = _groups(units, kind)
        numbers, of_units = np.unique(groups, return_inverse=True)
        scores = np.stack([np.bincount(of_units, weights=row) for row in estimated.signed])
        for row, category in enumerate(estimated.categories):
            gap = scores[row] - np.delete(scores, row, axis=0).mean(axis=0)
            ranked = numbers[np.argsort(-gap, kind="stable")]
            best = ranked[ranked >= 0][:count]  # -1 are units of other kinds
            of_parts = units.select(np.isin(groups, best))
            parts.append(Parts(kind, of_parts, reference, f"{category} {kind}s", category))
    return parts


def _counts(kinds: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """How many parts of each kind are taken."""
    if not isinstance(kinds, Mapping | Sequence) or not kinds:
        raise ModulesError(
            f"kinds should hold one or more of {', '.join(map(repr, KINDS))}; got {kinds!r}. Leave "
            "it out for all of them."
        )
    for kind in kinds:
        check_choice("kinds", kind, tuple(KINDS))
    counts = dict(kinds) if isinstance(kinds, Mapping) else {kind: KINDS[kind] for kind in kinds}
    for kind, count in counts.items():
        name = f"kinds[{kind!r}]"
        check_type(count, Integral, f"{name} should be a whole number", f"{KINDS[kind]} is usual.")
        check_at_least(name, count, 1)
    return counts


def _groups(units: Units, kind: str) -> Int[np.ndarray, " units"]:
    """The part of this kind that each unit belongs to; -1 for units of other kinds."""
    if kind == "layer":
        return np.asarray(units.layers)[units.hook]
    is_head = np.array([name.endswith("attn.hook_z") for name in units.hook_names])[units.hook]
    is_of_kind = is_head if kind == "head" else ~is_head
    return np.where(is_of_kind, np.arange(len(units)), -1)
