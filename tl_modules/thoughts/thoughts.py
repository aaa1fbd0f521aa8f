"""The states of chains of thought: how far from each answer, and which modules are active."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.tables.html_tables import html_table
from tl_modules.thoughts.beside_correctness import beside_correctness


@dataclass(frozen=True, eq=False, repr=False)
class Thoughts:
    """Chains of thought as sequences of states."""

    states: pd.DataFrame
    """One row a state, in order: the question's ``id`` and ``category`` (where it has one),
    ``chain`` (its number among the question's), ``step`` (0: the question alone), ``thought`` (the
    last thought's text, at step 0 the question); ``distance_1``, ``distance_2``, ... (to each
    choice, the correct one first; they sum to 1) and ``perplexity_1``, ... (the same before they
    are divided by their sum); ``nearest`` (the nearest choice's text), ``is_correct`` (it is the
    answer), ``consistent`` (it is the one nearest to the chain's last state), ``uncertainty``
    (entropy of the distances, in nats), ``thought_perplexity`` (of the thought's tokens after the
    state before; NaN at step 0); and ``module_0``, ... (the module's mean value over the thought's
    tokens, as ``token_values`` gives it: 1 where it is as active as on average)."""

    n_choices: int
    """How many choices each question has."""

    n_modules: int
    """How many modules the states were read with; 0 without."""

    @property
    def features(self) -> Float[np.ndarray, "states choices"]:
        """Each state's distances to the choices, the correct one first; rows sum to 1."""
        return self.states[names_of_columns("distance", self.n_choices)].to_numpy()

    @property
    def landmarks(self) -> Float[np.ndarray, "choices choices"]:
        """Each choice as a state: 0 from itself, equally far from the others."""
        return (1 - np.eye(self.n_choices)) / (self.n_choices - 1)

    @property
    def of_chain(self) -> Int[np.ndarray, " states"]:
        """Each state's chain: its row in ``chains()``."""
        return np.cumsum(self.states["step"].to_numpy() == 0) - 1

    def chains(self) -> pd.DataFrame:
        """One row a chain, in order.

        Returns:
            ``id``, ``category`` (where there is one), ``chain``, ``n_thoughts``, ``is_correct`` (of
            the last state), ``correct_at_first`` (of the question alone), and the modules' means
            over the chain's states but the first (NaN without any).
        """
        starts = np.flatnonzero(self.states["step"] == 0)
        lasts = np.append(starts[1:], len(self.states)) - 1
        first, last = self.states.take(starts), self.states.take(lasts)
        found = first.filter(["id", "category", "chain"]).reset_index(drop=True)
        found["n_thoughts"] = last["step"].to_numpy()
        found["is_correct"] = last["is_correct"].to_numpy()
        found["correct_at_first"] = first["is_correct"].to_numpy()
        for name in names_of_columns("module", self.n_modules):
            later = self.states[name].where(self.states["step"] > 0)
            found[name] = np.asarray(later.groupby(self.of_chain).mean())
        return found

    def steps(self) -> pd.DataFrame:
        """One row a step: means over the chains that have so many thoughts.

        Returns:
            ``step``, ``n_chains``, ``share_correct`` and ``share_consistent`` of them,
            ``uncertainty`` and the modules' means.
        """
        values = ["consistent", "uncertainty", *names_of_columns("module", self.n_modules)]
        groups = self.states.filter(["step", "is_correct", *values]).groupby("step")
        found = pd.DataFrame(groups.mean()).reset_index()
        found.insert(1, "n_chains", groups.size().to_numpy())
        shares = {"is_correct": "share_correct", "consistent": "share_consistent"}
        return found.rename(columns=shares)

    def beside_correctness(self, *, n_permutations: int = 999, seed: int = 0) -> pd.DataFrame:
        """Is a module more active in chains that end nearest to the correct answer?

        Such a difference is a correlation: it may come from what the questions are about.

        Args:
            n_permutations: Controls, which hand whole questions' outcomes to other questions.
            seed: Seeds them, and the bootstrap.

        Returns:
            One row a module: ``module``, ``n_correct`` and ``n_wrong`` (chains), ``mean_correct``,
            ``mean_wrong``, ``difference`` with its 95 % bootstrap interval over questions
            (``ci_low``, ``ci_high``), the permutations' ``control_mean`` and ``control_std``,
            the two-sided ``p_value``, and ``p_holm`` and ``p_bh``, adjusted over the modules. NaN
            where all chains end alike.

        Raises:
            ModulesError: If there are no modules or no thoughts, or a number is out of range.
        """
        check_at_least("n_permutations", n_permutations, 1)
        check_seed(seed)
        if not self.n_modules:
            raise ModulesError(
                "The states were read without modules, which nothing can be said of then. Call "
                "thought_states with modules=..."
            )
        chains = self.chains()
        chains = chains.loc[chains["n_thoughts"] > 0]
        if not len(chains):
            raise ModulesError(
                "Some chain should hold a thought; none does. Raise n_new_tokens, or pass chains=."
            )
        values = chains[names_of_columns("module", self.n_modules)].to_numpy()
        return beside_correctness(
            values, chains["is_correct"].to_numpy(), chains["id"], n_permutations, seed
        )

    def __repr__(self) -> str:
        """One line, not its table."""
        chains = self.chains()
        return (
            f"Thoughts({len(self.states)} states of {len(chains)} chains on "
            f"{self.states['id'].nunique()} questions with {self.n_choices} choices; nearest to "
            f"the correct one: {chains['correct_at_first'].mean():.0%} before the first thought, "
            f"{chains['is_correct'].mean():.0%} after the last)"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table of steps."""
        return html_table(repr(self), self.steps())


def names_of_columns(what: str, count: int) -> list[str]:
    """A column a choice, from 1, or a module, from 0."""
    first = 0 if what == "module" else 1
    return [f"{what}_{number}" for number in range(first, first + count)]
