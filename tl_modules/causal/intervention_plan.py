"""Which module drives which, for a budget of interventions: patch next what says most."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import trange

from tl_modules.causal.edge_planner import EdgePlanner, Strategy
from tl_modules.causal.graph_runs import PairOfRuns, nodes_of_graph, rows_of_runs
from tl_modules.causal.patch_runs import PatchRuns
from tl_modules.causal.target_guesses import Propose, guess_from, question_about
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import text_column

PlanColumn = Literal["effect", "control_mean", "excess", "ci_low", "ci_high", "probability"]
"""The columns of ``InterventionPlan.edges`` that hold numbers."""


@dataclass(frozen=True, eq=False, repr=False)
class InterventionPlan:
    """The interventions in their order, and the edges that they found."""

    order: pd.DataFrame
    """One row per intervention: ``step``, ``module``, ``category``, ``chosen_by`` ("information",
    "guess" or "random"), ``information`` (bits per edge that it was expected to add; 1 for a
    module that was not patched before) and ``n_prompts``."""

    edges: pd.DataFrame
    """One row per ordered pair of modules: ``source``, ``target``, ``n_prompts`` (prompts on which
    the source was patched), ``effect`` (the share of the target's change between the runs that
    patching the source brings about), ``control_mean`` (the share that as many random units bring
    about), ``excess`` (their difference), ``ci_low``, ``ci_high`` (95 % interval of the excess over
    prompts, by Student's t) and ``probability`` (that the excess is at least ``least_effect``; 0.5
    for a source that was never patched)."""

    question: str
    """What a language model is asked for a guess, whether or not one was."""

    answer: str | None
    """What ``propose`` answered; None without it."""

    guess: tuple[int, ...]
    """The modules that the answer names, the most promising first."""

    n_runs: int
    """The cost: prompts run with an intervention, controls included."""

    n_runs_of_graph: int
    """What patching every module on every prompt would cost, with as many controls."""

    def matrix(self, value: PlanColumn = "excess") -> pd.DataFrame:
        """The edges as a table, sources down and targets across; NaN on the diagonal.

        Args:
            value: The column of ``edges`` that the table shows.

        Returns:
            The table. A source that was never patched has NaN, or a probability of 0.5.
        """
        return self.edges.pivot(index="source", columns="target", values=value)

    def __repr__(self) -> str:
        """One line."""
        n_modules = self.edges["source"].nunique()
        patched = self.order["module"].nunique()
        return (
            f"InterventionPlan({len(self.order)} interventions on {patched} of {n_modules} modules,"
            f" {self.n_runs:,} runs where the whole graph takes {self.n_runs_of_graph:,})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: both tables."""
        return html_table(repr(self), self.order, self.edges)


