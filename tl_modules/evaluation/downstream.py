"""The paper's downstream test: predict a prompt's category from modules' mean activations."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.labels import (
    apart,
    checked_labels,
    column_hint,
    label_text,
    quoted,
    warn_spelling,
)
from tl_modules.tables.text import text_column

Classifier = Literal["svc", "lr"]
"""``svc`` is a support vector classifier with an RBF kernel, ``lr`` a one-vs-one logistic
regression."""
CLASSIFIERS: tuple[Classifier, ...] = get_args(Classifier)


@dataclass(frozen=True)
class Probe:
    """The scores of a classifier on K module means, on held-out prompts."""

    accuracy: float
    """The share of prompts whose category is predicted correctly."""

    macro_f1: float
    """The unweighted mean of F1 over the categories."""

    n_test: int
    """The number of held-out prompts."""


@checked
def probe(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    classifier: Classifier = "svc",
) -> Probe:
    """Predict held-out prompts' categories, to measure how much modules tell about them.

    This is the paper's downstream test (arXiv 2603.17823). A sample has K features: its mean
    activation over each module's units, standardised over the training samples. The normaliser that
    discovery fitted normalises all activations, of training and held-out samples.

    Args:
        modules: The modules.
        train: Raw activations of the training prompts, with ``category``.
        test: Raw activations of the held-out prompts, with ``category``.
        classifier: ``"svc"`` or ``"lr"``.

    Returns:
        Accuracy and macro-F1 on the held-out prompts.

    Raises:
        ModulesError: If the classifier is unknown, categories are missing, or the units differ.
    """
    return _probe(modules, train, test, classifier)


Truth = tuple[list[str], list[str]]
"""The categories of the training prompts, and the categories of the held-out prompts."""


def probe_labels(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    truth: Truth,
    classifier: Classifier,
) -> Probe:
    """Run ``probe`` on categories that ``compared_categories`` has validated.

    Raises:
        ModulesError: If the units differ.
    """
    from sklearn.metrics import accuracy_score, f1_score  # slow to import

    predicted = _predicted(modules, train, test, truth, classifier)
    return Probe(
        accuracy=float(accuracy_score(truth[1], predicted)),
        macro_f1=float(f1_score(truth[1], predicted, average="macro")),
        n_test=len(predicted),
    )


def _predicted(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    truth: Truth,
    classifier: Classifier,
) -> list[str]:
    """Fit the classifier on the training prompts, and predict the held-out ones' categories."""
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    features = [module_means(modules, acts) for acts in (train, test)]
    # The fit is not random, but without a seed an SVC draws from NumPy's global generator.
    model = (
        SVC(random_state=0)
        if classifier == "svc"
        else OneVsOneClassifier(LogisticRegression(max_iter=1000))
    )
    fitted = make_pipeline(StandardScaler(), model).fit(features[0], truth[0])
    return fitted.predict(features[1]).tolist()


@checked
def probe_confusion(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    classifier: Classifier = "svc",
) -> pd.DataFrame:
    """Count which categories ``probe`` takes for which, to see the ones that modules confuse.

    Args:
        modules: The modules.
        train: Raw activations of the training prompts, with ``category``.
        test: Raw activations of the held-out prompts, with ``category``.
        classifier: ``"svc"`` or ``"lr"``.

    Returns:
        One row per category of ``test`` and category of ``train``, in alphabetical order:
        ``category``, ``predicted``, ``n`` (held-out prompts of the category that the classifier
        predicts so) and ``share`` (of the category's held-out prompts, from 0 to 1).
        ``plots.plot_categories`` draws it.

    Raises:
        ModulesError: As ``probe`` raises.
    """
    truth = compared_categories(train, test)
    predicted = _predicted(modules, train, test, truth, classifier)
    rows, columns = sorted(set(truth[1])), sorted(set(truth[0]))
    counts = Counter(zip(truth[1], predicted, strict=True))
    table = pd.DataFrame(
        {
            "category": text_column(row for row in rows for _ in columns),
            "predicted": text_column(column for _ in rows for column in columns),
            "n": [counts[row, column] for row in rows for column in columns],
        }
    )
    sizes = Counter(truth[1])
    return table.assign(share=table["n"] / [sizes[row] for row in rows for _ in columns])


@checked
def probe_accuracy(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    classifier: Classifier = "svc",
) -> float:
    """Return the accuracy of ``probe`` as one number.

    Args:
        modules: The modules.
        train: Raw activations of the training prompts, with ``category``.
        test: Raw activations of the held-out prompts, with ``category``.
        classifier: ``"svc"`` or ``"lr"``.

    Returns:
        The share of held-out prompts whose category is predicted correctly, from 0 to 1.

    Raises:
        ModulesError: As ``probe`` raises.
    """
    return _probe(modules, train, test, classifier).accuracy


def _probe(
    modules: ModuleSet, train: ActivationMatrix, test: ActivationMatrix, classifier: Classifier
) -> Probe:
    truth = compared_categories(train, test)
    return probe_labels(modules, train, test, truth, classifier)


def compared_categories(train: ActivationMatrix, test: ActivationMatrix) -> Truth:
    """Validate the categories of training and held-out prompts; warn about unknown ones.

    Args:
        train: Activations of the training prompts.
        test: Activations of the held-out prompts.

    Returns:
        The training prompts' categories, and the held-out prompts' categories.

    Raises:
        ModulesError: If a sample has no category, a category is not a whole text, or all samples of
            ``train`` have the same category.
    """
    truth = _categories(train, "train"), _categories(test, "test")
    if len(set(truth[0])) < 2:
        raise ModulesError(
            f"train should hold at least two categories; all samples have {truth[0][0]!r}. Add "
            "prompts of another category."
        )
    warn_spelling(*(acts.samples["category"] for acts in (train, test)))
    # A category that train lacks counts as wrong whatever the classifier predicts: a warning, not
    # an error, because the rest of the score is meaningful.
    known = set(truth[0])
    unknown = [label for label in truth[1] if label not in known]
    if unknown:
        warn_user(
            f"test has categories that train lacks, which no classifier can predict: "
            f"{quoted(unknown)} ({len(unknown)} of {len(truth[1])} prompts). Those of train are "
            f"{quoted(truth[0])}."
            f"{apart(unknown, truth[0])} Use one spelling, or leave these prompts out.",
        )
    return truth


def categories(acts: ActivationMatrix | ActivationStore, name: str) -> list[str]:
    """Validate and return the category of each sample.

    Args:
        acts: The activations.
        name: The activations' name in error messages.

    Returns:
        One category per sample.

    Raises:
        ModulesError: If a sample has no category, or a category is not a whole text.
    """
    validated = _categories(acts, name)
    warn_spelling(acts.samples["category"])
    return validated


def _categories(acts: ActivationMatrix | ActivationStore, name: str) -> list[str]:
    column = acts.samples.get("category")
    rule = f"{name} should have a category for every sample"
    if column is None:
        hint = column_hint(list(acts.samples.columns))
        raise ModulesError(f"{rule}. {hint}, and collect again.")
    without = [row for row, value in enumerate(column) if label_text(value) is None]
    if without:
        count = f"{len(without)} of {len(column)}"
        raise ModulesError(
            f"{rule}; {count} have none, the first in row {without[0]}. Fill in the column "
            "'category' and collect again, or leave those samples out."
        )
    return checked_labels(column)
