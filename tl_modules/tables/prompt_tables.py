"""Turning prompts as users give them (lists, frames, columns, datasets) into a frame."""

from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from os import PathLike
from typing import Annotated, Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, shown
from tl_modules.runtime.arguments import Elsewhere
from tl_modules.saving.checked_json import PARSE_ERRORS
from tl_modules.tables.frames import frame_from_json, plain_frame
from tl_modules.tables.text import check_whole


@runtime_checkable
class HasToPandas(Protocol):
    """A table of another library: one split of ``datasets``, a polars frame, an Arrow table."""

    def to_pandas(self) -> Any:
        """The table as a pandas frame."""
        ...


Prompts = Annotated[
    Iterable[str] | pd.DataFrame | Mapping[str, Any] | HasToPandas, Elsewhere("prompts")
]
"""The prompts that every function takes; ``prompt_table`` checks them."""


RENAME = "Rename the column that holds the text."
"""The remedy if no column is called ``prompt``."""


def prompt_table(
    source: object, name: str = "prompts", column: str = "prompt", remedy: str = RENAME
) -> pd.DataFrame:
    """Turn a user's prompts into a frame that holds them in one column.

    Args:
        source: A list, tuple, Series or array of strings; a pandas frame; a mapping of columns,
            such as ``dataset[:100]``; or a table with ``to_pandas``, such as one split of a Hugging
            Face dataset. An iterator is refused, because it can be read only once.
        name: The argument's name in messages.
        column: The column that holds the prompts.
        remedy: The message's remedy if there is no such column.

    Returns:
        A frame numbered from 0. It may share its columns with ``source``.

    Raises:
        ModulesError: If ``source`` is none of these, or lacks the column.
    """
    table = _table(source, name)
    if table is None:
        return pd.DataFrame({column: _texts(source, name)})
    check_column(list(table.columns), name, column, remedy)
    return table


def sample_table(samples: object, column: str, n_samples: int, first: int = 0) -> pd.DataFrame:
    """Turn a user's description of samples into a frame that can be saved (see ``plain_frame``).

    Args:
        samples: A table as ``prompt_table`` takes it; a list, which becomes one column; or None, to
            number the samples.
        column: The name of a list's column.
        n_samples: Number of samples.
        first: The first sample's number.

    Returns:
        A frame numbered from 0.

    Raises:
        ModulesError: If ``samples`` is none of these, does not have ``n_samples`` rows, or cannot
            be saved.
    """
    if samples is None:
        return pd.DataFrame({"sample": np.arange(first, first + n_samples)})
    table = _table(samples, "samples")
    if table is None:
        if not _is_list(samples):
            raise ModulesError(
                "samples should be a pandas frame or a list, one entry per sample; got "
                f"{shown(samples)}. Leave samples out to number them."
            )
        table = frame_from_json({column: list(samples)})
    if len(table) != n_samples:
        raise ModulesError(
            f"samples should have one row per sample, {n_samples}; it has {len(table)}. Pass the "
            "rows of these samples only."
        )
    return plain_frame(table)


def _table(source: object, name: str) -> pd.DataFrame | None:
    """A frame, columns or another library's table as a frame; None for anything else."""
    if isinstance(source, HasToPandas) and isinstance(source, Sized):  # a stream has no length
        source = _from_other(source, name)
    if isinstance(source, pd.DataFrame):
        return source.reset_index(drop=True)
    return _of_columns(source, name) if isinstance(source, Mapping) else None


def check_column(names: list[Any], name: str, column: str, remedy: str) -> None:
    """Check that a table has a column, and that no two columns have the same name.

    Args:
        names: The columns' names.
        name: The table's name in messages.
        column: The column that the table should have.
        remedy: The message's remedy if the column is missing.

    Raises:
        ModulesError: If the column is missing, or two columns have the same name.
    """
    if column not in names:
        raise ModulesError(f"{name} should have a column {column!r}; got {names}. {remedy}")
    if len(set(names)) < len(names):
        raise ModulesError(
            f"{name} should have columns of different names; got {names}. Rename one."
        )


def _from_other(source: HasToPandas, name: str) -> object:
    """Convert another library's table with its own method."""
    try:
        return source.to_pandas()
    except (ImportError, *PARSE_ERRORS) as error:
        raise ModulesError(
            f"{name} should convert to a pandas frame; {type(source).__name__}.to_pandas() fails: "
            f"{error!r:.200}. Convert {name} to a pandas frame first."
        ) from error


def _of_columns(source: Mapping[Any, Any], name: str) -> pd.DataFrame:
    """Turn a mapping of columns into a frame; refuse other mappings."""
    keys = list(source)
    if any(isinstance(held, HasToPandas | pd.DataFrame) for held in source.values()):
        raise ModulesError(
            f"{name} should be one split of a dataset; got a mapping of {keys}. Pass one of "
            f"them, such as {name}[{keys[0]!r}]."
        )
    for key, held in source.items():
        if not _is_list(held):
            raise ModulesError(
                f"Each column of {name} should be a list, one entry per prompt; {key!r} is "
                f"{shown(held)}. Put the values of a single row into lists."
            )
    columns = {
        str(key): held.tolist() if hasattr(held, "tolist") else list(held)
        for key, held in source.items()
    }
    lengths = {key: len(held) for key, held in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ModulesError(
            f"The columns of {name} should be of one length; got {lengths}. Fill the gaps with "
            "None."
        )
    return frame_from_json(columns)


_TAKEN = "a list of strings, a pandas frame, a mapping of columns or one split of a dataset"


def _texts(source: object, name: str) -> list[str]:
    """Check a list of strings, and refuse anything else with a remedy for its type."""
    remedy = f"Put the texts in a list: list({name})."
    if isinstance(source, str | PathLike):
        remedy = (
            "Put one prompt in a list; read a file with tl_modules.data.read_prompts(path) first."
        )
    elif isinstance(source, Set):
        remedy = f"A set has no order: pass sorted({name})."
    elif isinstance(source, HasToPandas):
        remedy = "Pass a part of the stream: pd.DataFrame(list(dataset.take(1000)))."
    elif _is_list(source):
        texts = list(source)
        check_texts(texts, name)
        return [str(text) for text in texts]  # from NumPy's strings to Python's
    elif not isinstance(source, Iterator):
        remedy = "Pass the prompts' texts in a list."
    raise ModulesError(f"{name} should be {_TAKEN}; got {_named(source)}. {remedy}")


def _is_list(source: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value holds entries in an order, and is not a text or an array without axes."""
    if isinstance(source, str | bytes | bytearray | memoryview | Mapping | Set):
        return False
    is_array = getattr(source, "ndim", 1) != 0
    return isinstance(source, Sized) and isinstance(source, Iterable) and is_array


def _named(source: object) -> str:
    if isinstance(source, str):
        return f"one string, {shown(source)}"
    return (
        "a generator, which can be read only once"
        if isinstance(source, Iterator)
        else (f"the type {source.__name__}" if isinstance(source, type) else shown(source))
    )


def check_texts(texts: list[Any], name: str = "prompts") -> None:
    """Refuse texts that a tokenizer cannot read.

    Raises:
        ModulesError: If there is no text, or a text is not a string or holds an unpaired surrogate.
    """
    if not texts:
        raise ModulesError(f"{name} should hold at least one prompt; got none.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            rows = " Make rows into a frame: pd.DataFrame(rows)." if isinstance(text, dict) else ""
            raise ModulesError(
                f"Every prompt should be a string; prompt {row} is {shown(text)}. Drop or convert "
                f"it.{rows}"
            )
    check_whole(texts, "prompt")
