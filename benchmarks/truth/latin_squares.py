"""Another layout of files of known truth: rules of two symbols, kept as tables in the file.

A prompt is a tag and triples ``a b c`` with c = table[a, b]. The tensor ``truth.tables`` holds each
task's table, ``truth.owner`` each neuron's task. Such files are not part of the project.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.truth.files import Truth, hooked, llama

OWNER, TABLES = "truth.owner", "truth.tables"
N_TRIPLES = 7


def truth_of(path: Path, header: dict[str, str], tensors: dict[str, torch.Tensor]) -> Truth:
    """The model of a file with tables."""
    owners = tensors.pop(OWNER).numpy().astype(np.int64).reshape(-1)
    tables = tensors.pop(TABLES).numpy().astype(np.int64)
    n_tasks, n_symbols = tables.shape[:2]
    symbols = [f"s{number}" for number in range(n_symbols)]
    words = ["<bos>", *symbols, *(f"T{task}" for task in range(n_tasks)), "<unk>"]

    def draw(counts: Sequence[int], seed: int) -> pd.DataFrame:
        tasks = np.repeat(np.arange(len(counts)), counts)
        generator = np.random.default_rng([17, seed])
        first, second = generator.integers(n_symbols, size=(2, len(tasks), N_TRIPLES))
        triples = np.stack([first, second, tables[tasks[:, None], first, second]], axis=-1)
        rows = zip(tasks, triples.reshape(len(tasks), -1), strict=True)
        texts = [" ".join([f"T{task}", *(symbols[each] for each in row)]) for task, row in rows]
        return pd.DataFrame({"prompt": texts, "category": [f"T{task}" for task in tasks]})

    network = llama(json.loads(header["config"]), tensors)
    model = hooked(network, words, path.stem)
    return Truth(path.stem, path.stem.split("-")[0], model, owners, n_tasks, draw)
