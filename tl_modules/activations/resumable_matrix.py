"""Collecting a matrix through a store, so that an interrupted collection can be resumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tl_modules.activations.collection import collect
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.readable_units import readable_units
from tl_modules.activations.reading import Reading
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.sites import SiteName
from tl_modules.runtime.memory import Size, check_memory
from tl_modules.tables.columns import beside
from tl_modules.tables.prompt_frames import prompt_frame


def collect_resumably(  # noqa: PLR0913 - the options of one run, all by keyword
    model: HookedModel,
    prompts: pd.DataFrame,
    folder: Path,
    reading: Reading,
    *,
    units: SiteName | str = "mlp",
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    max_memory: Size | None = None,
    progress: bool = True,
) -> ActivationMatrix:
    """Collect the matrix that ``collect`` returns, bit for bit, in a call that can be resumed.

    Args:
        model: The model.
        prompts: The prompts; see ``collect``.
        folder: Where a float32 store is kept until the caller deletes it (``delete_store``).
        reading: How values come about.
        units: The site.
        batch_size: Prompts per forward pass; see ``collect``.
        max_tokens: Truncate prompts to this many tokens.
        chunk_tokens: How many of a prompt's tokens run at once; see ``collect``.
        max_memory: The memory limit; see ``collect``.
        progress: Show a progress bar.

    Returns:
        The matrix, float32, in the order of the prompts.

    Raises:
        ModulesError: As in ``collect``.
        Interrupted: On Ctrl-C.
    """
    frame = prompt_frame(prompts)
    # With the user's other columns left out, the store's ``row`` and ``n_tokens`` need no ``tlm_``.
    needed = frame[[name for name in ("prompt", "answer", "separator") if name in frame]]
    # Writing the store takes little memory, but the matrix read from it must fit as a whole.
    size = 4 * len(frame) * len(readable_units(model, units, reading))
    check_memory("The matrix", size, max_memory, "Write a store instead: --store.")
    store = collect(
        model,
        needed,
        units=units,
        batch_size=batch_size,
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
        **reading.to_dict(),
        store=folder,
        dtype="float32",
        max_memory=max_memory,
        progress=progress,
    )
    acts = store.matrix(np.argsort(store.samples["row"].to_numpy()))
    # The user's columns as given: a file would have turned dates into text.
    return replace(acts, samples=beside(frame, {"n_tokens": acts.samples["n_tokens"]}, warn=True))
