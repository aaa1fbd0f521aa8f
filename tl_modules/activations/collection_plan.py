"""What one collection into a store collects, so that only the same collection resumes it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_modules.activations._half import StoreDtype
from tl_modules.activations.batch_runner import BatchRunner
from tl_modules.activations.chunk_values import chunk_lengths, chunk_rows
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.models.fingerprint import fingerprint
from tl_modules.models.hooked_model import model_name
from tl_modules.tables.columns import beside
from tl_modules.tables.frames import frame_to_json
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run collects. A run resumes another one only if their plans are equal."""

    units: Units
    """The columns."""

    samples: pd.DataFrame
    """The rows, in the order in which the prompts run."""

    sizes: Sequence[int]
    """Number of samples in each chunk."""

    dtype: StoreDtype
    """The store's number format."""

    reading: Reading
    """How values come about."""

    model_name: str
    """The model's name."""

    settings: Mapping[str, str]
    """Further settings that a resumed run must match, by their names in error messages."""

    def described(self) -> dict[str, str]:
        """Every setting that a resumed run must match, by its name in error messages.

        Long settings are given as checksums.
        """
        return {
            "model name": self.model_name,
            "units": checksum(json.dumps(self.units.to_dict())),
            "prompts": checksum(json.dumps(frame_to_json(self.samples))),
            "chunk sizes": checksum(json.dumps(list(self.sizes))),
            "dtype": self.dtype,
            "reading": str(self.reading),
            **self.settings,
        }


def plan_collection(
    runner: BatchRunner,
    frame: pd.DataFrame,
    chunks: Sequence[Sequence[Batch]],
    dtype: StoreDtype,
    batch_size: int,
) -> Plan:
    """Plan a store, and check its settings before its folder is made.

    Args:
        runner: What runs the batches.
        frame: The prompts.
        chunks: The batches.
        dtype: The store's number format.
        batch_size: Prompts per forward pass.

    Raises:
        ModulesError: If ``dtype`` is not valid, effects would not be float32, or the samples
            cannot be saved.
    """
    model, reading = runner.model, runner.reading
    if reading.needs_gradients and dtype != "float32":
        raise ModulesError(
            f"A store of weight={reading.weight!r} should be float32, for many values are below "
            f"1e-7; got {dtype!r}. "
            "Pass dtype='float32'."
        )
    frame_to_json(frame)  # raises for samples that cannot be saved
    # Samples stand in the order in which they run, so that chunks can be written as they come.
    rows = np.concatenate([chunk_rows(chunk) for chunk in chunks])
    n_tokens = np.concatenate([chunk_lengths(chunk) for chunk in chunks])
    ordered = frame.iloc[rows].reset_index(drop=True)
    batches = [batch for chunk in chunks for batch in chunk]
    # Prompts of one stretch give the same bits with and without stretches.
    is_long = any(runner.at_once(batch) < batch.shape[1] for batch in batches)
    # The tokens tell apart tokenizers and values of max_tokens.
    tokens = [part.numpy().tobytes() for b in batches for part in (b.tokens, b.mask, b.counted)]
    return Plan(
        units=runner.units,
        samples=beside(ordered, {"row": rows, "n_tokens": n_tokens}, warn=True),
        sizes=[sum(len(batch.rows) for batch in chunk) for chunk in chunks],
        dtype=dtype,
        reading=reading,
        model_name=model_name(model),
        settings={
            "the model's weights": fingerprint(model),
            "tokens": checksum(*tokens),
            "batch_size": str(batch_size),
            "chunk_tokens": str(runner.chunk_tokens if is_long else None),
        },
    )


def checksum(*parts: str | bytes) -> str:
    """SHA-256 over some texts or bytes.

    Each part is preceded by its length, so that ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
