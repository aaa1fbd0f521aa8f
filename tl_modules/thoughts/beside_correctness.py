"""Compare modules' activations between chains of thought that end right and that end wrong."""

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
    """Subtract each module's mean over chains that end wrong from its mean over the others.

    Chains of one question are not independent samples. The bootstrap therefore resamples whole
    questions, and the permutations exchange the outcomes of whole questions that have equally many
    chains.

    Args:
        values: The value of each module in each chain.
        correct: Whether a chain ends right.
        ids: The question of each chain.
        n_permutations: The number of permutations.
        seed: Seeds the bootstrap and the permutations.

    Returns:
        The table that ``Thoughts.beside_correctness`` describes.
    """
    codes = pd.factorize(ids)[0]
    n_questions = codes.max(initial=-1) + 1
    of_question = np.eye(n_questions)[codes]
    generator = np.random.default_rng(seed)
    observed = _differences(values, correct[None], np.ones((1, len(codes))))[0]
    drawn = generator.multinomial(n_questions, np.full(n_questions, 1 / n_questions), N_RESAMPLES)
    resampled = _differences(values, correct[None], drawn @ of_question.T)
    # A resample in which all chains end alike has no difference.
    resampled = resampled[~np.isnan(resampled).any(axis=1)]
    low, high = np.full((2, values.shape[1]), np.nan)
    if len(resampled) and n_questions > 1:
        low, high = percentile_interval(resampled)
    permuted = _permuted(correct, codes, n_permutations, generator)
    controls = _differences(values, permuted, np.ones((1, len(codes))))
    p_values = np.array(
        [
            control_p_value(float(abs(difference)), np.abs(controls[:, module]), ROUNDING)
            for module, difference in enumerate(observed)
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
    """Weighted means over correct chains minus those over wrong chains; NaN if a set is empty."""
    means = []
    for outcome in (correct, ~correct):
        of_outcome = weights * outcome
        with np.errstate(invalid="ignore"):  # no chain of this outcome: 0 / 0 is NaN
            means.append(of_outcome @ values / of_outcome.sum(axis=1, keepdims=True))
    return means[0] - means[1]


def _permuted(
    correct: Bool[np.ndarray, " chains"],
    codes: Int[np.ndarray, " chains"],
    n_permutations: int,
    generator: np.random.Generator,
) -> Bool[np.ndarray, "permutations chains"]:
    """Permute the outcomes among questions that have equally many chains."""
    permuted = np.tile(correct, (n_permutations, 1))
    counts = np.bincount(codes)
    for count in np.unique(counts):
        questions = np.flatnonzero(counts == count)
        places = np.stack([np.flatnonzero(codes == code) for code in questions])
        for row in permuted:
            row[places] = correct[places[generator.permutation(len(questions))]]
    return permuted
