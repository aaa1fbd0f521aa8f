"""The project's own prompts, written for it."""

import json
from importlib.resources import files
from typing import Literal, get_args

import pandas as pd

from tl_modules.errors import check_choice
from tl_modules.runtime.arguments import checked

Corpus = Literal["abilities", "choices", "contrasts", "contrasts-ood", "recall", "reasoning"]
"""``abilities``: seven categories after ULCMOD's (arXiv 2603.17823). ``choices``: questions with
four answers to choose from. ``contrasts``: pairs that say the same, ``contrasts-ood`` in other
genres. The others have answers."""

CORPORA: tuple[Corpus, ...] = get_args(Corpus)


@checked
def load_prompts(name: Corpus = "abilities") -> pd.DataFrame:
    """Prompts that ship with the package.

    Args:
        name: ``"abilities"``: coding, math, linguistic, knowledge, translation, ethical and
            writing prompts; ``"choices"``: easy questions about facts, sums and inference, with
            four choices each; ``"contrasts"``: the same said formally and informally, and in
            English and French, each in the same order; ``"contrasts-ood"``: the same four, half as
            many, in other genres (contracts, chat, recipes, news); ``"recall"`` and
            ``"reasoning"``: prompts to continue, with their short answers, that need one known fact
            or a few steps of inference.

    Returns:
        Columns ``id``, ``category``, ``prompt``; where there are answers ``answer`` and
        ``separator`` (the space between the two); and ``choices`` (lists) where there are any.

    Raises:
        ModulesError: If there is no such corpus.

    >>> sorted(load_prompts("recall").columns)
    ['answer', 'category', 'id', 'prompt', 'separator']
    """
    check_choice("name", name, CORPORA)
    text = files("tl_modules.data").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])
