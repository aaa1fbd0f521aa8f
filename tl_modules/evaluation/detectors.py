"""Compare single neurons, layers and modules as detectors of a concept, by bootstraps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import check_own_units
from tl_modules.modules.module_set import ModuleSet, check_module_set
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.bootstrap import bootstrap_indices, percentile_interval
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import warn_spelling
from tl_modules.tables.linear_probe import fitted_probe
from tl_modules.tables.prompt_frames import categories_said, has_concept
from tl_modules.tables.roc import auc

_BLOCK = 4096
"""The number of features that are ranked at a time, which bounds the memory."""


@dataclass(frozen=True, eq=False, repr=False)
class Detectors:
    """How well, and how stably, each kind of feature detects a concept."""

    concept: str
    """The category that is detected."""

    table: pd.DataFrame
    """One row per ``detector``: ``"neuron"``, ``"layer"``, ``"module"`` (the single feature of that
    kind that is best on a resample) and ``"neurons"``, ``"layers"``, ``"modules"`` (a logistic
    regression on several features). ``n_features`` is the number of features to choose from.
    ``auc`` is the mean over resamples on the prompts that a resample left out; ``auc_ci_low`` and
    ``auc_ci_high`` hold 95 % of the resamples. ``auc_in`` is the AUC on the resample itself;
    ``auc_in - auc`` is optimism. ``auc_shuffled`` is the control with shuffled labels. ``p_value``
    is one-sided: it compares the mean over the first resamples with each shuffle's mean over
    equally many. ``auc_test``, ``auc_test_ci_low`` and ``auc_test_ci_high`` are on
    the test prompts. ``same_pick`` is the chance that two resamples choose the same feature."""

    runs: pd.DataFrame
    """One row per resample and detector: ``shuffle`` (0: the true labels), ``shuffled``,
    ``resample`` (numbered within each shuffle), ``detector``, ``feature`` (the
    column of the best feature; -1 if several are used), ``auc_in``, ``auc``, ``auc_test``."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        scores = [
            f"{row['detector']} {row['auc']:.2f}" for row in self.table.to_dict(orient="records")
        ]
        return f"Detectors(of {self.concept!r}, AUC on prompts left out: {', '.join(scores)})"

    def _repr_html_(self) -> str:
        """Show Jupyter the table."""
        return html_table(repr(self), self.table)


