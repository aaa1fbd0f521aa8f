"""The paper's downstream test: do modules' mean activations name a prompt's category?"""

from dataclasses import dataclass
from typing import Literal, get_args

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_choice
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

Classifier = Literal["svc", "lr"]
"""``svc``: support vectors with an RBF kernel; ``lr``: one-vs-one logistic regression."""
CLASSIFIERS: tuple[Classifier, ...] = get_args(Classifier)


@dataclass(frozen=True)
class Probe:
    """How well a classifier on K module means does on held-out prompts."""

    accuracy: float
    """Share of prompts whose category it names."""

    macro_f1: float
    """F1 averaged over the categories, each counting the same."""

    n_test: int
    """Held-out prompts."""


@checked
def probe(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    classifier: Classifier = "svc",
) -> Probe:
    """Predict held-out prompts' categories from their mean activation in each module.

    A sample's features are its K means over each module's units, z-scored or
    as discovery had them (held-out samples are
    normalised as fitted at discovery), standardised over the training samples
    (arXiv 2603.17823, downstream test).

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
"""The categories of the training prompts, and those of the held-out ones."""


def probe_labels(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    truth: Truth,
    classifier: Classifier,
) -> Probe:
    """``probe`` on categories that ``compared_categories`` has checked.

    Raises:
        ModulesError: If the units differ.
    """
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    features = [module_means(modules, acts) for acts in (train, test)]
    # Seeded although nothing here is random: an SVC draws from NumPy's global generator otherwise.
    model = (
        SVC(random_state=0)
        if classifier == "svc"
        else OneVsOneClassifier(LogisticRegression(max_iter=1000))
    )
    fitted = make_pipeline(StandardScaler(), model).fit(features[0], truth[0])
    predicted = fitted.predict(features[1])
    return Probe(
        accuracy=float(accuracy_score(truth[1], predicted)),
        macro_f1=float(f1_score(truth[1], predicted, average="macro")),
        n_test=len(predicted),
    )


@checked
def probe_accuracy(
    modules: ModuleSet,
    train: ActivationMatrix,
    test: ActivationMatrix,
    classifier: Classifier = "svc",
) -> float:
    """The accuracy of ``probe``, alone.

    Args:
        modules: The modules.
        train: Raw activations of the training prompts, with ``category``.
        test: Raw activations of the held-out prompts, with ``category``.
        classifier: ``"svc"`` or ``"lr"``.

    Returns:
        Share of held-out prompts whose category is named, from 0 to 1.

    Raises:
        ModulesError: As ``probe`` raises.
    """
    return _probe(modules, train, test, classifier).accuracy


def _probe(
    modules: ModuleSet, train: ActivationMatrix, test: ActivationMatrix, classifier: Classifier
) -> Probe:
    check_choice("classifier", classifier, CLASSIFIERS)
    truth = compared_categories(train, test)
    return probe_labels(modules, train, test, truth, classifier)


def compared_categories(train: ActivationMatrix, test: ActivationMatrix) -> Truth:
    """Each training prompt's category, and each held-out one's; a warning names what differs.

    Args:
        train: Activations of the training prompts.
        test: Activations of the held-out prompts.

    Returns:
        Both lists.

    Raises:
        ModulesError: If a sample has no category, one is no whole text, or train has only one.
    """
    truth = _categories(train, "train"), _categories(test, "test")
    if len(set(truth[0])) < 2:
        raise ModulesError(
            f"train should hold at least two categories to tell apart; all are {truth[0][0]!r}."
        )
    warn_spelling(*(acts.samples["category"] for acts in (train, test)))
    known = set(truth[0])
    unknown = [label for label in truth[1] if label not in known]
    if unknown:
        warn_user(
            f"test has categories that train lacks, which no classifier can name: "
            f"{quoted(unknown)} ({len(unknown)} of {len(truth[1])} prompts). Those of train are "
            f"{quoted(truth[0])}."
            f"{apart(unknown, truth[0])} Use one spelling, or leave these prompts out.",
        )
    return truth


def categories(acts: ActivationMatrix | ActivationStore, name: str) -> list[str]:
    """Each sample's category.

    Args:
        acts: The activations.
        name: What they are called in the message.

    Returns:
        One name a sample.

    Raises:
        ModulesError: If a sample has none, or one is no whole text.
    """
    found = _categories(acts, name)
    warn_spelling(acts.samples["category"])
    return found


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
