"""What targets leave of a concept that a linear probe can find, beside what else is lost."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.experiment import run_experiment
from tl_modules.causal.metrics import MetricName
from tl_modules.causal.options import Options
from tl_modules.errors import ModulesError
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target, as_targets
from tl_modules.models.answers import shown_separators, with_separator
from tl_modules.models.hooked_model import HookedModel, hook_order
from tl_modules.models.output_layer import output_layer
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.linear_probe import fitted_probe
from tl_modules.tables.prompt_frames import (
    categories_of,
    categories_said,
    has_concept,
    prompt_frame,
)
from tl_modules.tables.prompt_tables import HasToPandas, Prompts
from tl_modules.tables.stats import (
    N_RESAMPLES,
    auc,
    beside_controls,
    bootstrap_indices,
    control_p_value,
    ratio_beside_controls,
    run_rounding,
)
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
    separator: str | None = None,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    factor: float | None = None,
    keep_only: bool = False,
    n_controls: int = 20,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How far each target erases a concept, and what else it costs, on prompts of several kinds.

    Erased is what no probe finds again: under each intervention a fresh linear probe (logistic
    regression on standardised mean states, the first token left out) is fitted to tell prompts of
    the category ``concept`` from the others, on ``fit``, and scored on the test prompts under the
    same intervention. 0.5 is chance; an intervention that only moves the concept elsewhere, or that
    can be undone by a linear map where the probe reads (as EigenShift's by default), leaves the
    score as it is. Lost is the rise of the mean next-token loss on test prompts *without* the
    concept. Faithful is who erases much and loses little, on prompts like those it was made from
    and on others. After the evaluation of LEACE (arXiv 2306.03819, section 5), which fits probes to
    what is erased and measures what the model loses by it; the numbers' form is this project's own.

    Args:
        model: The model.
        targets: Modules and other targets, as ``module_effects`` takes them.
        concept: One of the categories.
        fit: Prompts for the probes, with ``category``: ``concept`` and at least one other. Where
            all sets have ``answer`` or ``corrupted``, a metric or ``"patch"`` may use them; with
            answers, the states are those of prompt and answer.
        tests: Other prompts, with ``category``; several such frames by name, such as in and out of
            distribution.
        hook_name: Where the probes read; by default where the output layer does.
        metric: What is lost, as ``module_effects`` takes it.
        separator: What stands between each prompt and its answer, as ``module_effects`` takes it.
        method: What becomes of the units of modules, as ``module_effects`` takes it.
        reference: As ``module_effects`` takes it.
        factor: As ``module_effects`` takes it.
        keep_only: As ``module_effects`` takes it.
        n_controls: Controls for each target.
        controls: As ``module_effects`` takes it.
        exclude: As ``module_effects`` takes it.
        batch_size: Rows of a forward pass: prompts times interventions, which are stacked.
        max_tokens: Cut prompts after so many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row a target and set of test prompts:

        - ``label`` (the target's), ``prompts`` (the set's name), ``n_with``, ``n_without`` (with
          and without the concept);
        - ``auc_clean`` and ``auc``: the chance that a prompt with the concept scores higher than
          one without, without and under the intervention; ``auc_ci_low``, ``auc_ci_high`` (95 %
          bootstrap over test prompts), ``auc_control_mean``, ``auc_control_std``, ``auc_p_value``
          (one-sided: as near to 0.5 among its controls);
        - ``lost`` (nats per token) and the same numbers of it, ``lost_p_value`` being one-sided: as
          high among its controls; and those of ``harm``, the rise on prompts with the concept.
          Intervals are NaN for a single prompt;
        - with an answer metric ``separator``, in quotes.

    Raises:
        ModulesError: If a set of prompts lacks the concept or anything else, the model has no hook
            point of that name, or as ``module_effects`` raises.
    """
    sets = _named_sets(tests)
    frames = _frames(fit, sets)
    if metric != "loss":
        frames = {name: with_separator(it, separator) for name, it in frames.items()}
    truths = _truths(frames, concept)
    # So that the run below reads the same labels, and warns of nothing twice.
    frames = {name: it.assign(category=categories_of(it)) for name, it in frames.items()}
    shared = [name for name in _COLUMNS if all(name in frame for frame in frames.values())]
    together = pd.DataFrame(
        {name: [text for frame in frames.values() for text in frame[name]] for name in shared}
    )
    options = Options(
        metric=metric,
        separator=separator,
        method=method,
        reference=reference,
        factor=factor,
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
        found = np.stack([_scores(states, truth, seen) for states in outcome.states])
        for name, start, end in zip(sets, ends[:-1], ends[1:], strict=True):
            at = np.arange(start, end)
            row: dict[str, object] = {"label": str(outcome.trial.label), "prompts": str(name)}
            row |= {"n_with": int(truth[at].sum()), "n_without": int((~truth[at]).sum())}
            row["auc_clean"] = float(auc(scores[at], truth[at]))
            row |= _named("auc", _aucs(found[:, at], truth[at], seed))
            for what, chosen in (("lost", at[~truth[at]]), ("harm", at[truth[at]])):
                draws = bootstrap_indices(np.zeros(len(chosen)), N_RESAMPLES, seed)
                rises = outcome.rises[:, chosen]
                numbers = ratio_beside_controls(
                    rises, np.ones(len(chosen)), draws, tolerance=rounding
                )
                row |= _named(what, numbers)
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
        resampled = np.full(N_RESAMPLES, np.nan)  # one prompt resampled is itself
    found = auc(scores, truth)
    # A score below 0.5 is no further erased: turned round it tells as much.
    told = np.abs(found - 0.5)
    p_value = control_p_value(-float(told[0]), -told[1:])
    return beside_controls(found, resampled) | {"p_value": p_value}


def _named(name: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers, by names that begin with what they are of."""
    return {name if key == "effect" else f"{name}_{key}": it for key, it in numbers.items()}
