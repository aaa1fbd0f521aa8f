"""Running prompts under each target's intervention and its controls'."""

from collections import deque
from collections.abc import Sequence
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
from tl_modules.causal.states import States
from tl_modules.causal.trials import Trial, prepare_trials, seed_keys
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.target import Target
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


def run_experiment(
    model: HookedModel,
    targets: Sequence[Target],
    prompts: Prompts,
    options: Options,
    *,
    hook_name: str | None = None,
    compares_own: bool = False,
    keys: Sequence[Sequence[int]] | None = None,
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

    Returns:
        What was measured.

    Raises:
        ModulesError: As in ``module_effects``.
    """
    frame = with_separator(prompt_frame(prompts), options.separator, answers=options.reads_answers)
    # Once, before anything runs: all that follows reads the labels of this frame.
    frame = labelled(frame, *(sample_labels(targets) if compares_own else []))
    categories = categories_of(frame)
    task = make_task(
        model, frame, options.metric, options.batch_size, options.max_tokens, options.touched
    )
    corrupted = None
    if options.method == "patch":
        corrupted = CorruptedRuns.of(model, frame, task, options.metric, options.max_tokens)
    trials = prepare_trials(
        model,
        targets,
        _ablation(model, frame, task, options),
        options.n_controls,
        seed_keys(targets, options.seed) if keys is None else keys,
        corrupted,
    )
    if compares_own:  # after every refusal
        warn_own_categories(targets, frame, n_controls=options.n_controls)
    waiting = deque(trials)
    total = len(frame) * (1 + sum(len(runs) for _, runs in trials))
    del trials
    outcomes = []
    with tqdm(total=total, desc="ablate", unit="prompt", disable=not options.progress) as bar:

        def run(runs: list[Intervention]) -> tuple[np.ndarray, np.ndarray | None]:
            states = None if hook_name is None else States(hook_name, len(runs), len(frame))
            read = runs if states is None else states.read(runs)
            measured = run_task(model, task, read, options.batch_size, bar.update)
            return measured, None if states is None else states.means

        clean, clean_states = run([no_intervention])
        while waiting:  # each trial's hooks go when it is done
            trial, runs = waiting.popleft()
            measured, states = run(runs)
            outcomes.append(Outcome(trial, measured - clean[0], states))
    return Experiment(
        categories,
        clean[0],
        outcomes,
        None if clean_states is None else clean_states[0],
        frame["separator"].tolist() if options.reads_answers else None,
    )


def _ablation(model: HookedModel, frame: pd.DataFrame, task: Task, options: Options) -> Ablation:
    """What the options say of units and their controls."""
    setting = Setting(
        model,
        frame,
        options.reference,
        options.exclude,
        options.batch_size,
        options.max_tokens,
        None if options.reads_answers else task,
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
