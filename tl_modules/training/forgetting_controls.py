"""Measure what unlearning in a module forgets and retains, beside unlearning in random units."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.strata import Strata
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.training.loss_changes import increases_table, prompt_losses
from tl_modules.training.masks import units_of
from tl_modules.training.unlearning import unlearn
from tl_modules.units import Units

_READ = ["prompt", "answer", "separator"]
"""The columns of prompts that are read; the last two if the loss is not of prompts alone."""


@checked
@measures
def forgetting(  # noqa: PLR0913 - the options of one training, all by keyword
    model: HookedModel,
    module: Module | Units | None,
    forget: Prompts,
    retain: Prompts,
    *,
    held_out: Annotated[tuple[Prompts, Prompts] | None, Elsewhere("two sets of prompts")] = None,
    n_controls: int = 9,
    n_steps: int = 20,
    learning_rate: float = 1e-4,
    rectify: bool = True,
    smoothing: float = 0.5,
    saturation: float = 1.0,
    importance: float = 1.0,
    optimizer: Annotated[
        Callable[..., torch.optim.Optimizer], Elsewhere("an optimizer class")
    ] = torch.optim.Adam,
    loss_on: LossOn = "prompt",
    positions: Touched = "all",
    batch_size: int = 8,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Unlearn in a module, and measure forgetting and retention beside matched controls.

    The controls show whether the module matters: each is a random set of as many units per layer,
    trained in the same way. A control may contain units of the module. The model gets its old
    weights back after each training.

    Args:
        model: The model.
        module: The module or units to train, as in ``unlearn``; with None, there are no controls.
        forget: Prompts to unlearn.
        retain: Prompts that the model should still predict.
        held_out: Two other sets to measure on, one like ``forget`` and one like ``retain``. By
            default the training prompts are measured.
        n_controls: The number of controls.
        n_steps: As in ``unlearn``.
        learning_rate: As in ``unlearn``.
        rectify: As in ``unlearn``.
        smoothing: As in ``unlearn``.
        saturation: As in ``unlearn``.
        importance: As in ``unlearn``.
        optimizer: As in ``unlearn``.
        loss_on: As in ``unlearn``, in training and measuring.
        positions: As in ``unlearn``.
        batch_size: As in ``unlearn``.
        max_tokens: Cut prompts after this many tokens, in training and measuring.
        seed: Seeds controls, training and bootstrap.
        progress: Show a progress bar.

    Returns:
        Three rows, by ``set``: ``"forget"``, ``"retain"`` and ``"margin"`` (forget minus retain).
        The columns are ``n`` (prompts), ``n_units``, ``loss_before`` (nats per token, mean over
        prompts), ``effect`` (the increase of the loss), ``ci_low`` and ``ci_high`` (95 %, bootstrap
        over prompts), ``control_mean``, ``control_std``, ``p_value`` (how often a control forgets
        or retains as much, or has as large a margin; 1 if no training changes the losses) and
        ``control_units`` (the controls' mean size); and ``loss_on``, unless it is ``"prompt"``.

    Raises:
        ModulesError: As ``unlearn`` raises.
    """
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    measured = (forget, retain) if held_out is None else held_out
    if not isinstance(measured, tuple | list) or len(measured) != 2:
        raise ModulesError(
            f"held_out should be two sets of prompts, (forget, retain); got "
            f"{type(measured).__name__}."
        )
    frames = [prompt_frame(prompts).filter(items=_READ) for prompts in measured]
    texts = pd.concat(frames, ignore_index=True)
    of_forget = np.arange(len(texts)) < len(frames[0])
    generator = np.random.default_rng(seed)
    trained: list[Units | None] = [None if module is None else units_of(module)]
    if trained[0] is not None:
        strata = Strata.by_layer(trained[0])
        trained += [strata.draw(trained[0], generator) for _ in range(n_controls)]
    # One measurement serves the module and all controls: each starts from the same weights.
    before = prompt_losses(model, texts, max_tokens, loss_on)
    increases = np.empty((len(trained), len(texts)))
    bar = tqdm(trained, desc="unlearn", unit="set of units", disable=not progress)
    for increase, units in zip(increases, bar, strict=True):
        done = unlearn(
            model,
            units,
            forget,
            retain,
            n_steps=n_steps,
            learning_rate=learning_rate,
            rectify=rectify,
            smoothing=smoothing,
            saturation=saturation,
            importance=importance,
            optimizer=optimizer,
            loss_on=loss_on,
            positions=positions,
            batch_size=batch_size,
            max_tokens=max_tokens,
            seed=seed,
            progress=False,
        )
        try:
            increase[:] = prompt_losses(model, texts, max_tokens, loss_on) - before
        finally:
            done.restore(model)
    sizes = [None if units is None else len(units) for units in trained]
    table = increases_table(before, increases, of_forget, seed)
    table.insert(2, "n_units", pd.array([sizes[0]] * 3, dtype="Int64"))
    others = np.array(sizes[1:], dtype=float)
    table = table.assign(control_units=others.mean() if len(others) else np.nan)
    return table if loss_on == "prompt" else table.assign(loss_on=loss_on)
