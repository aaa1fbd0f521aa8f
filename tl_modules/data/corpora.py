"""The project's own prompts, written for it."""

import json
from importlib.resources import files

import pandas as pd

from tl_modules.errors import check_choice

CORPORA = ("abilities", "recall", "reasoning")
"""``abilities``: seven categories after ULCMOD's (arXiv 2603.17823); the others have answers."""


def load_prompts(name: str = "abilities") -> pd.DataFrame:
    """Prompts that ship with the package.

    Args:
        name: ``"abilities"``: coding, math, linguistic, knowledge, translation, ethical and
            writing prompts; ``"recall"`` and ``"reasoning"``: prompts to continue, with their
            short answers, that need one known fact or a few steps of inference.

    Returns:
        Columns ``id``, ``category``, ``prompt``, and ``answer`` where there is one.

    Raises:
        ModulesError: If there is no such corpus.

    >>> sorted(load_prompts("recall").columns)
    ['answer', 'category', 'id', 'prompt']
    """
    check_choice("name", name, CORPORA)
    text = files("tl_modules.data").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return pd.DataFrame([json.loads(line) for line in text.splitlines()])
