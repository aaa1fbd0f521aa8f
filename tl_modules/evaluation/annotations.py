"""Labels that several annotators who err give to prompts, and how far each is to be trusted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed, shown
from tl_modules.evaluation.annotator_answers import (
    answers_of,
    counts_of,
    labels_of,
    named_annotators,
)
from tl_modules.evaluation.dawid_skene import LIMIT, DawidSkene, dawid_skene
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import quoted
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.uncertain_labels import Refits

ENOUGH = 3
"""With fewer annotators, their answers do not determine their confusion."""

TIED = 1e-6
"""Labels whose probabilities differ by no more than this are equally probable."""

_Annotators = Annotated[
    Mapping[str, Any] | Sequence[Any], Elsewhere("a list of annotators, or a mapping of names")
]


@dataclass(frozen=True, eq=False, repr=False)
class Annotations:
    """What several annotators' answers say of each prompt's label, and of the annotators."""

    table: pd.DataFrame
    """One row per prompt, in their order: ``prompt``, ``category`` (the consensus: the most
    probable label, and of equally probable ones the first of ``labels``), ``probability`` (of the
    consensus, from 0 to 1), ``n_answers`` (annotators that did not abstain) and ``tied`` (whether
    another label is as probable). A function that takes prompts takes this table too."""

    quality: pd.DataFrame
    """One row per annotator: ``annotator``, ``n_answers`` (prompts that it answered) and
    ``accuracy`` (the expected share of its answers that are the true label, from 0 to 1; NaN
    without answers)."""

    labels: list[str]
    """The labels."""

    probabilities: Float[np.ndarray, "prompts labels"]
    """The posterior probability of each label for each prompt."""

    confusions: Float[np.ndarray, "annotators labels answers"]
    """How probable each answer is, by annotator and true label; each row sums to 1, and is NaN if
    the annotator answered no prompt of that label."""

    counts: Int[np.ndarray, "prompts annotators labels"]
    """1 where an annotator gave a prompt a label; only zeros where it abstained."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        n_sure = np.count_nonzero(self.table["probability"] >= 0.95)
        return (
            f"Annotations({len(self.table)} prompts, {len(self.quality)} annotators, labels "
            f"{quoted(self.labels)}; {n_sure} prompts with a probability of 0.95 or more)"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the tables."""
        return html_table(repr(self), self.quality, self.table)

    def confusion(self, annotator: str) -> pd.DataFrame:
        """Return one annotator's confusion matrix.

        Args:
            annotator: The annotator's name, as in ``quality``.

        Returns:
            One row per true label and one column per answer.

        Raises:
            ModulesError: If there is no such annotator.
        """
        names = self.quality["annotator"].tolist()
        if annotator not in names:
            raise ModulesError(
                f"annotator should be one of {quoted(names)}; got {shown(annotator)}. Pass a name "
                "from quality['annotator']."
            )
        matrix = self.confusions[names.index(annotator)]
        index = pd.Index(self.labels, name="true label")
        return pd.DataFrame(matrix, index, pd.Index(self.labels, name="answer"))

    def refitted(self, prompts: Sequence[str], n_refits: int, seed: int) -> Refits:
        """Estimate labels and confusions anew, each time with other weights of the prompts.

        The weights are those of the Bayesian bootstrap (Rubin 1981), so that the fits differ by as
        much as what the answers say is uncertain.

        Args:
            prompts: The annotated prompts' texts, in their order.
            n_refits: The number of fits.
            seed: Seeds the weights.

        Returns:
            The weights, and each fit's probabilities.

        Raises:
            ModulesError: If the prompts are others than the annotated ones.
        """
        check_at_least("n_refits", n_refits, 1)
        check_seed(seed)
        self._check_prompts(prompts)
        generator = np.random.default_rng(seed)
        weights = generator.dirichlet(np.ones(len(prompts)), n_refits) * len(prompts)
        found = [dawid_skene(self.counts, each, self.probabilities) for each in weights]
        return Refits(weights, np.stack([each.probabilities for each in found]))

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        annotated = self.table["prompt"].tolist()
        if len(prompts) != len(annotated):
            raise ModulesError(
                f"The prompts should be the {len(annotated)} annotated ones; got {len(prompts)}. "
                "Annotate the prompts that you test on."
            )
        for row, (text, known) in enumerate(zip(prompts, annotated, strict=True)):
            if text != known:
                raise ModulesError(
                    f"The prompts should be the annotated ones, in their order; prompt {row} is "
                    f"{shown(text)}, and {shown(known)} was annotated. Annotate the prompts that "
                    "you test on."
                )


@checked
def annotate(
    prompts: Prompts,
    annotators: _Annotators,
    *,
    labels: Annotated[Iterable[Any] | None, Elsewhere("a list of labels")] = None,
    progress: bool = True,
) -> Annotations:
    """Let several annotators label prompts, and estimate the true labels and who errs how.

    Rules, language models and people label an attribute that no one labelled; none of them is
    right always. Dawid and Skene's model (1979) finds from their answers alone how probable each
    label is for each prompt, and each annotator's confusion matrix: an annotator who often
    mistakes one label for another counts less where it matters. Pass the result to
    ``module_effects(..., labels=...)``, and the uncertainty of the labels widens the intervals.

    The question is that of Xin et al. 2025 (arXiv 2505.19473, "LLMFOSA"): several personas of a
    language model infer a sensitive attribute that no one labelled, and a network models their
    confusion and consensus. Only their abstract could be read. From it are the several annotators
    with their confusion and consensus; their training of a recommender is not part of this package.

    The model takes annotators to err independently of each other, given the true label. Personas
    of one language model share mistakes: the probabilities are then nearer to 0 and 1 than they
    should be. It also takes an abstention to say nothing of the label: a rule that answers with one
    label and abstains elsewhere tells nothing.

    Args:
        prompts: Strings, or a frame with a column ``prompt``.
        annotators: The annotators by name, or a list of them, which numbers them. Each is a
            function of one prompt's text that returns a label, or None to abstain; or a list of
            such answers, one per prompt, from a person, a file or a call that answers for all
            prompts at once. Three or more are needed to tell who errs.
        labels: The labels that may be given; by default all that are given, in alphabetical order.
        progress: Show a progress bar.

    Returns:
        The consensus and each label's probability for each prompt, and each annotator's confusion.

    Raises:
        ModulesError: If an annotator is neither a function nor a list of answers, an answer is not
            one of the labels, or no prompt has an answer. What an annotator itself raises is not
            caught.

    >>> rules = {
    ...     "digits": lambda prompt: "math" if any(map(str.isdigit, prompt)) else "verse",
    ...     "signs": lambda prompt: "math" if "=" in prompt else "verse",
    ...     "length": lambda prompt: "verse" if len(prompt) > 12 else "math",
    ... }
    >>> found = annotate(["1 + 1 = 2", "x = y", "O rose, thou art sick"], rules, progress=False)
    >>> found.table["category"].tolist()
    ['math', 'math', 'verse']
    """
    texts = prompt_frame(prompts)["prompt"].tolist()
    by_name = named_annotators(annotators)
    asked = sum(callable(annotator) for annotator in by_name.values())
    with tqdm(
        total=asked * len(texts), desc="annotate", unit="answer", disable=not (progress and asked)
    ) as bar:
        answers = {name: answers_of(name, each, texts, bar) for name, each in by_name.items()}
    names = labels_of(answers, labels)
    counts = counts_of(answers, names)
    _warn_of_little_said(list(by_name), counts, names)
    found = dawid_skene(counts)
    if not found.converged:
        warn_user(
            f"The fit did not converge in {LIMIT} steps: the annotators' answers hardly tell the "
            "labels apart. Add prompts or annotators."
        )
    return Annotations(
        table=_table(texts, names, counts, found),
        quality=_quality(list(by_name), counts, found),
        labels=names,
        probabilities=found.probabilities,
        confusions=found.confusions,
        counts=counts,
    )


def _warn_of_little_said(
    names: list[str], counts: Int[np.ndarray, "prompts annotators labels"], labels: list[str]
) -> None:
    """Warn of annotators that tell no label from another, and of fewer than ``ENOUGH`` that do."""
    given = counts.sum(axis=0) > 0
    n_given = given.sum(axis=1)
    several = np.count_nonzero(given.sum(axis=0)) > 1
    tell = n_given > int(several)
    same = (n_given > 0) & ~tell
    if same.any():
        said = "; ".join(
            f"{names[at]!r} gives {labels[given[at].argmax()]!r} alone"
            for at in np.flatnonzero(same)
        )
        warn_user(
            "Every annotator should answer with two labels or more: one that gives a single label, "
            f"and abstains elsewhere, tells no label from another. {said}. Let it return another "
            "label where that one does not fit."
        )
    if np.count_nonzero(tell) < ENOUGH:
        warn_user(
            f"The confusion of {ENOUGH} or more annotators that answer with different labels can "
            f"be told from their answers; there are {np.count_nonzero(tell)}. The labels are then "
            "near a vote's, and taken as more certain than they are. Add annotators."
        )


def _table(
    texts: list[str],
    names: list[str],
    counts: Int[np.ndarray, "prompts annotators labels"],
    found: DawidSkene,
) -> pd.DataFrame:
    highest = found.probabilities.max(axis=1, keepdims=True)
    as_high = found.probabilities >= highest - TIED
    return pd.DataFrame(
        {
            "prompt": texts,
            "category": [names[at] for at in as_high.argmax(axis=1)],
            "probability": highest[:, 0],
            "n_answers": counts.sum(axis=(1, 2)),
            "tied": as_high.sum(axis=1) > 1,
        }
    )


def _quality(
    names: list[str], counts: Int[np.ndarray, "prompts annotators labels"], found: DawidSkene
) -> pd.DataFrame:
    n_answers = counts.sum(axis=(0, 2))
    right = np.einsum("pal,pl->a", counts, found.probabilities)
    accuracy = np.where(n_answers > 0, right / np.maximum(n_answers, 1), np.nan)
    return pd.DataFrame({"annotator": names, "n_answers": n_answers, "accuracy": accuracy})
