"""Find prompts whose category the activations contradict."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.components import leading_components
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed, shown
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import checked_labels, column_hint, warn_spelling

Profile = Literal["modules", "components"]
"""What a prompt's profile is made of: modules' mean activations, or principal components."""


Weights = Literal["equal", "root", "balanced"]
"""How much a prompt of a rare label counts in training: as much as any other, or inversely to the
square root of its label's frequency, or inversely to this frequency."""

_POWERS: dict[str, float] = {"equal": 0.0, "root": 0.5, "balanced": 1.0}


@dataclass(frozen=True, eq=False, repr=False)
class LabelAudit:
    """Which prompts' labels the activations contradict."""

    table: pd.DataFrame
    """One row per prompt, the most doubtful label first: ``row`` (the prompt's number in the
    activations), ``prompt`` (if the samples have it), ``given`` (its label), ``suggested`` (the
    label that the other prompts' profiles make likeliest), ``quality`` (cleanlab's score: the
    probability of the given label, from 0 to 1) and ``issue`` (whether cleanlab flags it)."""

    summary: pd.DataFrame
    """One row per label, in alphabetical order: ``category``, ``n`` (prompts with the label),
    ``n_issues`` (how many of them are flagged), ``share_issues`` (from 0 to 1), ``n_suggested``
    (flagged prompts of other labels for which this label is suggested) and ``quality`` (the mean
    over its prompts). A rare label with few prompts and a large ``n_suggested`` has lost prompts to
    frequent ones."""

    profile: Profile
    """What the profiles are made of."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        n_issues = np.count_nonzero(self.table["issue"])
        return (
            f"LabelAudit({n_issues} of {len(self.table)} labels flagged, from the profiles of "
            f"{self.profile})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the tables."""
        return html_table(repr(self), self.summary, self.table)


