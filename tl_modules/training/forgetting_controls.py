"""What unlearning in a module costs and brings, beside the same in random units."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.strata import Strata
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.training.loss_changes import prompt_losses, rises_table
from tl_modules.training.masks import units_of
from tl_modules.training.unlearning import unlearn
from tl_modules.units import Units


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
    batch_size: int = 8,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Unlearn in a module, and measure forgetting and retention beside matched controls.

    A control is a random set of units, in each layer as many as the module has there (some of the
    module's own may be among them), trained in the same way. After each training the model gets its
    old weights back.

    Args:
        model: The model.
        module: As ``unlearn`` takes it; without one there are no controls.
        forget: Prompts to unlearn.
        retain: Prompts to go on predicting.
        held_out: Two other sets to measure on, of the forget prompts' kind and of the retain
            prompts'; by default those trained on.
        n_controls: How many controls.
        n_steps: As ``unlearn`` takes it.
        learning_rate: As ``unlearn`` takes it.
        rectify: As ``unlearn`` takes it.
        smoothing: As ``unlearn`` takes it.
        saturation: As ``unlearn`` takes it.
        importance: As ``unlearn`` takes it.
        optimizer: As ``unlearn`` takes it.
        batch_size: As ``unlearn`` takes it.
        max_tokens: Cut prompts after so many tokens, in training and measuring.
        seed: Seeds controls, training and bootstrap.
        progress: Show a progress bar.

    Returns:
        Three rows, by ``set``: ``"forget"``, ``"retain"``, and ``"margin"``, the first minus the
        second. ``n`` prompts, ``n_units``, ``loss_before`` (nats per token, each prompt's mean),
        ``effect`` (its rise), ``ci_low`` and ``ci_high`` (95 %, bootstrap over prompts),
        ``control_mean``, ``control_std``, ``p_value``: whether controls do as well, that is
        forget as much, lose as little of what is retained, have such a margin; ``control_units``,
        their mean size.

    Raises:
        ModulesError: As ``unlearn`` raises.
    """
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    sides = (forget, retain) if held_out is None else held_out
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise ModulesError(
            f"held_out should be two sets of prompts, (forget, retain); got {type(sides).__name__}."
        )
    forgotten, retained = (prompt_frame(side)["prompt"].tolist() for side in sides)
    texts = [*forgotten, *retained]
    of_forget = np.arange(len(texts)) < len(forgotten)
    generator = np.random.default_rng(seed)
    trained: list[Units | None] = [None if module is None else units_of(module)]
    if trained[0] is not None:
        strata = Strata.by_layer(trained[0])
        trained += [strata.draw(trained[0], generator) for _ in range(n_controls)]
    before = prompt_losses(model, texts, max_tokens)
    rises = np.empty((len(trained), len(texts)))
    bar = tqdm(trained, desc="unlearn", unit="set of units", disable=not progress)
    for rise, units in zip(rises, bar, strict=True):
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
            batch_size=batch_size,
            max_tokens=max_tokens,
            seed=seed,
            progress=False,
        )
        try:
            rise[:] = prompt_losses(model, texts, max_tokens) - before
        finally:
            done.restore(model)
    sizes = [None if units is None else len(units) for units in trained]
    table = rises_table(before, rises, of_forget, seed)
    table.insert(2, "n_units", pd.array([sizes[0]] * 3, dtype="Int64"))
    others = np.array(sizes[1:], dtype=float)
    return table.assign(control_units=others.mean() if len(others) else np.nan)
