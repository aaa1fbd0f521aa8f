"""The numbers that a table of steering has of one target at one factor, beside its controls."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from tl_modules.tables.against_controls import ROUNDING, beside_controls, named, run_rounding
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.prompt_frames import is_category


@dataclass(frozen=True, eq=False)
class TextNumbers:
    """What was read off the texts that were written, a target's first, then each control's."""

    score: Float[np.ndarray, "runs starts"]
    """The own words' share, or the user's score."""

    loss: Float[np.ndarray, "runs starts"]
    """The unsteered model's loss on the texts, nats per token."""

    repeated: Float[np.ndarray, "runs starts"]
    """The share of word pairs that occur earlier in their text."""


def loss_row(
    categories: Shaped[np.ndarray, " prompts"],
    clean: Float[np.ndarray, " prompts"],
    rises: Float[np.ndarray, "runs prompts"],
    own: str | None,
    seed: int,
) -> dict[str, float]:
    """The rises of the prompts' losses on the own category, on the others, and the difference.

    Args:
        categories: Each prompt's category.
        clean: Each prompt's loss without an intervention.
        rises: The rises under the target's intervention, then under each control's.
        own: The target's own category.
        seed: Seed of the bootstrap.

    Returns:
        The columns ``own_effect``, ``other_effect`` and ``selectivity``, each with its interval and
        its controls.
    """
    draws = bootstrap_indices(pd.factorize(categories, sort=True)[0], N_RESAMPLES, seed)
    resampled = rises[0][draws]
    row: dict[str, float] = {}
    for name, weights in _weights(categories, own).items():
        of_target = resampled @ weights
        counted = set(categories[weights != 0].tolist())
        if any(is_category(categories, each).sum() < 2 for each in counted):
            of_target[:] = np.nan  # every resample of a single prompt is that prompt
        numbers = beside_controls(rises @ weights, of_target, tolerance=run_rounding(clean))
        row |= named(name, numbers)
    return row


def text_row(texts: TextNumbers, clean: TextNumbers, factor: float, seed: int) -> dict[str, float]:
    """The score, fluency and repetition of the texts beside those without an intervention.

    Args:
        texts: The texts of the target, then those of each control.
        clean: The texts without an intervention, a single run.
        factor: The factor. Above 1 the score should rise; below 1 it should fall.
        seed: Seed of the bootstrap over starts.

    Returns:
        The columns ``score``, ``score_rise``, ``text_loss``, ``lost``, ``repeated`` and those that
        belong to them.
    """
    n_starts = clean.score.shape[1]
    draws = bootstrap_indices(np.zeros(n_starts), N_RESAMPLES, seed)
    row: dict[str, float] = {}
    for level, rise, name in (("score", "score_rise", "score"), ("text_loss", "lost", "loss")):
        of_runs, of_clean = getattr(texts, name), getattr(clean, name)[0]
        rises = of_runs - of_clean
        resampled = rises[0][draws].mean(axis=1)
        if n_starts < 2:
            resampled[:] = np.nan
        sign = -1.0 if name == "score" and factor < 1 else 1.0
        tolerance = ROUNDING if name == "score" else run_rounding(of_clean)
        row |= {level: float(of_runs[0].mean()), f"{level}_clean": float(of_clean.mean())}
        row |= named(rise, beside_controls(rises.mean(axis=1), resampled, sign, tolerance))
    row["repeated"] = float(texts.repeated[0].mean())
    row["repeated_clean"] = float(clean.repeated.mean())
    return row


def _weights(
    categories: Shaped[np.ndarray, " prompts"], own: str | None
) -> dict[str, Float[np.ndarray, " prompts"]]:
    """The weight of each prompt in each number; NaN for a number that these prompts do not have."""
    means = {
        name: (members := is_category(categories, name)) / members.sum()
        for name in dict.fromkeys(categories.tolist())
    }
    unknown = np.full(len(categories), np.nan)
    others = [weights for name, weights in means.items() if name != own]
    of_own = means.get(own, unknown) if own is not None else unknown
    of_others = np.mean(others, axis=0) if others else unknown
    return {
        "own_effect": of_own,
        "other_effect": of_others,
        "selectivity": of_own - of_others,
    }
