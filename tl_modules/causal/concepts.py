"""How far targets erase a concept for linear probes, beside what else they cost."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.experiment import run_experiment
from tl_modules.causal.metrics import MetricName, reads_answers
from tl_modules.causal.options import Options
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target, as_targets
from tl_modules.models.answers import shown_separators, with_separator
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.models.output_layer import output_layer
from tl_modules.models.runs import hook_order
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.against_controls import (
    beside_controls,
    control_p_value,
    named,
    ratio_beside_controls,
    run_rounding,
)
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.linear_probe import fitted_probe
from tl_modules.tables.prompt_frames import (
    categories_of,
    categories_said,
    has_concept,
    prompt_frame,
)
from tl_modules.tables.prompt_tables import HasToPandas, Prompts
from tl_modules.tables.roc import auc
from tl_modules.units import Units

_COLUMNS = ("prompt", "category", "answer", "separator", "corrupted")
"""What a run may need of a set of prompts."""


@checked
@measures
def concept_effects(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    targets: Target | Iterable[Target],
    concept: str,
    fit: Prompts,
    tests: Annotated[Prompts | Mapping[str, Prompts], Elsewhere("prompts, or sets of them")],
    *,
    hook_name: str | None = None,
    metric: MetricName = "loss",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    factor: float | None = None,
    positions: Touched = "content",
    keep_only: bool = False,
    n_controls: int = 20,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how far each target erases a concept, and what else it costs, on sets of prompts.

    Under each intervention, a new linear probe learns on ``fit`` to tell prompts of the category
    ``concept`` from others. Its AUC on the test prompts shows what is left: 0.5 is chance. The cost
    is the rise of the mean next-token loss on test prompts *without* the concept. The how-to
    "Compare modules with other interventions" describes the probe and its limits. The evaluation
    follows LEACE (arXiv 2306.03819, section 5); the tables are this project's.

    Args:
        model: The model.
        targets: Modules and other targets; see ``module_effects``.
        concept: One of the categories.
        fit: Prompts for the probes, with ``category``: ``concept`` and at least one other. If all
            sets have ``answer`` or ``corrupted``, answer metrics or ``"patch"`` use them; with
            answers, the probe reads prompt and answer.
        tests: Other prompts, with ``category``; or several frames by name.
        hook_name: Where the probes read; by default the output layer's input.
        metric: See ``module_effects``.
        loss_on: See ``module_effects``.
        separator: See ``module_effects``.
        method: See ``module_effects``.
        reference: See ``module_effects``.
        factor: See ``module_effects``.
        positions: See ``module_effects``.
        keep_only: See ``module_effects``.
        n_controls: Controls per target.
        controls: See ``module_effects``.
        exclude: See ``module_effects``.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seed of controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row per target and set of test prompts:

        - ``label``, ``prompts`` (the set's name), ``n_with``, ``n_without`` (prompts with and
          without the concept);
        - ``auc_clean`` and ``auc``: the probe's AUC without and under the intervention;
          ``auc_ci_low``, ``auc_ci_high`` (95 % bootstrap over test prompts), ``auc_control_mean``,
          ``auc_control_std``, ``auc_p_value`` (one-sided: controls at least as near to 0.5);
        - ``lost`` (the cost, nats per token) and ``harm`` (the rise on prompts with the concept),
          each with the same columns; p-values count controls at least as high. Intervals are NaN
          for a single prompt;
        - ``positions``, the tokens at which units were changed; ``separator``, in quotes, where
          answers are read; ``loss_on``, unless it is ``"prompt"``.

    Raises:
        ModulesError: If a set lacks prompts with or without the concept, the model lacks the hook
            point, or as in ``module_effects``.
    """
    sets = _named_sets(tests)
    frames = _frames(fit, sets)
    if reads_answers(metric, loss_on):
        frames = {name: with_separator(it, separator) for name, it in frames.items()}
    truths = _truths(frames, concept)
    # The run below then reads the same labels, and does not repeat warnings about them.
    frames = {name: it.assign(category=categories_of(it)) for name, it in frames.items()}
    shared = [name for name in _COLUMNS if all(name in frame for frame in frames.values())]
    together = pd.DataFrame(
        {name: [text for frame in frames.values() for text in frame[name]] for name in shared}
    )
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
        model, as_targets(targets), together, options, hook_name=_where(model, hook_name)
    )
    ends = np.cumsum([len(truth) for truth in truths.values()])
    truth = np.concatenate(list(truths.values()))
    seen = np.arange(ends[0])
    clean = experiment.clean_states
    assert clean is not None  # it was asked for
    scores = _scores(clean, truth, seen)
    rounding = run_rounding(experiment.clean)
    rows = []
    for outcome in experiment.outcomes:
        assert outcome.states is not None
        probed = np.stack([_scores(states, truth, seen) for states in outcome.states])
        for name, start, end in zip(sets, ends[:-1], ends[1:], strict=True):
            of_set = np.arange(start, end)
            has = truth[of_set]
            row: dict[str, object] = {"label": str(outcome.trial.label), "prompts": str(name)}
            row |= {"n_with": int(has.sum()), "n_without": int((~has).sum())}
            row["auc_clean"] = float(auc(scores[of_set], has))
            row |= named("auc", _aucs(probed[:, of_set], has, seed))
            for what, counted in (("lost", of_set[~has]), ("harm", of_set[has])):
                draws = bootstrap_indices(np.zeros(len(counted)), N_RESAMPLES, seed)
                rises = outcome.rises[:, counted]
                numbers = ratio_beside_controls(
                    rises, np.ones(len(counted)), draws, tolerance=rounding
                )
                row |= named(what, numbers)
            row |= {"positions": options.touched, **options.loss_column}
            if experiment.separators is not None:
                row["separator"] = shown_separators(experiment.separators)
            rows.append(row)
    return pd.DataFrame(rows)


