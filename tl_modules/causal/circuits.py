"""Circuits of modules: which of them, kept alone, still do a task?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped

from tl_modules.causal.runs import Rows, check_pairs
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.hooks import unit_hooks
from tl_modules.model import FwdHooks, HookedModel
from tl_modules.modules import Module, as_list
from tl_modules.replacements import HasUnitMeans
from tl_modules.stats import N_RESAMPLES, bootstrap_indices, ratio_beside_controls
from tl_modules.units import Units

METHODS = ("patch", "mean", "zero")
"""What becomes of units outside a circuit; see ``replacements.METHODS``."""


@dataclass(frozen=True, eq=False, repr=False)
class CircuitScores:
    """How well some modules do a task alone, and how badly the model does without them."""

    circuit: tuple[int, ...]
    """The modules' labels."""

    table: pd.DataFrame
    """Rows ``faithfulness`` (the metric's share that is left when every module outside the circuit
    is ablated: 1 as with all modules, 0 as with none) and ``completeness`` (the share that is lost
    when the circuit itself is ablated); columns ``effect``, ``ci_low``, ``ci_high`` (95 % bootstrap
    over prompts), ``control_mean``, ``control_std``, ``p_value``."""

    minimality: pd.DataFrame
    """One row a member: ``module``, and the same numbers of the faithfulness that the circuit loses
    without it; near 0 or below, the circuit does not need it."""

    metric_full: float
    """The metric with all modules, averaged over prompts."""

    metric_empty: float
    """The metric with none."""

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
        return self.table.to_html() + self.minimality.to_html(index=False)