@checked
@measures
def plan_interventions(  # noqa: PLR0913 - TransformerLens' arguments, and the plan's
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens,
    modules: Iterable[Module],
    *,
    budget: int,
    n_prompts: int = 4,
    least_effect: float = 0.1,
    strategy: Strategy = "information",
    propose: Propose | None = None,
    guess_weight: float = 0.5,
    direct: bool = False,
    n_controls: int = 1,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> InterventionPlan:
    """Find which module drives which with fewer interventions than ``module_graph`` takes.

    One intervention patches one module from the clean into the corrupted run, on a few pairs of
    prompts that it was not patched on before, and reads all other modules. An edge from P to Q is a
    share of Q's change (see ``module_graph``) that exceeds that of random units by at least
    ``least_effect``. The next module is the one whose edges one more intervention is expected to
    make most certain, in bits. A module never patched counts one bit per edge. One in ten
    interventions goes to a random one of the modules patched least.

    ``propose`` is a warm start: a language model, rule or person that names modules to patch first.
    The guess changes the order and never an estimate, and its weight on a module falls with every
    intervention on it, so that a misleading guess costs interventions and no edge.

    The idea is from LeGIT (Li et al. 2025, arXiv 2503.01139): a language model names the first
    targets of online causal discovery, and a numerical method goes on. Only its abstract and
    reviews were read. Its bootstrapping and resampling of targets, and its gradient-based method
    for graphs of observed variables, are not here: modules are patched and read directly.

    Args:
        model: The model.
        clean_tokens: The clean run's tokens, ``[batch, pos]``, at least two pairs.
        corrupted_tokens: The corrupted run's tokens, of the same shape.
        modules: A ``ModuleSet``, or some modules of one.
        budget: The number of interventions; at most so many that every module is patched on every
            pair.
        n_prompts: Pairs of prompts per intervention, at least 2.
        least_effect: The smallest excess that makes an edge, a share above 0.
        strategy: ``"information"``, or ``"random"`` for comparison: all modules in a random order,
            then again.
        propose: Receives ``InterventionPlan.question`` and returns module numbers separated by
            commas, the most promising first.
        guess_weight: From 0 (no guess) to below 1: by how much the score is lower of a module that
            was never patched and that the guess does not name.
        direct: See ``module_graph``.
        n_controls: Sets of random units per intervention; 0 leaves the control out, so that an
            edge is an effect of at least ``least_effect``.
        attention_mask: 1 or True where a token is real; padding does not count.
        batch_size: See ``circuit_scores``.
        seed: Seed of the order, the prompts and the controls.
        progress: Show a progress bar.

    Returns:
        The order, the edges with intervals, and the cost. There are no p-values: the next module
        depends on the numbers so far. Test edges with ``module_graph`` on other prompts.

    Raises:
        ModulesError: If an option is out of range, the runs differ in shape or have one pair,
            there are fewer than two modules, a module is of another model or has the same
            activations in both runs, or the answer of ``propose`` is malformed or names a module
            that does not exist.

    Example::

        plan = tlm.plan_interventions(model, clean, corrupted, modules, budget=12)
        plan.edges[plan.edges["probability"] > 0.95]
    """
    listed = nodes_of_graph(model, modules)
    clean, corrupted = rows_of_runs(
        model, clean_tokens, corrupted_tokens, attention_mask, batch_size
    )
    n_pairs = len(clean.tokens)
    check_at_least("the number of pairs of prompts", n_pairs, 2)
    _check(strategy, propose, guess_weight, least_effect)
    for name, value, least in (
        ("budget", budget, 1),
        ("n_prompts", n_prompts, 2),
        ("n_controls", n_controls, 0),
    ):
        check_at_least(name, value, least)
    check_seed(seed)
    most = len(listed) * -(-n_pairs // n_prompts)
    if budget > most:
        raise ModulesError(
            f"budget should be at most {most}, where every module is patched on every pair; got "
            f"{budget}. Lower it, or pass more pairs of prompts."
        )
    question, labels = question_about(listed), [module.label for module in listed]
    answer, guess = (None, []) if propose is None else guess_from(propose, question, labels)
    planner = EdgePlanner(
        len(listed),
        n_prompts=n_prompts,
        least_effect=least_effect,
        strategy=strategy,
        guess=[labels.index(label) for label in guess],
        guess_weight=guess_weight,
        seed=seed,
    )
    runs = PatchRuns(listed, corrupted, PairOfRuns.between(listed, clean, corrupted), direct)
    queues = [_queue(n_pairs, n_prompts, seed, label) for label in labels]
    sums = np.zeros((3, len(listed), len(listed)))
    rows = []
    for step in trange(budget, desc="interventions", disable=not progress):
        choice = planner.next_source(np.array([bool(queue) for queue in queues]))
        prompts = queues[choice.source].pop(0)
        own, controls, wholes = runs.patched(
            choice.source, prompts, n_controls, [seed, labels[choice.source], step]
        )
        planner.observe(choice.source, own - controls, wholes)
        sums[:, choice.source] += [part.sum(axis=0) for part in (own, controls, wholes)]
        rows.append(
            {
                "step": step,
                "module": labels[choice.source],
                "category": listed[choice.source].category_title,
                "chosen_by": choice.chosen_by,
                "information": choice.information,
                "n_prompts": len(prompts),
            }
        )
    order = pd.DataFrame(rows)
    order = order.assign(category=text_column(order["category"]))
    return InterventionPlan(
        order,
        _edges(labels, planner, sums, n_controls),
        question,
        answer,
        tuple(guess),
        n_runs=int(planner.n_prompts.sum()) * (1 + n_controls),
        n_runs_of_graph=len(listed) * n_pairs * (1 + n_controls),
    )


def _check(
    strategy: Strategy, propose: Propose | None, guess_weight: float, least_effect: float
) -> None:
    check_choice("strategy", strategy, ("information", "random"))
    if propose is not None and strategy == "random":
        raise ModulesError(
            'propose should come with strategy="information"; "random" takes no guess. Leave one '
            "of the two out."
        )
    if not 0 <= guess_weight < 1:
        raise ModulesError(
            f"guess_weight should be at least 0 and below 1; got {guess_weight}. 0.5 is usual."
        )
    if not 0 < least_effect < np.inf:
        raise ModulesError(
            f"least_effect should be above 0 and finite; got {least_effect}. 0.1 is usual: a tenth "
            "of the target's change."
        )


def _queue(n_pairs: int, n_prompts: int, seed: int, label: int) -> list[Int[np.ndarray, " _some"]]:
    """The pairs of each intervention on a module, in its own random order."""
    order = np.random.default_rng([seed, label]).permutation(n_pairs)
    return np.split(order, range(n_prompts, n_pairs, n_prompts))


def _edges(
    labels: list[int],
    planner: EdgePlanner,
    sums: Float[np.ndarray, "3 modules modules"],
    n_controls: int,
) -> pd.DataFrame:
    own, controls, wholes = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = own / wholes
        control = controls / wholes if n_controls else np.full_like(wholes, np.nan)
    low, high = planner.intervals()
    sources, targets = np.nonzero(~np.eye(len(labels), dtype=bool))
    numbers = {
        "effect": effect,
        "control_mean": control,
        "excess": planner.effects(),
        "ci_low": low,
        "ci_high": high,
        "probability": planner.probabilities(),
    }
    names = np.array(labels, dtype=np.int64)
    return pd.DataFrame(
        {
            "source": names[sources],
            "target": names[targets],
            "n_prompts": planner.n_prompts[sources],
        }
        | {name: values[sources, targets] for name, values in numbers.items()}
    )
