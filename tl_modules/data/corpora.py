"""Load the project's own prompts."""

import json
from importlib.resources import files
from typing import Literal, get_args

import pandas as pd

from tl_modules.runtime.arguments import checked

Corpus = Literal[
    "abilities",
    "choices",
    "contrasts",
    "contrasts-ood",
    "parallel",
    "premises",
    "recall",
    "reasoning",
]
"""``abilities`` has seven categories, after ULCMOD's (arXiv 2603.17823). ``choices`` and
``premises`` have questions with four choices. ``contrasts`` has pairs of prompts with the same
meaning; ``contrasts-ood`` has such pairs from other genres. ``parallel`` has sentences in ten
languages. The other corpora have answers."""

CORPORA: tuple[Corpus, ...] = get_args(Corpus)


@checked
def load_prompts(name: Corpus = "abilities") -> pd.DataFrame:
    """Load prompts that ship with the package, to try things without data of your own.

    Args:
        name: The corpus. ``"abilities"`` has coding, math, linguistic, knowledge, translation,
            ethical and writing prompts. ``"choices"`` has easy questions about facts, sums and
            inference, with four choices each. ``"contrasts"`` has the same contents in a formal and
            an informal version, and in English and French, in the same order. ``"contrasts-ood"``
            has such versions from other genres (contracts, chat, recipes, news), with half as many
            prompts. ``"parallel"`` has 40 everyday sentences and questions in ten languages; a
            language model translated them. ``"premises"`` has questions with four choices each, of
            which a premise is implicit or comes after the question; the column ``explicit`` has the
            same question with all its premises said first. ``"recall"`` and ``"reasoning"`` have
            prompts to continue, and their short answers; an answer needs one known fact (recall) or
            a few steps of inference (reasoning).

    Returns:
        Columns ``id``, ``category`` and ``prompt``; for a corpus with answers also ``answer`` and
        ``separator`` (the space between prompt and answer), and ``choices`` (lists) and
        ``explicit`` if it has any. ``"parallel"`` has the language as ``category``, and
        ``meaning``, the same in all languages.

    Raises:
        ModulesError: If there is no such corpus.

    >>> sorted(load_prompts("recall").columns)
    ['answer', 'category', 'id', 'prompt', 'separator']
    """
    # importlib.resources also works if the package is imported from a zip file.
    text = files("tl_modules.data").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])