def circuit_scores(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Int[torch.Tensor, "_batch _pos"],
    corrupted_tokens: Int[torch.Tensor, "_batch _pos"] | None,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Iterable[Module],
    circuit: Iterable[int],
    *,
    method: str = "patch",
    reference: HasUnitMeans | None = None,
    n_controls: int = 19,
    attention_mask: Shaped[torch.Tensor, "_batch _pos"] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> CircuitScores:
    """Faithfulness, completeness and minimality of a circuit of modules.

    With ``F(C)`` the mean metric of the clean run when the units of every module outside ``C`` are
    ablated, and ``M`` all modules, faithfulness is ``(F(C) - F(none)) / (F(M) - F(none))``, and
    completeness 1 minus the faithfulness of ``M`` without ``C`` (Marks et al. 2024's measures; the
    three criteria are Wang et al. 2022's). Attention, and units that are in none of the modules,
    stay as they are: what they do alone is in ``F(none)``.

    A control is the same circuit of pseudo-modules: in each layer the units are dealt out to the
    modules anew, at random, each keeping its number there.

    Args:
        model: The model.
        clean_tokens: The run that is ablated, ``[batch, pos]``.
        corrupted_tokens: Where ``"patch"`` takes its values from, of the same shape; None with
            other methods.
        metric: From logits ``[batch, pos, d_vocab]`` to one number a prompt, ``[batch]``.
        modules: A ``ModuleSet``, or some modules of one.
        circuit: Labels of some of them.
        method: What becomes of the units outside: ``"patch"``, ``"mean"`` or ``"zero"``.
        reference: Where ``"mean"`` takes its values from; by default what the modules were
            discovered on.
        n_controls: Controls; the smallest p-value is ``1 / (1 + n_controls)``.
        attention_mask: 1 or True where a token is real; padding is not touched.
        batch_size: Rows of a forward pass: prompts times circuits, which are stacked.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        The scores.

    Raises:
        ModulesError: If a label is none of the modules', the runs differ in shape, the metric is
            not one number a prompt, or ablating all modules does not change it.
    """
    task = _Task.prepare(
        Rows(model, clean_tokens, attention_mask, batch_size),
        corrupted_tokens,
        metric,
        modules,
        method,
        reference,
        progress,
    )
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    members = task.members(circuit)
    outside = [at for at in range(task.n_modules) if at not in members]
    without = [[at for at in members if at != member] for member in members]
    dealt = task.dealt(n_controls, seed)
    values = task.measured(
        [(labels, kept) for labels in dealt for kept in (members, outside, *without)]
    ).reshape(len(dealt), 2 + len(members), -1)
    kept, left = values[:, 0], values[:, 1]
    draws = bootstrap_indices(np.zeros(len(task.full)), N_RESAMPLES, seed)

    def share(parts: Float[np.ndarray, "runs batch"]) -> dict[str, float]:
        return ratio_beside_controls(parts, task.full - task.empty, draws)

    table = {"faithfulness": share(kept - task.empty), "completeness": share(task.full - left)}
    rows = [
        {"module": task.modules[member].label} | share(kept - values[:, 2 + at])
        for at, member in enumerate(members)
    ]
    return CircuitScores(
        tuple(task.modules[member].label for member in members),
        pd.DataFrame(table).T,
        pd.DataFrame(rows),
        metric_full=float(task.full.mean()),
        metric_empty=float(task.empty.mean()),
    )


def greedy_circuit(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Int[torch.Tensor, "_batch _pos"],
    corrupted_tokens: Int[torch.Tensor, "_batch _pos"] | None,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Iterable[Module],
    *,
    n_steps: int | None = None,
    held_out: bool = True,
    method: str = "patch",
    reference: HasUnitMeans | None = None,
    n_controls: int = 19,
    attention_mask: Shaped[torch.Tensor, "_batch _pos"] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Grow a circuit: at each step add the module that brings faithfulness nearest to 1.

    The arguments that it shares with ``circuit_scores`` mean the same here.

    Args:
        model: The model.
        clean_tokens: The run that is ablated, ``[batch, pos]``.
        corrupted_tokens: Where ``"patch"`` takes its values from, of the same shape.
        metric: From logits ``[batch, pos, d_vocab]`` to one number a prompt, ``[batch]``.
        modules: A ``ModuleSet``, or some modules of one.
        n_steps: How many modules to add; by default all, one after the other.
        held_out: Choose on a random half of the prompts and report on the other. If False, both on
            all: what was chosen then flatters itself.
        method: What becomes of the units outside: ``"patch"``, ``"mean"`` or ``"zero"``.
        reference: Where ``"mean"`` takes its values from.
        n_controls: Controls; the smallest p-value is ``1 / (1 + n_controls)``.
        attention_mask: 1 or True where a token is real; padding is not touched.
        batch_size: Rows of a forward pass: prompts times circuits, which are stacked.
        seed: Seeds the halves, controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row a step: ``step``, ``module`` (added), ``n_units`` (of the circuit), ``chosen_on``
        (faithfulness on the prompts that chose), ``effect`` (faithfulness on those held out),
        ``ci_low``, ``ci_high``, and ``control_mean``, ``control_std``, ``p_value`` of the same
        circuit of pseudo-modules.

    Raises:
        ModulesError: As ``circuit_scores`` raises, or if fewer than four prompts are to be halved.
    """
    task = _Task.prepare(
        Rows(model, clean_tokens, attention_mask, batch_size),
        corrupted_tokens,
        metric,
        modules,
        method,
        reference,
        progress,
    )
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    n_steps = task.n_modules if n_steps is None else n_steps
    check_at_least("n_steps", n_steps, 1)
    n_prompts = len(clean_tokens)
    choosing = testing = np.arange(n_prompts)
    if held_out:
        if n_prompts < 4:
            raise ModulesError(
                f"held_out=True needs at least four prompts to halve; got {n_prompts}. Pass more, "
                "or held_out=False."
            )
        order = np.random.default_rng(seed).permutation(n_prompts)
        choosing, testing = np.sort(order[: n_prompts // 2]), np.sort(order[n_prompts // 2 :])
    gap = task.full - task.empty
    draws = bootstrap_indices(np.zeros(len(testing)), N_RESAMPLES, seed)
    dealt = task.dealt(n_controls, seed)
    circuit: list[int] = []
    rows = []
    for step in range(1, min(n_steps, task.n_modules) + 1):
        free = [at for at in range(task.n_modules) if at not in circuit]
        found = task.measured([(dealt[0], [*circuit, at]) for at in free]) - task.empty
        shares = found[:, choosing].sum(axis=1) / gap[choosing].sum()
        best = int(np.argmin(np.abs(shares - 1)))
        circuit.append(free[best])
        # The circuit itself was run just now; its controls were not.
        controls = task.measured([(labels, circuit) for labels in dealt[1:]]) - task.empty
        parts = np.concatenate([found[[best]], controls])
        rows.append(
            {
                "step": step,
                "module": task.modules[free[best]].label,
                "n_units": sum(task.modules[at].n_units for at in circuit),
                "chosen_on": float(shares[best]),
            }
            | ratio_beside_controls(parts[:, testing], gap[testing], draws)
        )
    return pd.DataFrame(rows)


_OUTSIDE = -1
"""The label of units that are in none of the modules."""

_Labels = Int[np.ndarray, " units"]
_Circuit = tuple[_Labels, Sequence[int]]
"""Which module each unit of the site is in, and the modules that are kept."""


@dataclass(frozen=True, eq=False)
class _Task:
    """A metric of the clean run, with some modules' units and without the others'."""

    rows: Rows
    metric: Callable[[torch.Tensor], torch.Tensor]
    modules: list[Module]
    ablated: Callable[[Units], FwdHooks]
    progress: bool
    labels: _Labels
    full: Float[np.ndarray, " batch"]
    """The metric of each prompt with all modules."""
    empty: Float[np.ndarray, " batch"]
    """The metric of each prompt with none."""

    @classmethod
    def prepare(
        cls,
        rows: Rows,
        corrupted_tokens: torch.Tensor | None,
        metric: Callable[[torch.Tensor], torch.Tensor],
        modules: Iterable[Module],
        method: str,
        reference: HasUnitMeans | None,
        progress: bool,
    ) -> "_Task":
        """Check everything, and measure the metric with all modules and with none."""
        check_choice("method", method, METHODS)
        rows.check()
        chosen = as_list(modules)
        for module in chosen:
            module.units.check_model(rows.model)
        source = None
        if method == "patch":
            if corrupted_tokens is None:
                raise ModulesError(
                    "method='patch' takes its values from the corrupted run. Pass "
                    "corrupted_tokens, or use method='mean'."
                )
            check_pairs(rows.tokens, corrupted_tokens)
            other = Rows(rows.model, corrupted_tokens, rows.attention_mask, rows.batch_size)
            source = other.activations(chosen[0].units.hook_names)
        means = chosen[0].means if reference is None else reference

        def ablated(units: Units) -> FwdHooks:
            return unit_hooks(
                units, method, means, source=source, attention_mask=rows.attention_mask
            )

        every = chosen[0].units.every()
        labels = np.full(len(every), _OUTSIDE)
        for at, module in enumerate(chosen):
            labels[module.units.flat()] = at
        inside = every.select(labels != _OUTSIDE)
        full, empty = rows.measured(metric, [[], ablated(inside)], "", progress=False)
        if abs(full.mean() - empty.mean()) <= 1e-6 * np.abs([full, empty]).mean():
            raise ModulesError(
                f"Ablating all modules should change the metric; it stays at {full.mean():.6g}. "
                "Use a metric that depends on them, or prompts that differ more."
            )
        return cls(rows, metric, chosen, ablated, progress, labels, full, empty)

    @property
    def n_modules(self) -> int:
        return len(self.modules)

    def members(self, circuit: Iterable[int]) -> list[int]:
        """Places of the modules that have these labels, in order."""
        places = {module.label: at for at, module in enumerate(self.modules)}
        wanted = list(dict.fromkeys(circuit))
        for label in wanted:
            if label not in places:
                raise ModulesError(
                    f"circuit should hold labels of the modules, {sorted(places)}; got {label!r}."
                )
        return sorted(places[label] for label in wanted)

    def dealt(self, n_controls: int, seed: int) -> list[_Labels]:
        """The modules' labels, and the controls': dealt out anew within each layer."""
        generator = np.random.default_rng([seed, 1])
        hook = self.modules[0].units.every().hook
        found = [self.labels]
        for _ in range(n_controls):
            labels = self.labels.copy()
            for layer in np.unique(hook):
                inside = np.flatnonzero((hook == layer) & (labels != _OUTSIDE))
                labels[inside] = generator.permutation(labels[inside])
            found.append(labels)
        return found

    def measured(self, circuits: Sequence[_Circuit]) -> Float[np.ndarray, "circuits batch"]:
        """The metric of each prompt when only these modules are kept."""
        every = self.modules[0].units.every()
        runs = [
            self.ablated(every.select(~np.isin(labels, [*kept, _OUTSIDE])))
            for labels, kept in circuits
        ]
        return self.rows.measured(self.metric, runs, "circuits", self.progress)