def _named_sets(tests: Any) -> dict[str, Any]:
    """The sets of test prompts by their names; one set alone is named ``"all"``."""
    if not isinstance(tests, pd.DataFrame | Mapping | HasToPandas):
        raise ModulesError(
            "tests should be a frame of prompts, or several by name, {name: frame}; got a "
            f"{type(tests).__name__}."
        )
    if not isinstance(tests, Mapping) or "prompt" in tests:  # a mapping of columns is one table
        return {"all": tests}
    if not tests:
        raise ModulesError("tests should hold at least one set of prompts; got none.")
    return {**tests}


def _frames(fit: Any, sets: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """All sets of prompts as frames, by what refusals call them."""
    frames = {"fit": prompt_frame(fit)}
    frames |= {f"tests[{name!r}]": prompt_frame(frame) for name, frame in sets.items()}
    warn_spelling(*(it["category"] for it in frames.values() if "category" in it))
    return frames


def _truths(
    frames: Mapping[str, pd.DataFrame], concept: str
) -> dict[str, Bool[np.ndarray, " prompts"]]:
    """Which prompts of each set have the concept: some should, and some should not."""
    truths = {name: has_concept(it, concept) for name, it in frames.items()}
    for name, truth in truths.items():
        if truth.all() or not truth.any():
            raise ModulesError(
                f"{name} should hold prompts of the category {concept!r} and of another; it has "
                f"{int(truth.sum())} of {len(truth)}. {categories_said(frames[name], concept)}"
            )
    return truths


def _where(model: HookedModel, hook_name: str | None) -> str:
    if hook_name is None:
        return output_layer(model).hook_name
    return hook_order(model, [hook_name])[0]


def _scores(
    states: Float[np.ndarray, "prompts width"],
    truth: Bool[np.ndarray, " prompts"],
    seen: Int[np.ndarray, " fit"],
) -> Float[np.ndarray, " prompts"]:
    """How sure a probe that saw some of the prompts is that each has the concept."""
    return fitted_probe(states[seen], truth[seen]).decision_function(states)


def _aucs(
    scores: Float[np.ndarray, "runs prompts"], truth: Bool[np.ndarray, " prompts"], seed: int
) -> dict[str, float]:
    """How well the first run's scores tell, beside the others'; low speaks for it."""
    resampled = auc(scores[0][bootstrap_indices(truth, N_RESAMPLES, seed)], truth)
    if min(truth.sum(), (~truth).sum()) < 2:
        resampled = np.full(N_RESAMPLES, np.nan)  # every resample of one prompt is that prompt
    aucs = auc(scores, truth)
    # A probe with an AUC below 0.5 knows as much as its opposite, above 0.5.
    known = np.abs(aucs - 0.5)
    p_value = control_p_value(-float(known[0]), -known[1:])
    return beside_controls(aucs, resampled) | {"p_value": p_value}
