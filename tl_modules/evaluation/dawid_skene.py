"""Dawid and Skene's model of annotators who err, fitted by expectation maximisation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LIMIT = 5000
"""Steps at most. A fit takes tens to hundreds of them."""

CONVERGED = 1e-6
"""The fit ends when a step changes no probability by more than this."""

_TINY = 1e-300
"""Stands for a probability of 0, whose logarithm is not finite."""

_IMPOSSIBLE = -600.0
"""A label whose log probability is lower than the likeliest one's by this has a factor of 0."""


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """What a fit found."""

    probabilities: Float[np.ndarray, "prompts labels"]
    """The posterior probability of each label for each prompt."""

    confusions: Float[np.ndarray, "annotators labels answers"]
    """How probable each answer is, given the true label; NaN for a label of whose prompts the
    annotator answered none."""

    converged: bool
    """Whether the fit ended before ``LIMIT`` steps."""


def dawid_skene(
    counts: Int[np.ndarray, "prompts annotators labels"],
    weights: Float[np.ndarray, " prompts"] | None = None,
    start: Float[np.ndarray, "prompts labels"] | None = None,
) -> DawidSkene:
    """Estimate the true labels and each annotator's confusion from answers alone.

    The model (Dawid and Skene 1979, Applied Statistics 28, 20-28): a prompt has one true label; an
    annotator's answer depends on it, by the annotator's confusion matrix; and given the true label
    annotators answer independently. The fit is by maximum likelihood from the paper's start, the
    shares of the answers. It finds the labels that most answers mean: where most annotators are
    wrong together, so is the fit.

    Args:
        counts: How often each annotator gave each label to each prompt; 0 for abstentions.
        weights: How much each prompt counts for the parameters; 1 by default.
        start: Posterior probabilities to start from, in place of the shares of the answers.

    Returns:
        The fit. A prompt without answers has the labels' overall probabilities.
    """
    n_prompts, n_annotators, n_labels = counts.shape
    weights = np.ones(n_prompts) if weights is None else weights
    # Prompts with the same answers have the same probabilities, and there are few such patterns.
    patterns, pattern = np.unique(counts.reshape(n_prompts, -1), axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)  # some versions of NumPy give it a second axis
    answers = patterns.astype(np.float64)
    first = _shares(counts.sum(axis=1)) if start is None else start
    weight = np.bincount(pattern, weights)[:, None]
    posterior = np.stack([np.bincount(pattern, weights * column) for column in first.T], axis=1)
    posterior /= weight
    shape = (n_labels, n_annotators, n_labels)
    converged = False
    for _ in range(LIMIT):
        prevalence = (posterior * weight).sum(axis=0) / weight.sum()
        rates = np.nan_to_num(_rates(posterior * weight, answers, shape), nan=1 / n_labels)
        log_rates = np.log(np.maximum(rates, _TINY)).reshape(n_labels, -1)
        log_joint = np.log(np.maximum(prevalence, _TINY)) + answers @ log_rates.T
        below = log_joint - log_joint.max(axis=1, keepdims=True)
        joint = np.where(below > _IMPOSSIBLE, np.exp(below), 0.0)
        before, posterior = posterior, joint / joint.sum(axis=1, keepdims=True)
        if np.abs(posterior - before).max() <= CONVERGED:
            converged = True
            break
    confusions = _rates(posterior * weight, answers, shape).transpose(1, 0, 2)
    return DawidSkene(posterior[pattern], confusions, converged)


def _rates(
    weighted: Float[np.ndarray, "patterns labels"],
    answers: Float[np.ndarray, "patterns annotators_x_labels"],
    shape: tuple[int, int, int],
) -> Float[np.ndarray, "labels annotators answers"]:
    """How often each annotator gives each answer to prompts of a label.

    NaN where it answered no prompt of the label. The fit then takes all answers as equally
    probable, since nothing is known of them.
    """
    given = (weighted.T @ answers).reshape(shape)
    totals = given.sum(axis=2, keepdims=True)
    return np.where(totals > 0, given / np.maximum(totals, _TINY), np.nan)


def _shares(totals: Int[np.ndarray, "prompts labels"]) -> Float[np.ndarray, "prompts labels"]:
    """Each label's share of a prompt's answers; of all answers, where a prompt has none."""
    own = totals.sum(axis=1, keepdims=True)
    return np.where(own > 0, totals / np.maximum(own, 1), totals.sum(axis=0) / totals.sum())
