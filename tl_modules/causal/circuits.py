"""Circuits of modules: which of them, kept alone, still do a task?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.circuit_runs import Kept
from tl_modules.causal.kept_units import KeepMethod
from tl_modules.causal.token_runs import Rows
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module import Module, as_list
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ratio_beside_controls
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.html_tables import html_table


@dataclass(frozen=True, eq=False, repr=False)
class CircuitScores:
    """How well some modules do a task alone, and how badly the model does without them."""

    circuit: tuple[int, ...]
    """The modules' labels."""

    table: pd.DataFrame
    """By ``measure``: ``faithfulness`` (the share of the metric that is left when every module
    outside the circuit is ablated; 1 means as with all modules, 0 as with none) and
    ``completeness`` (the share that is lost when the circuit itself is ablated). Columns
    ``effect``, ``ci_low``, ``ci_high`` (95 % bootstrap over prompts), ``control_mean``,
    ``control_std``, ``p_value`` (one-sided: controls whose share is at least as large)."""

    minimality: pd.DataFrame
    """One row per member: ``module``, and the same columns for the faithfulness that the circuit
    loses without the module. Near or below 0, the circuit does not need the module."""

    metric_full: float
    """The metric with all modules, averaged over prompts."""

    metric_empty: float
    """The metric with none of the modules, averaged over prompts."""

    @property
    def faithfulness(self) -> float:
        """The share of the metric that the circuit keeps."""
        return float(self.table.loc["faithfulness", "effect"])

    @property
    def completeness(self) -> float:
        """The share of the metric that is lost without the circuit."""
        return float(self.table.loc["completeness", "effect"])

    def __repr__(self) -> str:
        """One line."""
        return (
            f"CircuitScores({len(self.circuit)} modules, faithfulness {self.faithfulness:.3g}, "
            f"completeness {self.completeness:.3g})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: both tables."""
        return html_table(repr(self), self.table, self.minimality)


@checked
@measures
def circuit_scores(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens | None,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Iterable[Module],
    circuit: Iterable[int],
    *,
    method: KeepMethod = "patch",
    reference: HasUnitMeans | None = None,
    positions: Touched = "content",
    n_controls: int = 19,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> CircuitScores:
    """Score the faithfulness, completeness and minimality of a circuit of modules.

    ``F(C)`` is the mean metric of the clean run when every module outside ``C`` is ablated; ``M``
    is all modules. Faithfulness is ``(F(C) - F(none)) / (F(M) - F(none))``. Completeness is 1 minus
    the faithfulness of ``M`` without ``C``; Marks et al. 2024 report this faithfulness itself. The
    three criteria are from Wang et al. 2022. Attention, and units of no module, stay unchanged:
    their effect is in ``F(none)``. Score a circuit on other prompts than those that chose it.

    A control is the same circuit of pseudo-modules: each layer's units are assigned to the modules
    at random, as many to each module as before.

    Args:
        model: The model.
        clean_tokens: The run that is ablated, ``[batch, pos]``.
        corrupted_tokens: The run that ``"patch"`` takes values from, of the same shape; None for
            other methods.
        metric: From logits ``[batch, pos, d_vocab]`` to one number per prompt, ``[batch]``.
        modules: A ``ModuleSet``, or some modules of one.
        circuit: Labels of the circuit's modules.
        method: How units outside the circuit are ablated: ``"patch"``, ``"mean"`` or ``"zero"``.
        reference: Means for ``"mean"``; by default those of the activations that the modules were
            discovered on.
        positions: Tokens that ``"mean"`` and ``"zero"`` change; see ``module_effects``.
        n_controls: Number of controls; the smallest p-value is ``1 / (1 + n_controls)``.
        attention_mask: 1 or True where a token is real; padding is not touched.
        batch_size: Rows of a forward pass, prompts times circuits; ``"auto"``: as many as memory
            holds (``collect``), but never fewer than the prompts.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        The scores.

    Raises:
        ModulesError: If a label is not a module's, the runs differ in shape, the metric is not one
            number per prompt, or ablating all modules does not change the metric.
    """
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    listed = as_list(modules)
    members = _places(listed, circuit)
    kept = Kept.prepare(
        Rows.given(model, "clean_tokens", clean_tokens, attention_mask, batch_size),
        corrupted_tokens,
        metric,
        listed,
        method,
        reference,
        positions,
    )
    outside = [place for place in range(len(listed)) if place not in members]
    without = [[other for other in members if other != member] for member in members]
    dealt = kept.dealt(n_controls, seed)
    values = kept.measured(
        [(labels, places) for labels in dealt for places in (members, outside, *without)], progress
    ).reshape(len(dealt), 2 + len(members), -1)
    task, alone, left = kept.task, values[:, 0], values[:, 1]
    draws = bootstrap_indices(np.zeros(len(task.full)), N_RESAMPLES, seed)

    def share(parts: Float[np.ndarray, "runs batch"]) -> dict[str, float]:
        return ratio_beside_controls(parts, task.gap, draws, tolerance=task.rounding)

    table = {"faithfulness": share(alone - task.empty), "completeness": share(task.full - left)}
    rows = [
        {"module": listed[member].label} | share(alone - values[:, 2 + number])
        for number, member in enumerate(members)
    ]
    return CircuitScores(
        tuple(listed[member].label for member in members),
        pd.DataFrame(table).T.rename_axis("measure"),
        pd.DataFrame(rows, columns=["module", *table["faithfulness"]]),
        metric_full=float(task.full.mean()),
        metric_empty=float(task.empty.mean()),
    )


@checked
@measures
def greedy_circuit(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens | None,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Iterable[Module],
    *,
    n_steps: int | None = None,
    held_out: bool = True,
    method: KeepMethod = "patch",
    reference: HasUnitMeans | None = None,
    positions: Touched = "content",
    n_controls: int = 19,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Grow a circuit: at each step add the module that brings faithfulness nearest to 1.

    A control is a circuit that grows in the same way from pseudo-modules (see ``circuit_scores``),
    so it is the best of several too.

    Args:
        model: The model.
        clean_tokens: The run that is ablated, ``[batch, pos]``.
        corrupted_tokens: The run that ``"patch"`` takes values from, of the same shape.
        metric: From logits ``[batch, pos, d_vocab]`` to one number per prompt, ``[batch]``.
        modules: A ``ModuleSet``, or some modules of one.
        n_steps: Number of modules to add; by default all.
        held_out: Choose on a random half of the prompts and report on the other half. If False,
            choose and report on all prompts, which overrates faithfulness. Score the final circuit
            with ``circuit_scores`` on prompts of neither half.
        method: See ``circuit_scores``.
        reference: See ``circuit_scores``.
        positions: See ``circuit_scores``.
        n_controls: Number of controls; each takes as many runs as the circuit. The smallest p-value
            is ``1 / (1 + n_controls)``.
        attention_mask: 1 or True where a token is real; padding is not touched.
        batch_size: See ``circuit_scores``.
        seed: Seeds the halves, controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row per step: ``step``, ``module`` (added), ``n_units`` (of the circuit), ``chosen_on``
        (faithfulness on the choosing half), ``effect`` (faithfulness on the held-out half),
        ``ci_low``, ``ci_high``, and ``control_mean``, ``control_std``, ``p_value`` (one-sided:
        controls at least as faithful) of controls with as many pseudo-modules.

    Raises:
        ModulesError: As in ``circuit_scores``, or if there are fewer than four prompts to
            halve.
    """
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    listed = as_list(modules)
    n_steps = len(listed) if n_steps is None else n_steps
    check_at_least("n_steps", n_steps, 1)
    rows = Rows.given(model, "clean_tokens", clean_tokens, attention_mask, batch_size)
    n_prompts = len(rows.tokens)
    choosing = testing = np.arange(n_prompts)
    if held_out:
        if n_prompts < 4:
            raise ModulesError(
                f"held_out=True needs at least four prompts to halve; got {n_prompts}. Pass more, "
                "or held_out=False."
            )
        order = np.random.default_rng(seed).permutation(n_prompts)
        choosing, testing = np.sort(order[: n_prompts // 2]), np.sort(order[n_prompts // 2 :])
    kept = Kept.prepare(
        rows,
        corrupted_tokens,
        metric,
        listed,
        method,
        reference,
        positions,
    )
    task, gap = kept.task, kept.task.gap
    for half in (choosing, testing):
        task.check_gap(half)
    n_steps = min(n_steps, len(listed))
    dealt = tqdm(kept.dealt(n_controls, seed), desc="circuits", disable=not progress)
    paths = [kept.path(labels, n_steps, choosing) for labels in dealt]
    draws = bootstrap_indices(np.zeros(len(testing)), N_RESAMPLES, seed)
    table = []
    for step in range(n_steps):
        lifts = np.stack([values[step] - task.empty for _, values in paths])
        circuit = [listed[place] for place in paths[0][0][: step + 1]]
        numbers = ratio_beside_controls(
            lifts[:, testing], gap[testing], draws, tolerance=task.rounding
        )
        table.append(
            {
                "step": step + 1,
                "module": circuit[-1].label,
                "n_units": sum(module.n_units for module in circuit),
                "chosen_on": float(lifts[0, choosing].sum() / gap[choosing].sum()),
            }
            | numbers
        )
    return pd.DataFrame(table)


def _places(modules: Sequence[Module], circuit: Iterable[int]) -> list[int]:
    """Places of the modules that have these labels, in order."""
    places = {module.label: place for place, module in enumerate(modules)}
    wanted = list(circuit)
    for label in wanted:
        if label not in places:
            raise ModulesError(
                f"circuit should hold labels of the modules, {sorted(places)}; got {label!r}."
            )
    return sorted({places[label] for label in wanted})
