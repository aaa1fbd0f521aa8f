"""What modules do in chains of thought that end right, beside those that end wrong."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from tl_modules.tables.against_controls import ROUNDING, control_mean, control_p_value, control_std
from tl_modules.tables.bootstrap import N_RESAMPLES, percentile_interval
from tl_modules.tables.p_values import benjamini_hochberg, holm


def beside_correctness(
    values: Float[np.ndarray, "chains modules"],
    correct: Bool[np.ndarray, " chains"],
    ids: pd.Series,
    n_permutations: int,
    seed: int,
) -> pd.DataFrame:
    """Each module's mean over chains that end right less that over those that end wrong.

    Chains of one question are no independent samples: whole questions are resampled, and whole
    questions' outcomes permuted, among questions with as many chains.

    Args:
        values: Each module's value in each chain.
        correct: Which chains end right.
        ids: Each chain's question.
        n_permutations: Permutations.
        seed: Seeds both.

    Returns:
        What ``Thoughts.beside_correctness`` describes.
    """
    codes = pd.factorize(ids)[0]
    n_questions = codes.max(initial=-1) + 1
    of_question = np.eye(n_questions)[codes]
    generator = np.random.default_rng(seed)
    observed = _differences(values, correct[None], np.ones((1, len(codes))))[0]
    drawn = generator.multinomial(n_questions, np.full(n_questions, 1 / n_questions), N_RESAMPLES)
    resampled = _differences(values, correct[None], drawn @ of_question.T)
    # A resample without one of the outcomes has no difference.
    resampled = resampled[~np.isnan(resampled).any(axis=1)]
    low, high = np.full((2, values.shape[1]), np.nan)
    if len(resampled) and n_questions > 1:
        low, high = percentile_interval(resampled)
    permuted = _permuted(correct, codes, n_permutations, generator)
    controls = _differences(values, permuted, np.ones((1, len(codes))))
    p_values = np.array(
        [
            control_p_value(float(abs(each)), np.abs(controls[:, k]), ROUNDING)
            for k, each in enumerate(observed)
        ]
    )
    return pd.DataFrame(
        {
            "module": np.arange(values.shape[1]),
            "n_correct": int(correct.sum()),
            "n_wrong": int((~correct).sum()),
            "mean_correct": _mean(values[correct]),
            "mean_wrong": _mean(values[~correct]),
            "difference": observed,
            "ci_low": low,
            "ci_high": high,
            "control_mean": control_mean(controls),
            "control_std": control_std(controls),
            "p_value": p_values,
            "p_holm": holm(p_values),
            "p_bh": benjamini_hochberg(p_values),
        }
    )


def _mean(values: Float[np.ndarray, "_chains modules"]) -> Float[np.ndarray, " modules"]:
    return values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)


def _differences(
    values: Float[np.ndarray, "chains modules"],
    correct: Bool[np.ndarray, "runs_or_1 chains"],
    weights: Float[np.ndarray, "draws_or_1 chains"],
) -> Float[np.ndarray, "rows modules"]:
    """Weighted means over correct chains less those over wrong ones; NaN where there are none."""
    means = []
    for chosen in (correct, ~correct):
        own = weights * chosen
        with np.errstate(invalid="ignore"):
            means.append(own @ values / own.sum(axis=1, keepdims=True))
    return means[0] - means[1]


def _permuted(
    correct: Bool[np.ndarray, " chains"],
    codes: Int[np.ndarray, " chains"],
    n_permutations: int,
    generator: np.random.Generator,
) -> Bool[np.ndarray, "permutations chains"]:
    """The outcomes, each question's handed to another one with as many chains."""
    found = np.tile(correct, (n_permutations, 1))
    counts = np.bincount(codes)
    for count in np.unique(counts):
        alike = np.flatnonzero(counts == count)
        places = np.stack([np.flatnonzero(codes == code) for code in alike])
        for row in found:
            row[places] = correct[places[generator.permutation(len(alike))]]
    return found