@checked
def label_audit(
    acts: ActivationMatrix | ActivationStore,
    labels: Annotated[Iterable[Any] | None, Elsewhere("one label per prompt")] = None,
    *,
    modules: ModuleSet | None = None,
    n_components: int = 16,
    n_folds: int = 5,
    weights: Weights = "root",
    seed: int = 0,
) -> LabelAudit:
    """Find prompts whose category their activations contradict, before selectivity rests on them.

    A classifier predicts each prompt's label from its profile, after training on other prompts. The
    library cleanlab compares these predictions with the given labels (confident learning; Northcutt
    et al. 2021, arXiv 1911.00068). A flagged label is a label to read again. It is not proof of an
    error: a prompt can also be unusual, or the model can represent it unlike a person would.

    Chen et al. 2025 (arXiv 2503.11414, "DULL") observe that prompts of rare classes are mislabelled
    as frequent ones ("tail-to-head noise"), and propose a training that disentangles and unlearns
    the wrong features. Only their abstract could be read. Taken from it are the question and the
    kind of noise that ``benchmarks/label_noise.py`` simulates; their training is not part of this
    package.

    - A profile is the mean activation of each module, z-scored over the prompts. Without
      ``modules`` it is the first principal components of the z-scored units. Means of layers would
      lose what tells units of one layer apart. Neither uses the labels, unless you chose modules
      by them.
    - The classifier is a logistic regression. Folds are stratified, and prompts with the same text
      are in the same fold.
    - Where labels differ in frequency, a classifier that weighs prompts equally predicts rare
      labels too seldom, and misses rare prompts that have a frequent label. One that weighs labels
      equally (``"balanced"``) predicts rare labels too often, and flags frequent prompts whose
      label is right. ``"root"`` lies between, and comes close to the better of the two under either
      kind of noise (``benchmarks/label_noise.py``).

    Args:
        acts: Activations; raw ones are normalised as at discovery. A store needs ``modules``.
        labels: One label per prompt; by default the column ``category`` of ``acts.samples``. They
            are compared as text.
        modules: Modules of the same units, whose mean activations are the profile.
        n_components: The number of principal components, without ``modules``.
        n_folds: The number of folds. Each label needs as many different prompts.
        weights: Whether the classifier's prompts weigh ``"equal"``, or inversely to the ``"root"``
            of their label's frequency, or so that labels are ``"balanced"``.
        seed: Seeds the folds.

    Returns:
        The audit: a table of prompts and a summary per label.

    Raises:
        ModulesError: If cleanlab is not installed, a label is missing, their number is not the
            number of prompts, there is only one label, a label has fewer different prompts than
            there are folds, the units differ, or a store comes without modules.

    >>> generator = np.random.default_rng(0)
    >>> truth = np.repeat(["code", "verse"], 20)
    >>> values = generator.normal(size=(40, 6)) + 4 * (truth == "code")[:, None]
    >>> given = truth.copy()
    >>> given[7] = "verse"
    >>> audit = label_audit(ActivationMatrix.from_arrays(values), given)
    >>> audit.table.loc[audit.table["issue"], ["row", "given", "suggested"]].values.tolist()
    [[7, 'verse', 'code']]
    """
    check_at_least("n_components", n_components, 1)
    check_at_least("n_folds", n_folds, 2)
    check_choice("weights", weights, get_args(Weights))
    check_seed(seed)
    texts = _labels(acts, labels)
    codes, names = pd.factorize(np.array(texts, dtype=object), sort=True)
    groups = _same_prompts(acts.samples)
    home = _groups_labels(groups, codes, names.tolist(), n_folds)
    filters, ranking = _cleanlab()
    profiles = _profiles(acts, modules, n_components, seed)
    folds = _folds(groups, home, n_folds, seed)
    chances = _out_of_sample(profiles, codes, folds, _POWERS[weights])
    # One job, because others would be processes.
    issues = filters.find_label_issues(codes, chances, n_jobs=1).astype(bool)
    quality = ranking.get_label_quality_scores(codes, chances)
    suggested = names[chances.argmax(axis=1)]
    table = pd.DataFrame({"row": np.arange(len(codes))})
    if "prompt" in acts.samples:
        table["prompt"] = acts.samples["prompt"].to_numpy()
    table = table.assign(given=texts, suggested=suggested, quality=quality, issue=issues)
    ranked = table.sort_values("quality", kind="stable", ignore_index=True)
    return LabelAudit(ranked, _summary(ranked), "components" if modules is None else "modules")


def _cleanlab() -> tuple[Any, Any]:
    """Import cleanlab's parts, which are an optional dependency and slow to import."""
    try:
        from cleanlab import filter as filters
        from cleanlab import rank
    except ImportError as error:
        raise ModulesError(
            "label_audit needs the package cleanlab, which is not installed. Install it with pip "
            "install 'tl_modules[labels]'."
        ) from error
    return filters, rank


def _labels(acts: ActivationMatrix | ActivationStore, labels: Iterable[Any] | None) -> list[str]:
    if labels is None:
        if "category" not in acts.samples:
            hint = column_hint(list(acts.samples.columns))
            raise ModulesError(f"The prompts should have labels; there are none. {hint}.")
        labels = acts.samples["category"]
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise ModulesError(
            f"labels should be one label per prompt; got {shown(labels)}. Pass a list, or leave it "
            "out: the column 'category' is the default."
        )
    listed = list(labels)
    if len(listed) != len(acts.samples):
        raise ModulesError(
            f"labels should have one label for each of the {len(acts.samples)} prompts; got "
            f"{len(listed)}. Pass them in the order of acts.samples."
        )
    texts = checked_labels(listed)
    warn_spelling(listed)
    return texts


def _same_prompts(samples: pd.DataFrame) -> Int[np.ndarray, " samples"]:
    """Number the prompts so that prompts with the same text have the same number."""
    if "prompt" not in samples:
        return np.arange(len(samples))
    texts = [text.strip() if isinstance(text, str) else text for text in samples["prompt"]]
    return pd.factorize(np.array(texts, dtype=object), use_na_sentinel=False)[0]


