"""One reading of what users give as prompts: lists, frames, columns and datasets become a frame."""

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
"""What every function takes as prompts; ``prompt_table`` checks it."""


RENAME = "Rename the column that holds the text."
"""What to do where no column is called ``prompt``."""


def prompt_table(
    source: object, name: str = "prompts", column: str = "prompt", remedy: str = RENAME
) -> pd.DataFrame:
    """What a user gives as prompts, as a frame that holds them in one column.

    Args:
        source: A list, tuple, Series or array of strings; a pandas frame; a mapping of columns,
            such as ``dataset[:100]``; or a table with ``to_pandas``, such as one split of a Hugging
            Face dataset. Iterators are refused: they can be read only once.
        name: What messages call it.
        column: The column that holds the prompts.
        remedy: What to do where there is no such column.

    Returns:
        A frame numbered from 0, of new columns or of the frame's own.

    Raises:
        ModulesError: If it is none of these, or lacks the column.
    """
    table = _table(source, name)
    if table is None:
        return pd.DataFrame({column: _texts(source, name)})
    check_column(list(table.columns), name, column, remedy)
    return table


def sample_table(samples: object, column: str, n_samples: int, first: int = 0) -> pd.DataFrame:
    """What a user says of samples, as a frame that can be saved (see ``plain_frame``).

    Args:
        samples: A table as ``prompt_table`` takes it; or a list, which becomes one column; or None:
            numbers.
        column: The name of that column.
        n_samples: How many samples there are.
        first: The first number.

    Returns:
        A frame numbered from 0.

    Raises:
        ModulesError: If it is none of these, has another number of rows, or cannot be saved.
    """
    if samples is None:
        return pd.DataFrame({"sample": np.arange(first, first + n_samples)})
    table = _table(samples, "samples")
    if table is None:
        if not _is_list(samples):
            raise ModulesError(
                f"samples should be a pandas frame or a list, one entry a sample; got "
                f"{shown(samples)}. Leave it out to number the samples."
            )
        table = frame_from_json({column: list(samples)})
    if len(table) != n_samples:
        raise ModulesError(
            f"samples should have one row a sample, {n_samples}; it has {len(table)}. Pass the "
            "rows of these samples only."
        )
    return plain_frame(table)


def _table(source: object, name: str) -> pd.DataFrame | None:
    """A frame, columns or another library's table as a frame; None of anything else."""
    if isinstance(source, HasToPandas) and isinstance(source, Sized):  # a stream has no length
        source = _from_other(source, name)
    if isinstance(source, pd.DataFrame):
        return source.reset_index(drop=True)
    return _of_columns(source, name) if isinstance(source, Mapping) else None


def check_column(found: list[Any], name: str, column: str, remedy: str) -> None:
    """Refuse columns that lack one, or have two of one name.

    Args:
        found: The columns' names.
        name: What messages call the table.
        column: The column that it should have.
        remedy: What to do where it has none.

    Raises:
        ModulesError: If it is lacking, or a name is there twice.
    """
    if column not in found:
        raise ModulesError(f"{name} should have a column {column!r}; got {found}. {remedy}")
    if len(set(found)) < len(found):
        raise ModulesError(
            f"{name} should have columns of different names; got {found}. Rename one."
        )


def _from_other(source: HasToPandas, name: str) -> object:
    """What another library makes of its own table."""
    try:
        return source.to_pandas()
    except (ImportError, *PARSE_ERRORS) as error:
        raise ModulesError(
            f"{name} should turn into a pandas frame; {type(source).__name__}.to_pandas() fails: "
            f"{error!r:.200}. Convert it to a pandas frame first."
        ) from error


def _of_columns(source: Mapping[Any, Any], name: str) -> pd.DataFrame:
    """A mapping of columns as a frame; other mappings are refused."""
    keys = list(source)
    if any(isinstance(held, HasToPandas | pd.DataFrame) for held in source.values()):
        raise ModulesError(
            f"{name} should be one split of a dataset; got a mapping of {keys}. Pass one of "
            f"them, such as {name}[{keys[0]!r}]."
        )
    for key, held in source.items():
        if not _is_list(held):
            raise ModulesError(
                f"Each column of {name} should be a list, one entry a prompt; {key!r} is "
                f"{shown(held)}. Put the values of a single row into lists."
            )
    columns = {
        str(key): held.tolist() if hasattr(held, "tolist") else list(held)
        for key, held in source.items()
    }
    lengths = {key: len(held) for key, held in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ModulesError(
            f"The columns of {name} should be of one length; they have {lengths}. Fill the gaps "
            "with None."
        )
    return frame_from_json(columns)


_TAKEN = "a list of strings, a pandas frame, a mapping of columns or one split of a dataset"


def _texts(source: object, name: str) -> list[str]:
    """The strings of a list of strings."""
    remedy = f"Put the texts in a list: list({name})."
    if isinstance(source, str | PathLike):
        remedy = (
            "Put one prompt in a list; read a file with tl_modules.data.read_prompts(path) first."
        )
    elif isinstance(source, Set):
        remedy = f"A set has no order: pass sorted({name})."
    elif isinstance(source, HasToPandas):
        remedy = "Of a stream, pass a part: pd.DataFrame(list(dataset.take(1000)))."
    elif _is_list(source):
        texts = list(source)
        check_texts(texts, name)
        return [str(text) for text in texts]  # NumPy has strings of its own
    elif not isinstance(source, Iterator):
        remedy = "Pass the prompts' texts in a list."
    raise ModulesError(f"{name} should be {_TAKEN}; got {_named(source)}. {remedy}")


def _is_list(source: object) -> TypeGuard[Iterable[Any]]:
    """Whether it holds entries in an order, and is no text and no array without axes."""
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
    """Refuse what no tokenizer reads.

    Raises:
        ModulesError: If there is no text, or one is no string or holds half of a character.
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
