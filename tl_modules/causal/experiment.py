"""Running prompts under each target's intervention and its controls'."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.causal.controls import Setting, strata_maker
from tl_modules.causal.metrics import Task, make_task
from tl_modules.causal.options import Options
from tl_modules.causal.own_categories import sample_labels, warn_own_categories
from tl_modules.causal.pairs import CorruptedRuns
from tl_modules.causal.prompt_runs import Intervention, no_intervention, run_task
from tl_modules.causal.row_limits import RowLimit
from tl_modules.causal.states import States
from tl_modules.causal.trials import Runs, Trial, prepare_runs, seed_keys
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.target import Target, units_of
from tl_modules.models.answers import with_separator
from tl_modules.models.hooked_model import HookedModel
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts


@dataclass(frozen=True, eq=False)
class Outcome:
    """The effects of one target's intervention, and of its controls'."""

    trial: Trial
    """The target and its controls."""

    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's metric: the target's first, then each control's."""

    states: Float[np.ndarray, "runs prompts width"] | None = None
    """Each prompt's mean state at the hook point that was read, under the same interventions."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """The outcomes of all targets on one set of prompts."""

    categories: Shaped[np.ndarray, " prompts"]
    """Each prompt's category."""

    clean: Float[np.ndarray, " prompts"]
    """The metric without an intervention."""

    outcomes: list[Outcome]
    """One per target, in their order."""

    clean_states: Float[np.ndarray, "prompts width"] | None = None
    """Each prompt's mean state at the hook point that was read, without an intervention."""

    separators: list[str] | None = None
    """What stood between each prompt and its answer; None where no answers were measured."""


FIRST = 19
"""Controls of every target where a test decides how many it needs; with fewer no p-value reaches
0.05."""

STEP = 20
"""Controls that are run before the test is asked again."""

MASK_BYTES = 2**28
"""The largest size of the masks that say which units each intervention changes: one byte per unit
of the site and intervention."""

Enough = Callable[[Experiment, Outcome], int | None]
"""``enough(experiment, outcome)``: how many of an outcome's controls its test used; None if the
test needs more."""