def _groups_labels(
    groups: Int[np.ndarray, " samples"],
    codes: Int[np.ndarray, " samples"],
    names: list[str],
    n_folds: int,
) -> Int[np.ndarray, " groups"]:
    """Return the most frequent label of each group of equal prompts.

    Raises:
        ModulesError: If there is one label, or fewer groups have a label than there are folds.
    """
    if len(names) < 2:
        raise ModulesError(
            f"There should be at least two labels, so that one can be wrong; all {len(codes)} "
            f"prompts have {names[0]!r}. Add prompts of another category."
        )
    counts = np.zeros((groups.max() + 1, len(names)), dtype=int)
    np.add.at(counts, (groups, codes), 1)
    home = counts.argmax(axis=1)
    n_groups = np.bincount(home, minlength=len(names))
    rarest = int(n_groups.argmin())
    if n_groups[rarest] < n_folds:
        raise ModulesError(
            f"Each label should have at least n_folds={n_folds} different prompts; "
            f"{names[rarest]!r} has {n_groups[rarest]}. Add prompts, leave the label out, or lower "
            "n_folds."
        )
    return home


def _profiles(
    acts: ActivationMatrix | ActivationStore,
    modules: ModuleSet | None,
    n_components: int,
    seed: int,
) -> Float[np.ndarray, "samples features"]:
    if modules is not None:
        return module_means(modules, acts).astype(np.float64)
    if isinstance(acts, ActivationStore):
        raise ModulesError(
            "The principal components need the whole matrix; got a store. Pass modules=, or "
            "store.matrix()."
        )
    scored = acts if acts.normaliser is not None else acts.normalise("zscore")
    values = scored.values - scored.values.mean(axis=0)
    return leading_components(
        lambda basis: values @ (values.T @ basis), None, len(values), n_components, seed
    )


def _folds(
    groups: Int[np.ndarray, " samples"],
    home: Int[np.ndarray, " groups"],
    n_folds: int,
    seed: int,
) -> Iterator[Bool[np.ndarray, " samples"]]:
    """Yield the prompts of each fold; each label has a group in every fold."""
    from sklearn.model_selection import StratifiedKFold  # slow to import

    for _, held in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(home, home):
        yield np.isin(groups, held)


def _out_of_sample(
    profiles: Float[np.ndarray, "samples features"],
    codes: Int[np.ndarray, " samples"],
    folds: Iterator[Bool[np.ndarray, " samples"]],
    power: float,
) -> Float[np.ndarray, "samples labels"]:
    """Predict each prompt's label by a classifier that saw no prompt of its fold.

    A training prompt's weight is its label's number of prompts to the power of ``-power``.
    """
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    chances = np.zeros((len(codes), codes.max() + 1))
    for out in folds:
        trained = codes[~out]
        # Weights of mean 1 keep the strength of the regularisation.
        of_label = np.bincount(trained) ** -power
        weights = of_label[trained] / of_label[trained].mean()
        scaled = StandardScaler().fit(profiles[~out])
        # C below its default of 1: wrong labels reward a classifier that fits them less closely.
        model = LogisticRegression(C=0.1, max_iter=1000)
        model.fit(scaled.transform(profiles[~out]), trained, sample_weight=weights)
        chances[out] = model.predict_proba(scaled.transform(profiles[out]))
    return chances


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    flagged = table.loc[table["issue"]]
    by_label = table.groupby("given").agg(
        n=("issue", "size"),
        n_issues=("issue", "sum"),
        share_issues=("issue", "mean"),
        quality=("quality", "mean"),
    )
    gained = flagged["suggested"].value_counts().reindex(by_label.index, fill_value=0)
    by_label.insert(3, "n_suggested", gained.astype(np.int64))
    return by_label.rename_axis("category").reset_index()
