"""Double dissociation: does one module hurt one kind of prompts, and another module the other?"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.experiment import Experiment, run_experiment
from tl_modules.causal.metrics import MetricName
from tl_modules.causal.options import Options
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target, units_of
from tl_modules.models.answers import shown_separators
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import beside_controls, run_rounding
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units

LEAST_CONTROLS = 19
"""With fewer no p-value reaches 0.05."""


@dataclass(frozen=True, eq=False, repr=False)
class Dissociation:
    """Whether module P hurts set A more than B, and module Q hurts B more than A."""

    effects: pd.DataFrame
    """One row per module and set: ``module`` (``"P"``, ``"Q"``), ``set`` (``"A"``, ``"B"``),
    ``effect``, ``ci_low``, ``ci_high``, ``control_mean``, ``control_std``, ``p_value``, ``n``;
    where answers are read, ``separator``, in quotes; ``positions``, the tokens at which units were
    changed; and, unless the loss is of prompts alone, ``loss_on``."""

    contrasts: pd.DataFrame
    """One row per ``contrast``, with the same columns: ``P: A - B``, ``Q: B - A`` and their sum,
    the ``interaction``."""

    is_double: bool
    """Whether P hurts A, Q hurts B, and each hurts its own set more than the other: the four
    intervals lie above 0, and both contrasts exceed all but 5 % of the controls'. ``effects`` shows
    the harm to the other set; few prompts cannot prove that there is none."""

    def __repr__(self) -> str:
        """One line."""
        sum_ = self.contrasts.loc["interaction"]
        verdict = "double dissociation" if self.is_double else "no double dissociation"
        return f"Dissociation({verdict}: interaction {sum_['effect']:.3g}, p {sum_['p_value']:.2g})"

    def _repr_html_(self) -> str:
        """For Jupyter: both tables."""
        return html_table(repr(self), self.contrasts, self.effects)


@checked
@measures
def dissociation(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    module_p: Target,
    module_q: Target,
    prompts_a: Prompts,
    prompts_b: Prompts,
    *,
    metric: MetricName = "loss",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    factor: float | None = None,
    positions: Touched = "content",
    keep_only: bool = False,
    n_controls: int = 39,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Dissociation:
    """Test two modules on two sets of prompts (Teuber 1955's double dissociation).

    If one module hurts A more than B, A may only be the harder set. A harder set cannot explain two
    modules with opposite preferences. Each contrast is compared with the same contrast of the
    module's controls; the interaction is compared with the interaction of pairs of controls, which
    have no unit in common if P and Q have none.

    Args:
        model: The model.
        module_p: The module, or other target, that should hurt A.
        module_q: The module, or other target, that should hurt B.
        prompts_a: Strings, or a frame with ``prompt`` and, for the answer metrics, ``answer``.
        prompts_b: The other set, such as recall against multi-step reasoning.
        metric: See ``module_effects``; the higher, the worse.
        loss_on: See ``module_effects``.
        separator: Text between each prompt and its answer; see ``module_effects``.
        method: See ``module_effects``.
        reference: See ``module_effects``.
        factor: See ``module_effects``.
        positions: See ``module_effects``.
        keep_only: See ``module_effects``.
        n_controls: Controls of each module; the smallest p-value is ``1 / (1 + n_controls)``.
        controls: See ``module_effects``.
        exclude: See ``module_effects``.
        batch_size: See ``module_effects``.
        max_tokens: See ``module_effects``.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        The four effects, the contrasts, and whether they make a double dissociation.

    Raises:
        ModulesError: If P and Q hold the same units, there are fewer than 19 controls (p could not
            reach 0.05), or as in ``module_effects``.
    """
    check_at_least("n_controls", n_controls, LEAST_CONTROLS)
    if _are_one(module_p, module_q):
        raise ModulesError("module_p and module_q should be two modules; they hold the same units.")
    sets = [
        prompt_frame(prompts).assign(category=name)
        for name, prompts in (("A", prompts_a), ("B", prompts_b))
    ]
    options = Options(
        metric=metric,
        loss_on=loss_on,
        separator=separator,
        method=method,
        reference=reference,
        factor=factor,
        positions=positions,
        keep_only=keep_only,
        n_controls=n_controls,
        controls=controls,
        exclude=exclude,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    experiment = run_experiment(
        model,
        [module_p, module_q],
        pd.concat(sets, ignore_index=True),
        options,
        # One key: the two are permuted alike, so that pairs of controls share as many units as the
        # pair does. Controls of modules without common units would vary less than these do.
        keys=[[seed, 0], [seed, 0]],
    )
    outcome = _outcome(experiment, seed)
    effects = outcome.effects.assign(positions=options.touched, **options.loss_column)
    return replace(outcome, effects=effects)


def _are_one(one: Target, other: Target) -> bool:
    """Whether two targets are one, or hold the same units."""
    units, others = units_of(one), units_of(other)
    if units is None or others is None:
        return one is other
    return np.array_equal(units.flat(), others.flat())


def _outcome(experiment: Experiment, seed: int) -> Dissociation:
    groups = experiment.categories.astype(str)
    draws = bootstrap_indices(groups, N_RESAMPLES, seed)
    in_a = groups == "A"
    rounding = run_rounding(experiment.clean)
    sizes = {"A": int(in_a.sum()), "B": int((~in_a).sum())}

    def both(rises: Float[np.ndarray, "runs prompts"]) -> dict[str, Float[np.ndarray, " runs"]]:
        return {"A": rises[:, in_a].mean(axis=1), "B": rises[:, ~in_a].mean(axis=1)}

    rows, contrasts = [], {}
    for name, outcome in zip("PQ", experiment.outcomes, strict=True):
        runs, resampled = both(outcome.rises), both(outcome.rises[0][draws])
        for which, size in sizes.items():
            if size < 2:  # a single prompt has no interval: every resample is that prompt
                resampled[which][:] = np.nan
            numbers = beside_controls(runs[which], resampled[which], tolerance=rounding)
            rows.append({"module": name, "set": which} | numbers | {"n": size})
        sign = 1.0 if name == "P" else -1.0
        contrasts[name] = tuple(sign * (means["A"] - means["B"]) for means in (runs, resampled))
    sums = tuple(one + other for one, other in zip(contrasts["P"], contrasts["Q"], strict=True))
    table = pd.DataFrame(
        {
            "P: A - B": beside_controls(*contrasts["P"], tolerance=rounding),
            "Q: B - A": beside_controls(*contrasts["Q"], tolerance=rounding),
            "interaction": beside_controls(*sums, tolerance=rounding),
        }
    ).T.rename_axis("contrast")
    effects = pd.DataFrame(rows)
    if experiment.separators is not None:
        effects["separator"] = shown_separators(experiment.separators)
    of_modules = table.iloc[:2]
    prefer = ((of_modules["ci_low"] > 0) & (of_modules["p_value"] <= 0.05)).all()
    hurt = (effects.loc[effects["module"].eq("P") == effects["set"].eq("A"), "ci_low"] > 0).all()
    return Dissociation(effects, table, bool(prefer and hurt))
