"""The tasks: modular arithmetic, one rule per tag, over the same symbols.

A prompt is a tag and pairs of symbols: ``rule2 x4 y9 x11 y0 ...``. Each y follows from the x before
it, y = multiplier x + offset (mod 13), with the multiplier and offset of the tag's rule. Every x is
drawn uniformly, so every symbol is equally frequent under every rule, and only the tag tells the
rules apart.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MODULUS, N_PAIRS, MAX_TASKS = 13, 8, 6
WORDS = (
    "<bos>",
    "<unk>",
    *(f"rule{task}" for task in range(MAX_TASKS)),
    *(f"x{symbol}" for symbol in range(MODULUS)),
    *(f"y{symbol}" for symbol in range(MODULUS)),
)
FIRST_TAG = 2
FIRST_X = FIRST_TAG + MAX_TASKS
FIRST_Y = FIRST_X + MODULUS

Rules = tuple[tuple[int, int], ...]
"""Each task's multiplier and offset."""


def draw_rules(n_tasks: int, generator: np.random.Generator) -> Rules:
    """Rules with different multipliers: two of them agree on one symbol of the thirteen."""
    multipliers = 1 + generator.permutation(MODULUS - 1)[:n_tasks]
    offsets = generator.integers(MODULUS, size=n_tasks)
    return tuple((int(a), int(b)) for a, b in zip(multipliers, offsets, strict=True))


def draw_tokens(
    rules: Rules, tasks: Int[np.ndarray, " prompts"], generator: np.random.Generator
) -> Int[torch.Tensor, "prompts pos"]:
    """A prompt's token numbers for each entry of ``tasks``, with BOS."""
    multipliers, offsets = np.array(rules)[tasks].T[..., None]
    x = generator.integers(MODULUS, size=(len(tasks), N_PAIRS))
    y = (multipliers * x + offsets) % MODULUS
    pairs = np.stack([x + FIRST_X, y + FIRST_Y], axis=-1).reshape(len(tasks), -1)
    start = np.stack([np.zeros_like(tasks), tasks + FIRST_TAG], axis=-1)
    return torch.from_numpy(np.concatenate([start, pairs], axis=1))


def draw_prompts(rules: Rules, counts: Sequence[int], seed: int) -> pd.DataFrame:
    """So many prompts of each task, as a frame with ``prompt`` and ``category``."""
    tasks = np.repeat(np.arange(len(counts)), counts)
    tokens = draw_tokens(rules, tasks, np.random.default_rng([7, seed]))
    texts = [" ".join(WORDS[token] for token in row) for row in tokens[:, 1:].tolist()]
    return pd.DataFrame({"prompt": texts, "category": [f"rule{task}" for task in tasks]})


def tokenizer(words: Sequence[str], name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, made in memory. BOS is the first word."""
    numbers = {word: number for number, word in enumerate(words)}
    whole = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), words[0])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        unk_token="<unk>",
        name_or_path=name,
        add_bos_token=True,
        **special,
    )
