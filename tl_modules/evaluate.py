"""The paper's downstream test: do modules' mean activations name a prompt's category?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.errors import ModulesError, check_choice
from tl_modules.modules import BACKGROUND, ModuleSet
from tl_modules.normalise import check_same_kind

CLASSIFIERS = ("svc", "lr")
"""``svc``: support vectors with an RBF kernel; ``lr``: one-vs-one logistic regression."""


@dataclass(frozen=True)
class Probe:
    """How well a classifier on K module means does on held-out prompts."""

    accuracy: float
    """Share of prompts whose category it names."""

    macro_f1: float
    """F1 averaged over the categories, each counting the same."""

    n_test: int
    """Held-out prompts."""


def probe(
    modules: ModuleSet, train: ActivationMatrix, test: ActivationMatrix, classifier: str = "svc"
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
    check_choice("classifier", classifier, CLASSIFIERS)
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    truth = [categories(acts, name) for acts, name in ((train, "train"), (test, "test"))]
    if len(set(truth[0])) < 2:
        raise ModulesError(
            f"train should hold at least two categories to tell apart; all are {truth[0][0]!r}."
        )
    features = [module_means(modules, acts) for acts in (train, test)]
    model = SVC() if classifier == "svc" else OneVsOneClassifier(LogisticRegression(max_iter=1000))
    fitted = make_pipeline(StandardScaler(), model).fit(features[0], truth[0])
    predicted = fitted.predict(features[1])
    return Probe(
        accuracy=float(accuracy_score(truth[1], predicted)),
        macro_f1=float(f1_score(truth[1], predicted, average="macro")),
        n_test=len(predicted),
    )


def probe_accuracy(
    modules: ModuleSet, train: ActivationMatrix, test: ActivationMatrix, classifier: str = "svc"
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
    return probe(modules, train, test, classifier).accuracy


def module_means(
    modules: ModuleSet, acts: ActivationMatrix
) -> Float[np.ndarray, "samples modules"]:
    """Each sample's normalised mean over each module's units; 0 for a module without units.

    Args:
        modules: The modules.
        acts: Raw activations, or normalised ones (then taken as they are).

    Returns:
        One row a sample, one column a module.

    Raises:
        ModulesError: If the activations are of other units or of another reading, normalised
            otherwise, or no fitted normaliser is known.
    """
    if not hasattr(acts, "values"):
        raise ModulesError(
            f"Module means need a matrix in memory; got {type(acts).__name__}. Load the samples "
            "that you need: store.matrix(rows)."
        )
    if not acts.units.same_hooks(modules.units):
        raise ModulesError(
            "The activations should be of the modules' own units; their hook points or widths "
            "differ. Collect them from the model that the modules were discovered on."
        )
    if acts.reading != modules.reading:
        raise ModulesError(
            f"The activations should be collected as the modules' were ({modules.reading}); they "
            f"are {acts.reading}. Collect them anew."
        )
    values = acts.values
    if acts.normaliser is not None and modules.normaliser is not None:
        check_same_kind(acts.normaliser, modules.normaliser)
    if acts.normaliser is None:
        if modules.normaliser is None:
            raise ModulesError(
                "These modules hold no fitted normaliser: they were made by hand. Pass normalised "
                "activations, acts.zscore(like=...)."
            )
        values = modules.normaliser.apply(values)
    members = np.zeros((len(modules.units), modules.n_modules), dtype=values.dtype)
    inside = np.flatnonzero(modules.unit_labels != BACKGROUND)
    members[inside, modules.unit_labels[inside]] = 1
    return (values @ members) / np.maximum(members.sum(axis=0), 1)


def categories(acts: ActivationMatrix, name: str) -> list[str]:
    """Each sample's category.

    Args:
        acts: The activations.
        name: What they are called in the message.

    Returns:
        One name a sample.

    Raises:
        ModulesError: If a sample has none.
    """
    if "category" not in acts.samples or bool(pd.isna(acts.samples["category"]).to_numpy().any()):
        raise ModulesError(
            f"{name} should have a category for every sample. Collect it from a frame with a "
            "column 'category'."
        )
    return acts.samples["category"].astype(str).tolist()
