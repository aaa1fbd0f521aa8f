"""How much worse prompts are predicted after a training than before it, beside controls."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_modules.causal.metrics import make_task
from tl_modules.causal.prompt_runs import no_intervention, run_task
from tl_modules.models.hooked_model import HookedModel
from tl_modules.tables.against_controls import beside_controls, run_rounding
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.prompt_frames import prompt_frame

BATCH_SIZE = 16


def prompt_losses(
    model: HookedModel, texts: list[str], max_tokens: int | None = None
) -> Float[np.ndarray, " prompts"]:
    """Each prompt's mean next-token loss, in nats per token.

    Raises:
        ModulesError: If a prompt has fewer than two tokens, or its loss is no number.
    """
    task = make_task(model, prompt_frame(texts), "loss", BATCH_SIZE, max_tokens)
    return run_task(model, task, [no_intervention], BATCH_SIZE)[0]


def rises_table(
    before: Float[np.ndarray, " prompts"],
    rises: Float[np.ndarray, "runs prompts"],
    of_forget: Bool[np.ndarray, " prompts"],
    seed: int,
) -> pd.DataFrame:
    """What ``forgetting`` returns, of the losses before and their rises.

    Args:
        before: Nats per token.
        rises: The module's run, then the controls'.
        of_forget: Which prompts are to be forgotten; the others are to be retained.
        seed: Seeds the bootstrap.
    """
    draws = bootstrap_indices(of_forget.astype(int), N_RESAMPLES, seed)
    means, resampled = [], []
    for side in (of_forget, ~of_forget):
        means.append(rises[:, side].mean(axis=1))
        again = rises[0][draws[:, side]].mean(axis=1)
        # One prompt resampled is itself: no interval.
        resampled.append(again if side.sum() > 1 else np.full(N_RESAMPLES, np.nan))
    means.append(means[0] - means[1])
    resampled.append(resampled[0] - resampled[1])
    # Low is good for what is to be retained alone.
    rounding = run_rounding(before)
    numbers = [
        beside_controls(*each, tolerance=rounding)
        for each in zip(means, resampled, (1.0, -1.0, 1.0), strict=True)
    ]
    losses = [before[of_forget].mean(), before[~of_forget].mean()]
    known = pd.DataFrame(
        {
            "set": ["forget", "retain", "margin"],
            "n": [of_forget.sum(), (~of_forget).sum(), len(of_forget)],
            "loss_before": [*losses, losses[0] - losses[1]],
        }
    )
    return pd.concat([known, pd.DataFrame(numbers)], axis=1)