@checked
def compare_detectors(
    train: ActivationMatrix,
    concept: str,
    modules: ModuleSet | None = None,
    *,
    test: ActivationMatrix | None = None,
    n_resamples: int = 50,
    n_shuffles: int = 19,
    seed: int = 0,
    progress: bool = True,
) -> Detectors:
    """Compare how well and how stably neurons, layers and modules detect a concept.

    Shaik et al. 2025 (arXiv 2509.16660) ask how stable single neurons are as indicators, and
    whether features averaged over a layer are more robust. A feature's score is the AUC of its
    value for prompts of the category against other prompts, in the better direction. Each bootstrap
    resample chooses its best neuron, layer and module (layers and modules by the mean z-score of
    their units), and scores each on the prompts outside the resample. It also scores logistic
    regressions on the means of all layers, on the means of all modules, and on as many of the best
    neurons as there are layers.

    The control repeats the procedure with shuffled labels. Each shuffle is resampled a tenth as
    often as the true labels, at least once. ``p_value`` counts the shuffles whose mean AUC is at
    least that of as many resamples of the true labels, a permutation test.

    Two things favour the detectors: z-scores use the means and standard deviations of all prompts
    of ``train``, and modules are discovered on all these prompts, though without labels. ``test``
    gives the stricter comparison.

    Args:
        train: Raw activations of prompts with ``category``.
        concept: One of the categories.
        modules: Modules of the same units; without them, the table has no rows for modules.
        test: Raw activations of other prompts, with ``category``.
        n_resamples: The number of resamples with the true labels.
        n_shuffles: The number of shuffles; the smallest p-value is ``1 / (1 + n_shuffles)``.
        seed: Seeds the resamples and the shuffles.
        progress: Show a progress bar.

    Returns:
        The comparison, which ``plot_detectors`` draws.

    Raises:
        ModulesError: If there are fewer than three prompts with or without the concept, the units
            differ, ``modules`` is no module set, or ``train`` is already normalised.
    """
    check_at_least("n_resamples", n_resamples, 2)
    check_at_least("n_shuffles", n_shuffles, 1)
    check_seed(seed)
    if test is not None and not test.units.same_hooks(train.units):
        raise ModulesError(
            "test should have the same units as train; its hook points or widths differ. Collect "
            "it from the same model and site."
        )
    if modules is not None:
        check_module_set(modules)
        check_own_units(modules, train)
    both = [acts.samples for acts in (train, test) if acts is not None]
    labels = [samples["category"] for samples in both if "category" in samples]
    warn_spelling(*labels)
    truth = _truth("train", train, concept, least=3)
    test_truth = None if test is None else _truth("test", test, concept, least=1)
    features = _features(train, modules, test)
    n_layers = features["layer"][0].shape[1]
    generator = np.random.default_rng(seed)
    rows = []
    n_each = max(1, n_resamples // 10)
    labellings = _labellings(truth, n_resamples, n_shuffles, n_each, generator)
    total = n_resamples + n_shuffles * n_each
    bar = tqdm(labellings, desc="resample", total=total, disable=not progress)
    for shuffle, number, labels in bar:
        drawn = _draw(labels, generator)
        left = np.setdiff1d(np.arange(len(labels)), drawn)
        for kind, (values, others) in features.items():
            score = _Score(labels, drawn, left, values, others, test_truth)
            aucs = score.all_aucs()
            best = np.argsort(-np.abs(aucs - 0.5), kind="stable")
            # As many neurons as layers, so that both regressions have as many features.
            used = best[:n_layers] if kind == "neuron" else np.arange(values.shape[1])
            head = {"shuffle": shuffle, "shuffled": shuffle > 0, "resample": number}
            alone = score.alone(int(best[0]), aucs)
            rows.append(head | {"detector": kind, "feature": int(best[0])} | alone)
            rows.append(head | {"detector": f"{kind}s", "feature": -1} | score.together(used))
    runs = pd.DataFrame(rows)
    sizes = {kind: values.shape[1] for kind, (values, _) in features.items()}
    return Detectors(concept, _table(runs, sizes), runs)


def _labellings(
    truth: Bool[np.ndarray, " samples"],
    n_resamples: int,
    n_shuffles: int,
    n_each: int,
    generator: np.random.Generator,
) -> Iterator[tuple[int, int, Bool[np.ndarray, " samples"]]]:
    """Yield each resample's shuffle, its number within the shuffle, and its labels.

    The true labels come first, as shuffle 0. Shuffles are the control for choosing the best of many
    features. One shuffle's resamples share their labels, as those of the true labels do: means over
    equally many resamples are then exchangeable if the labels say nothing of the values.
    """
    for number in range(n_resamples):
        yield 0, number, truth
    for shuffle in range(1, 1 + n_shuffles):
        labels = generator.permutation(truth)
        for number in range(n_each):
            yield shuffle, number, labels


def _truth(
    name: str, acts: ActivationMatrix, concept: str, least: int
) -> Bool[np.ndarray, " samples"]:
    truth = has_concept(acts.samples, concept)
    if min(truth.sum(), (~truth).sum()) < least:
        raise ModulesError(
            f"{name} should hold at least {least} prompts of the category {concept!r} and at least "
            f"{least} others; {int(truth.sum())} of its {len(truth)} prompts have it. "
            f"{categories_said(acts.samples, concept)}"
        )
    return truth


_Pair = tuple[
    Float[np.ndarray, "_samples _features"], Float[np.ndarray, "_others _features"] | None
]


def _features(
    train: ActivationMatrix, modules: ModuleSet | None, test: ActivationMatrix | None
) -> dict[str, _Pair]:
    """Compute the features of each kind on the prompts and on the test prompts."""
    scored = train.normalise("zscore")
    first = scored.values
    second = None if test is None else test.normalise("zscore", like=scored.normaliser).values
    layer_of = np.asarray(train.units.layers)[train.units.hook]
    groups = {"layer": [layer_of == layer for layer in np.unique(layer_of)]}
    if modules is not None:
        groups["module"] = [modules.unit_labels == k for k in range(len(modules))]
    features: dict[str, _Pair] = {"neuron": (first, second)}
    for kind, members in groups.items():
        on_test = None if second is None else _means(second, members)
        features[kind] = _means(first, members), on_test
    return features


def _means(
    values: Float[np.ndarray, "samples units"], members: list[Bool[np.ndarray, " units"]]
) -> Float[np.ndarray, "samples groups"]:
    """Average over the units of each group; 0 for a group without units."""
    return np.stack(
        [values[:, is_in].sum(axis=1) / max(int(is_in.sum()), 1) for is_in in members], axis=1
    )


def _draw(
    labels: Bool[np.ndarray, " samples"], generator: np.random.Generator
) -> Int[np.ndarray, " samples"]:
    """Draw a resample that leaves out at least one prompt with and one without the concept."""
    while True:
        (drawn,) = bootstrap_indices(labels, 1, int(generator.integers(2**31)))
        left = np.setdiff1d(np.arange(len(labels)), drawn)
        if 0 < labels[left].sum() < len(left):
            return drawn


@dataclass(frozen=True, eq=False)
class _Score:
    """Scores features of one kind on one resample."""

    labels: Bool[np.ndarray, " samples"]
    drawn: Int[np.ndarray, " samples"]
    left: Int[np.ndarray, " left"]
    values: Float[np.ndarray, "samples features"]
    others: Float[np.ndarray, "tests features"] | None
    test_truth: Bool[np.ndarray, " tests"] | None

    def all_aucs(self) -> Float[np.ndarray, " features"]:
        """Compute the AUC of every feature on the resample."""
        return np.concatenate(
            [auc(block.T, self.labels[self.drawn]) for block in _blocks(self.values[self.drawn])]
        )

    def alone(self, feature: int, aucs: Float[np.ndarray, " features"]) -> dict[str, float]:
        """Score one feature, in the direction that is better on the resample."""
        sign = 1.0 if aucs[feature] >= 0.5 else -1.0
        on_test = None if self.others is None else sign * self.others[:, feature]
        return self._scores(sign * self.values[:, feature], on_test)

    def together(self, used: Int[np.ndarray, " used"]) -> dict[str, float]:
        """Score a logistic regression on several features, fitted to the resample."""
        probe = fitted_probe(self.values[self.drawn][:, used], self.labels[self.drawn])
        others = self.others
        on_test = None if others is None else probe.decision_function(others[:, used])
        return self._scores(probe.decision_function(self.values[:, used]), on_test)

    def _scores(
        self,
        values: Float[np.ndarray, " samples"],
        on_test: Float[np.ndarray, " tests"] | None,
    ) -> dict[str, float]:
        scores = {
            "auc_in": float(auc(values[self.drawn], self.labels[self.drawn])),
            "auc": float(auc(values[self.left], self.labels[self.left])),
            "auc_test": float("nan"),
        }
        if on_test is not None and self.test_truth is not None:
            scores["auc_test"] = float(auc(on_test, self.test_truth))
        return scores


def _blocks(values: Float[np.ndarray, "samples features"]) -> Iterator[np.ndarray]:
    return (values[:, start : start + _BLOCK] for start in range(0, values.shape[1], _BLOCK))


def _table(runs: pd.DataFrame, sizes: dict[str, int]) -> pd.DataFrame:
    """Summarise the runs in one row per detector."""
    rows = []
    for name, group in runs.groupby("detector", sort=False):
        real, shuffled = group.loc[~group["shuffled"]], group.loc[group["shuffled"]]
        by_shuffle = shuffled.groupby("shuffle")["auc"].mean().to_numpy()
        first = real["auc"].head(len(shuffled) // len(by_shuffle)).mean()
        low, high = percentile_interval(real["auc"].to_numpy())
        row = {
            "detector": name,
            "n_features": sizes[str(name).removesuffix("s")],
            "auc": float(real["auc"].mean()),
            "auc_ci_low": float(low),
            "auc_ci_high": float(high),
            "auc_in": float(real["auc_in"].mean()),
            "auc_shuffled": float(shuffled["auc"].mean()),
            "p_value": control_p_value(float(first), by_shuffle, ROUNDING),
            "auc_test": float(real["auc_test"].mean()),
        }
        low, high = percentile_interval(real["auc_test"].to_numpy())
        row |= {"auc_test_ci_low": float(low), "auc_test_ci_high": float(high)}
        rows.append(row | {"same_pick": _same_pick(real["feature"].to_numpy())})
    # ``sizes`` has the kinds of single features; sorting is stable within both groups.
    singles_first = sorted(rows, key=lambda row: str(row["detector"]) not in sizes)
    return pd.DataFrame(singles_first)


def _same_pick(features: Int[np.ndarray, " resamples"]) -> float:
    """Return the chance that two resamples chose the same feature; NaN if there was no choice."""
    if (features < 0).any():
        return float("nan")
    # Pairs of different resamples, so that a resample does not agree with itself.
    counts = np.unique(features, return_counts=True)[1]
    n = len(features)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))
