"""An activation matrix by way of a store: what an interrupted collection has done is not lost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tl_modules.activations.collection import collect
from tl_modules.activations.collector import Collector
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.reading import Reading
from tl_modules.models.hooked_model import HookedModel
from tl_modules.runtime.memory import Size, check_memory
from tl_modules.tables.columns import beside
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.units import SiteName


def collect_resumably(  # noqa: PLR0913 - the options of one run, all by keyword
    model: HookedModel,
    prompts: pd.DataFrame,
    folder: Path,
    reading: Reading,
    *,
    units: SiteName | str = "mlp",
    batch_size: int = 16,
    max_tokens: int | None = None,
    max_memory: Size | None = None,
    progress: bool = True,
) -> ActivationMatrix:
    """The matrix that ``collect`` returns, bit for bit; the same call resumes an interrupted one.

    Args:
        model: The model.
        prompts: As ``collect`` takes them.
        folder: Where a float32 store is kept until the caller deletes it (``delete_store``).
        reading: How values come about.
        units: The site.
        batch_size: Prompts in a forward pass.
        max_tokens: Cut prompts after so many tokens.
        max_memory: What collecting may take, as ``collect`` takes it.
        progress: Show a progress bar.

    Returns:
        The matrix, float32, in the order of the prompts.

    Raises:
        ModulesError: As ``collect`` raises.
        Interrupted: On Ctrl-C.
    """
    frame = prompt_frame(prompts)
    # Only the columns that the run reads: the store's own then keep their usual names.
    needed = frame[[name for name in ("prompt", "answer", "separator") if name in frame]]
    # Writing the store takes little memory; the matrix that is read from it has to fit as a whole.
    size = 4 * len(frame) * len(Collector(model, units, reading).units)
    check_memory("The matrix", size, max_memory, "Write a store instead: --store.")
    store = collect(
        model,
        needed,
        units=units,
        batch_size=batch_size,
        max_tokens=max_tokens,
        **reading.to_dict(),
        store=folder,
        dtype="float32",
        max_memory=max_memory,
        progress=progress,
    )
    acts = store.matrix(np.argsort(store.samples["row"].to_numpy()))
    # The prompts' own columns as they are, not as they come back from a file.
    return replace(acts, samples=beside(frame, {"n_tokens": acts.samples["n_tokens"]}, warn=True))
