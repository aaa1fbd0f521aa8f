"""The states of chains of thought: their distances to the answers, and the active modules."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_seed, check_type, shown
from tl_modules.tables.html_tables import html_table
from tl_modules.thoughts.beside_correctness import beside_correctness
from tl_modules.thoughts.paired import paired_differences


@dataclass(frozen=True, eq=False, repr=False)
class Thoughts:
    """The result of ``thought_states``: chains of thought as sequences of states."""

    states: pd.DataFrame
    """One row per state, in order. The question's ``id`` and ``category`` (if it has one),
    ``chain`` (the chain's number within the question), ``step`` (0 is the question alone) and
    ``thought`` (the text of the last thought; at step 0 the question). ``distance_1``,
    ``distance_2``, ... are the distances to the choices, the correct one first, divided by their
    sum; ``perplexity_1``, ... are the undivided distances. ``nearest`` is the text of the nearest
    choice. ``is_correct`` is true if this choice is the answer, ``consistent`` if it is also the
    nearest choice of the chain's last state. ``uncertainty`` is the entropy of the distances in
    nats. ``thought_perplexity`` is the perplexity of the thought's tokens after the previous state
    (NaN at step 0). ``module_0``, ... are the modules' mean values over the thought's tokens, as
    ``token_values`` defines them (1 is average activity)."""

    n_choices: int
    """The number of choices of each question."""

    n_modules: int
    """The number of modules that the states were read with; 0 without modules."""

    @property
    def features(self) -> Float[np.ndarray, "states choices"]:
        """The distances of each state to the choices, the correct one first; rows sum to 1."""
        return self.states[names_of_columns("distance", self.n_choices)].to_numpy()

    @property
    def landmarks(self) -> Float[np.ndarray, "choices choices"]:
        """Each choice's features as a state: distance 0 to itself, equal distances to the rest."""
        return (1 - np.eye(self.n_choices)) / (self.n_choices - 1)

    @property
    def of_chain(self) -> Int[np.ndarray, " states"]:
        """The number of the row of ``chains()`` that each state belongs to."""
        return np.cumsum(self.states["step"].to_numpy() == 0) - 1

    def chains(self) -> pd.DataFrame:
        """Summarise each chain in one row, in order.

        Returns:
            ``id``, ``category`` (if there is one), ``chain``, ``n_thoughts``, ``is_correct`` (at
            the last state), ``correct_at_first`` (at the question alone), and the modules' means
            over the chain's states from step 1 (NaN if there are no such states).
        """
        starts = np.flatnonzero(self.states["step"] == 0)
        lasts = np.append(starts[1:], len(self.states)) - 1
        first, last = self.states.take(starts), self.states.take(lasts)
        chains = first.filter(["id", "category", "chain"]).reset_index(drop=True)
        chains["n_thoughts"] = last["step"].to_numpy()
        chains["is_correct"] = last["is_correct"].to_numpy()
        chains["correct_at_first"] = first["is_correct"].to_numpy()
        for name in names_of_columns("module", self.n_modules):
            later = self.states[name].where(self.states["step"] > 0)
            chains[name] = np.asarray(later.groupby(self.of_chain).mean())
        return chains

    def steps(self) -> pd.DataFrame:
        """Average over the chains at each step; a chain counts up to its last thought.

        Returns:
            One row per step: ``step``, ``n_chains`` (chains with this many thoughts),
            ``share_correct`` and ``share_consistent`` (shares of these chains), ``uncertainty``
            and the modules' means.
        """
        values = ["consistent", "uncertainty", *names_of_columns("module", self.n_modules)]
        groups = self.states.filter(["step", "is_correct", *values]).groupby("step")
        steps = pd.DataFrame(groups.mean()).reset_index()
        steps.insert(1, "n_chains", groups.size().to_numpy())
        shares = {"is_correct": "share_correct", "consistent": "share_consistent"}
        return steps.rename(columns=shares)

    def beside_correctness(self, *, n_permutations: int = 999, seed: int = 0) -> pd.DataFrame:
        """Test whether modules are more active in chains that end nearest to the correct answer.

        A difference is a correlation: it may come from the topics of the questions.

        Args:
            n_permutations: The number of controls; each exchanges the outcomes of whole questions.
            seed: Seeds the controls and the bootstrap.

        Returns:
            One row per module: ``module``, ``n_correct`` and ``n_wrong`` (chains),
            ``mean_correct``, ``mean_wrong``, ``difference`` with its 95 % bootstrap interval over
            questions (``ci_low``, ``ci_high``), the permutations' ``control_mean`` and
            ``control_std``, the two-sided ``p_value``, and ``p_holm`` and ``p_bh``, adjusted over
            the modules. Values are NaN if all chains end correct or all end wrong.

        Raises:
            ModulesError: If there are no modules or no thoughts, or a number is out of range.
        """
        check_at_least("n_permutations", n_permutations, 1)
        check_seed(seed)
        if not self.n_modules:
            raise ModulesError(
                "The states should be read with modules; they were read without. Call "
                "thought_states with modules=..."
            )
        chains = self.chains()
        chains = chains.loc[chains["n_thoughts"] > 0]
        if not len(chains):
            raise ModulesError(
                "At least one chain should hold a thought; none does. Raise n_new_tokens, or pass "
                "chains=."
            )
        values = chains[names_of_columns("module", self.n_modules)].to_numpy()
        return beside_correctness(
            values, chains["is_correct"].to_numpy(), chains["id"], n_permutations, seed
        )

    def beside(self, other: "Thoughts", *, seed: int = 0) -> pd.DataFrame:
        """Compare with another run on the same questions, such as one in another style.

        Each question is compared with itself, found by its ``id``: its value here (the mean over
        its chains) minus its value in the other run. A module's value is its mean over a chain's
        thoughts; texts of two styles differ in wording and length, and a difference may come from
        either.

        Args:
            other: What ``thought_states`` returned for the same questions and modules.
            seed: Seeds the bootstrap.

        Returns:
            One row per measure: ``measure`` (``"correct_at_first"``, ``"is_correct"``,
            ``"uncertainty"`` at the last state, ``"n_thoughts"``, ``"module_0"``, ...),
            ``n_questions`` (those that both runs measured), ``mean``, ``other_mean``,
            ``difference`` and its 95 % bootstrap interval over questions (``ci_low``, ``ci_high``;
            NaN for one question, too narrow for fewer than about eight).

        Raises:
            ModulesError: If the runs have other questions, or another number of choices or modules;
                or if questions have no ``id``, only a number, and one number is two texts.

        >>> states = pd.DataFrame({"id": ["a", "a", "b", "b"], "step": [0, 1, 0, 1]})
        >>> states = states.assign(chain=0, thought="")
        >>> runs = [
        ...     Thoughts(states.assign(is_correct=correct, uncertainty=1.0), 2, 0)
        ...     for correct in ([False, True, False, True], [False, True, False, False])
        ... ]
        >>> runs[0].beside(runs[1]).loc[1, ["mean", "other_mean", "difference"]].tolist()
        [1.0, 0.5, 0.5]
        """
        check_type(
            other,
            Thoughts,
            "other should be what thought_states returned",
            "Run thought_states again, in another style.",
        )
        check_seed(seed)
        own, beside = self._of_questions(), other._of_questions()
        unpaired = own.index.symmetric_difference(beside.index)
        if len(unpaired):
            raise ModulesError(
                f"Both runs should have the same questions; only one has {unpaired[0]!r}. Run both "
                "on the same frame."
            )
        self._check_numbered_alike(other)
        for what in ("n_choices", "n_modules"):
            counts = getattr(self, what), getattr(other, what)
            if len(set(counts)) > 1:
                raise ModulesError(
                    f"Both runs should have the same {what}; got {counts[0]} and {counts[1]}. Run "
                    "both with the same questions and modules."
                )
        return paired_differences(own, beside.loc[own.index], seed)

    def _check_numbered_alike(self, other: "Thoughts") -> None:
        """Refuse to pair different questions that merely have the same place in their frames."""
        texts, others = self._texts(), other._texts()
        if set(texts) != set(map(str, range(len(texts)))):
            return  # An id names a question, which may be worded in another way in the other run.
        differing = [number for number in texts if texts[number] != others[number]]
        if differing:
            number = differing[0]
            raise ModulesError(
                "Questions without an id should be the same in both runs, in the same order; "
                f"number {number} is {shown(texts[number])} in one and {shown(others[number])} in "
                "the other. Give both frames a column id that names the questions."
            )

    def _texts(self) -> dict[str, str]:
        """Each question's text, by its id."""
        first = self.states["step"] == 0
        return dict(
            zip(self.states.loc[first, "id"], self.states.loc[first, "thought"], strict=True)
        )

    def _of_questions(self) -> pd.DataFrame:
        """The measures of each question, averaged over its chains."""
        measures = ["correct_at_first", "is_correct", "uncertainty", "n_thoughts"]
        chains = self.chains()
        ends = self.states["uncertainty"].groupby(self.of_chain).last()
        chains["uncertainty"] = np.asarray(ends)
        named = [*measures, *names_of_columns("module", self.n_modules)]
        of_questions = chains.filter(named).astype(float).groupby(chains["id"], sort=False)
        return pd.DataFrame(of_questions.mean())

    def __repr__(self) -> str:
        """Return one line, without the table."""
        chains = self.chains()
        return (
            f"Thoughts({len(self.states)} states of {len(chains)} chains on "
            f"{self.states['id'].nunique()} questions with {self.n_choices} choices; nearest to "
            f"the correct one: {chains['correct_at_first'].mean():.0%} before the first thought, "
            f"{chains['is_correct'].mean():.0%} after the last)"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table of steps."""
        return html_table(repr(self), self.steps())


def names_of_columns(what: str, count: int) -> list[str]:
    """Return the names of columns, one per choice, from 1, or one per module, from 0."""
    first = 0 if what == "module" else 1
    return [f"{what}_{number}" for number in range(first, first + count)]
