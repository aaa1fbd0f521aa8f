"""Running prompts under each target's intervention and its controls'."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.causal.controls import KINDS
from tl_modules.causal.metrics import make_task
from tl_modules.causal.own_categories import warn_own_categories
from tl_modules.causal.pairs import CorruptedRuns
from tl_modules.causal.prompt_runs import Intervention, no_intervention, run_task
from tl_modules.causal.states import States
from tl_modules.causal.trials import ModuleTrials, Trial, split, target_trials
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.interventions.replacements import METHODS, HasUnitMeans
from tl_modules.interventions.target import Target
from tl_modules.models.answers import with_separator
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import Module, as_list
from tl_modules.runtime.arguments import check_argument, checked
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one target's intervention did, and its controls'."""

    trial: Trial
    """What was run."""

    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's metric: the target's first, then each control's."""

    states: Float[np.ndarray, "runs prompts width"] | None = None
    """Each prompt's mean state at the hook point that was read, under the same interventions."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was measured."""

    categories: Shaped[np.ndarray, " prompts"]
    """Each prompt's."""

    clean: Float[np.ndarray, " prompts"]
    """The metric without an intervention."""

    outcomes: list[Outcome]
    """One a target."""

    clean_states: Float[np.ndarray, "prompts width"] | None = None
    """Each prompt's mean state at the hook point that was read, without an intervention."""

    separators: list[str] | None = None
    """What stood between each prompt and its answer; None where no answers were measured."""


@checked
def run_experiment(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Module | Target | Iterable[Module | Target],
    prompts: Prompts,
    *,
    metric: str = "loss",
    separator: str | None = None,
    method: str = "mean",
    reference: HasUnitMeans | None = None,
    n_controls: int = 20,
    controls: str = "layer",
    exclude: Units | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
    hook_name: str | None = None,
    compares_own: bool = False,
    **options: Any,
) -> Experiment:
    """Run each target and its controls; the arguments are ``module_effects``'.

    Two arguments are this function's own. ``hook_name`` names a hook point where each prompt's mean
    state is read too. ``compares_own`` warns of own categories that are not among the prompts'.

    Raises:
        ModulesError: As ``module_effects`` raises.
    """
    check_choice("method", method, METHODS)
    for name in options:
        check_choice("The option", name, ("factor", "keep_only"))
    check_argument("keep_only", options.get("keep_only", False), bool)
    check_choice("controls", controls, KINDS)
    check_at_least("n_controls", n_controls, 0)
    check_at_least("batch_size", batch_size, 1)
    check_seed(seed)
    only_modules, targets = split(modules)
    if targets and options.get("keep_only"):
        raise ModulesError(
            f"keep_only=True goes with modules; {targets[0].label!r} has no complement. Leave one "
            "of them out."
        )
    answers = metric != "loss"
    frame = with_separator(prompt_frame(prompts), separator, answers=answers)
    # Once, before anything runs: all that follows reads the labels of this frame.
    frame = labelled(frame, *_sample_labels(only_modules, compares_own))
    categories = categories_of(frame)
    task = make_task(model, frame, metric, batch_size, max_tokens)
    corrupted = None
    if method == "patch":
        corrupted = CorruptedRuns.of(model, frame, metric, max_tokens)
    trials: list[Trial] = []
    if only_modules or not targets:
        ways = ModuleTrials(
            model,
            frame,
            method,
            reference,
            n_controls,
            controls,
            exclude,
            batch_size,
            max_tokens,
            seed,
            options,
            corrupted,
        )
        trials += ways.of(as_list(only_modules))
    trials += target_trials(model, targets, n_controls, seed, corrupted)
    if compares_own:  # after all that refuses
        compared = [*only_modules, *targets]
        warn_own_categories(compared, frame, n_controls=n_controls)
    total = len(frame) * (1 + sum(len(trial.runs) for trial in trials))
    outcomes = []
    with tqdm(total=total, desc="ablate", unit="prompt", disable=not progress) as bar:

        def run(runs: list[Intervention]) -> tuple[np.ndarray, np.ndarray | None]:
            states = None if hook_name is None else States(hook_name, len(runs), len(frame))
            read = runs if states is None else states.read(runs)
            measured = run_task(model, task, read, batch_size, bar.update)
            return measured, None if states is None else states.means

        clean, clean_states = run([no_intervention])
        for trial in trials:
            measured, states = run(trial.runs)
            outcomes.append(Outcome(trial, measured - clean[0], states))
    before = None if clean_states is None else clean_states[0]
    separators = frame["separator"].tolist() if answers else None
    return Experiment(categories, clean[0], outcomes, before, separators)


def _sample_labels(modules: Iterable[Module], compares_own: bool) -> list[list[object]]:
    """The categories of the modules' samples, where the prompts' are compared with them."""
    if not compares_own:
        return []
    samples = [module.samples for module in modules if "category" in module.samples]
    return [[label for frame in samples for label in frame["category"]]]