def run_experiment(
    model: HookedModel,
    targets: Sequence[Target],
    prompts: Prompts,
    options: Options,
    *,
    hook_name: str | None = None,
    compares_own: bool = False,
    keys: Sequence[Sequence[int]] | None = None,
    enough: Enough | None = None,
) -> Experiment:
    """Run each target and its controls.

    Args:
        model: The model.
        targets: Modules and other targets.
        prompts: The prompts; see ``module_effects``.
        options: The experiment's options.
        hook_name: A hook point where each prompt's mean state is read too.
        compares_own: Warn of own categories that are not among the prompts'.
        keys: What seeds each target's controls; by default what ``seed_keys`` gives.
        enough: Decides how many controls a target needs, if ``n_controls`` is None.

    Returns:
        What was measured.

    Raises:
        ModulesError: As in ``module_effects``.
    """
    frame = with_separator(prompt_frame(prompts), options.separator, answers=options.reads_answers)
    # Once, before anything runs: all that follows reads the labels of this frame.
    frame = labelled(frame, *(sample_labels(targets) if compares_own else []))
    categories = categories_of(frame)
    options = options.sized(model, frame)
    task = make_task(
        *(model, frame, options.metric, options.n_rows, options.max_tokens, options.touched),
        loss_on=options.loss_on,
    )
    corrupted = None
    if options.method == "patch":
        corrupted = CorruptedRuns.of(
            model, frame, task, options.max_tokens, answers=options.reads_answers
        )
    n_first = FIRST if options.n_controls is None else options.n_controls
    prepared = prepare_runs(
        model,
        targets,
        ablation_of(model, frame, task, options),
        seed_keys(targets, options.seed) if keys is None else keys,
        corrupted,
    )
    # Before anything runs: the first draw refuses options that do not fit.
    waiting = deque((runs, runs.controls(0, n_first)) for runs in prepared)
    del prepared
    if compares_own:  # after every refusal
        warn_own_categories(targets, frame, n_controls=n_first)
    limit = RowLimit(options.n_rows)
    total = len(frame) * (1 + sum(1 + len(controls) for _, controls in waiting))
    with tqdm(total=total, desc="ablate", unit="prompt", disable=not options.progress) as bar:

        def measure(runs: list[Intervention]) -> tuple[np.ndarray, np.ndarray | None]:
            states = None if hook_name is None else States(hook_name, len(runs), len(frame))
            measured = run_task(model, task, runs, limit, bar.update, states)
            return measured, None if states is None else states.means

        clean, clean_states = measure([no_intervention])
        experiment = Experiment(
            categories,
            clean[0],
            [],
            None if clean_states is None else clean_states[0],
            frame["separator"].tolist() if options.reads_answers else None,
        )

        def rises(runs: list[Intervention]) -> np.ndarray:
            bar.total += len(frame) * len(runs)
            return measure(runs)[0] - clean[0]

        # Targets share passes, but for the states, of which there may be many. A target's masks go
        # when those that run with it are done.
        n_at_once = 1 if hook_name is not None else _n_at_once(targets)
        while waiting:
            wave = [waiting.popleft()]
            while waiting and sum(1 + len(controls) for _, controls in wave) < n_at_once:
                wave.append(waiting.popleft())
            every, states = measure(
                [run for each, rest in wave for run in (each.of_target(), *rest)]
            )
            for runs, controls in wave:
                measured, every = np.split(every, [1 + len(controls)])
                outcome = Outcome(runs.trial(len(controls)), measured - clean[0], states)
                if options.n_controls is None and enough is not None:
                    outcome = _with_enough(experiment, outcome, runs, rises, enough)
                experiment.outcomes.append(outcome)
    return experiment


def _n_at_once(targets: Sequence[Target]) -> int:
    """How many interventions are prepared at once, so that their masks take little memory."""
    units = [found for target in targets if (found := units_of(target)) is not None]
    widest = max((sum(each.coordinates().widths) for each in units), default=1)
    return max(1, MASK_BYTES // widest)


def _with_enough(
    experiment: Experiment,
    outcome: Outcome,
    runs: Runs,
    rises: Callable[[list[Intervention]], np.ndarray],
    enough: Enough,
) -> Outcome:
    """An outcome with as many controls as its test used.

    Args:
        experiment: The experiment, for its prompts' categories and clean metric.
        outcome: The target's outcome with its first controls.
        runs: Draws further controls.
        rises: Measures interventions.
        enough: The test.
    """
    while (n_used := enough(experiment, outcome)) is None:
        n_run = len(outcome.rises) - 1
        more = runs.controls(n_run, n_run + STEP)
        if not more:  # the target has no other controls
            return outcome
        measured = np.concatenate([outcome.rises, rises(more)])
        outcome = Outcome(runs.trial(n_run + len(more)), measured)
    return Outcome(runs.trial(n_used), outcome.rises[: 1 + n_used])


def ablation_of(model: HookedModel, frame: pd.DataFrame, task: Task, options: Options) -> Ablation:
    """Say how units are changed and their controls drawn, by an experiment's options.

    Args:
        model: The model.
        frame: The prompts.
        task: The prompts' task.
        options: The options, after ``sized``.
    """
    setting = Setting(
        model,
        frame,
        options.reference,
        options.exclude,
        options.n_gradient_rows,
        options.max_tokens,
        task if options.metric == "loss" else None,
        options.touched,
    )
    return Ablation(
        method=options.method,
        reference=options.reference,
        factor=options.factor,
        positions=options.touched,
        keep_only=options.keep_only,
        exclude=options.exclude,
        seed=options.seed,
        strata=strata_maker(options.controls, setting),
    )
