"""Compare the losses of prompts before and after a training, beside controls."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_modules.causal.metrics import make_task
from tl_modules.causal.prompt_runs import no_intervention, run_task
from tl_modules.causal.row_limits import RowLimit
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.tables.against_controls import beside_controls, run_rounding
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts

BATCH_SIZE = 16


def prompt_losses(
    model: HookedModel,
    prompts: Prompts,
    max_tokens: int | None = None,
    loss_on: LossOn = "prompt",
) -> Float[np.ndarray, " prompts"]:
    """Compute each prompt's mean next-token loss, in nats per token.

    Args:
        model: The model.
        prompts: Strings, or a frame with ``prompt`` and what ``loss_on`` reads.
        max_tokens: Cut prompts after this many tokens.
        loss_on: The tokens over which the loss is averaged.

    Raises:
        ModulesError: If a prompt has fewer than two tokens, its answer is missing where it is read,
            or its loss is not finite.
    """
    given = (model, prompt_frame(prompts), "loss", BATCH_SIZE, max_tokens)
    task = make_task(*given, loss_on=loss_on)
    return run_task(model, task, [no_intervention], RowLimit(BATCH_SIZE))[0]


def increases_table(
    before: Float[np.ndarray, " prompts"],
    increases: Float[np.ndarray, "runs prompts"],
    of_forget: Bool[np.ndarray, " prompts"],
    seed: int,
) -> pd.DataFrame:
    """Make the table that ``forgetting`` returns.

    Args:
        before: The losses before training, in nats per token.
        increases: The increases of the losses: the module's run, then the controls' runs.
        of_forget: Whether a prompt is to be forgotten; the others are to be retained.
        seed: Seeds the bootstrap.
    """
    draws = bootstrap_indices(of_forget.astype(int), N_RESAMPLES, seed)
    means, resampled = [], []
    for in_set in (of_forget, ~of_forget):
        means.append(increases[:, in_set].mean(axis=1))
        bootstrap = increases[0][draws[:, in_set]].mean(axis=1)
        # Resampling a single prompt always gives that prompt: there is no interval.
        resampled.append(bootstrap if in_set.sum() > 1 else np.full(N_RESAMPLES, np.nan))
    means.append(means[0] - means[1])
    resampled.append(resampled[0] - resampled[1])
    rounding = run_rounding(before)
    # A large increase is good on the forget set and for the margin, a small one on the retain set.
    numbers = [
        beside_controls(of_runs, of_draws, direction, tolerance=rounding)
        for of_runs, of_draws, direction in zip(means, resampled, (1.0, -1.0, 1.0), strict=True)
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
