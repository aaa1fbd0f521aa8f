"""Well-made files of every kind, to be mutated."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

import tl_modules as tlm
from tl_modules.activations.collection_plan import Plan
from tl_modules.activations.resumable import UnfinishedStore
from tl_modules.activations.token_sums import TokenSums
from tl_modules.modules import ScoredLabel, ScoredLabels
from tl_modules.modules.topic import Context, Topic, Word, WrittenToken

N_SAMPLES, N_COORDINATES = 8, 14
UNITS = tlm.Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (6, 4), (1, 2), "attn_heads")
VALUES = np.random.default_rng(0).gamma(1.0, size=(N_SAMPLES, len(UNITS))).astype(np.float32)
MEANS = np.linspace(-1, 1, N_COORDINATES, dtype=np.float32)

SAMPLES = pd.DataFrame(
    {
        "prompt": [f"prompt <b>{row}</b> $x$ \u00fc \u2028" for row in range(N_SAMPLES)],
        "category": ["a", "b", None, "a", "1", "b", "<i>", ""],
        "n_tokens": range(N_SAMPLES),
        "score": np.linspace(0, 1, N_SAMPLES),
        "turns": [[{"from": "human", "value": str(row)}, None] for row in range(N_SAMPLES)],
        "sometimes": [None, 1.5, float("nan"), float("inf"), -1, True, "text", 2**70],
        "": [[]] * N_SAMPLES,
    }
)


def matrix(normalisation=None) -> tlm.ActivationMatrix:
    acts = tlm.ActivationMatrix.from_arrays(VALUES, UNITS, SAMPLES, MEANS)
    return acts if normalisation is None else acts.normalise(normalisation)


def topic(number) -> Topic:
    return Topic(
        label=f"topic {number}",
        categories={"a": 0.75, "b": 0.25},
        words=(Word("word", 2.0), Word("other", 1.0)),
        prompts=("prompt 1", "prompt 2"),
        contexts=(Context("be", "fore", " and after", 1.5, 1),),
        promoted=(WrittenToken(" up", 3.0, 9.0),),
        suppressed=(WrittenToken(" down", -3.0, -9.0),),
        chance_z=4.0,
        notes=("a note",),
    )


def labels() -> ScoredLabels:
    return ScoredLabels(
        title="word, other",
        candidates=(
            ScoredLabel("category", "a", 0.6, 0.5, 0.25, 0.75, None, 0.5),
            ScoredLabel("words", "word, other", 0.75, 0.8, 0.7, 0.9, 0.5, 0.01),
        ),
        p_holm=0.02,
        n_prompts=40,
        n_own=20,
    )


def module_set(normalisation="zscore") -> tlm.ModuleSet:
    return tlm.ModuleSet(
        units=UNITS,
        samples=SAMPLES,
        unit_labels=np.array([0, 0, 1, 1, -1, 0, 1, 0, 1, 1]),
        sample_labels=np.array([0, 1] * 4),
        n_modules=2,
        objective=tlm.modules.Objective(0.5, 20.0, 10.0),
        sample_scores=np.linspace(-1, 1, N_SAMPLES),
        seed=3,
        history=(8.0, 10.0),
        converged=True,
        starts=pd.DataFrame(
            {"kind": ["kmeans"], "seed": [3], "L": [10.0], "n_rounds": [2], "converged": [True]}
        ),
        model_name="tiny",
        unit_scores=np.linspace(1, 0, len(UNITS)),
        unit_means=MEANS,
        normaliser=matrix(normalisation).normaliser,
        topics=(topic(0), topic(1)),
        scored_labels=(labels(), None),
    )


def write_store(folder: Path, dtype="float16") -> Path:
    options = {"dtype": dtype, "samples_per_chunk": 5, "model_name": "tiny"}
    with tlm.ActivationStore.create(folder, UNITS, **options) as writer:
        writer.add(VALUES, SAMPLES)
        writer.unit_means = MEANS
    return folder


def plan() -> Plan:
    return Plan(UNITS, SAMPLES, (5, 3), "float16", tlm.Reading(), "tiny", {"seed": "0"})


def write_part(unfinished: UnfinishedStore, number: int) -> None:
    rows = (slice(0, 5), slice(5, 8))[number]
    sums = np.stack([MEANS, MEANS]).astype(np.float64)
    unfinished.write(number, VALUES[rows], TokenSums(sums, (20, 18)))


def write_unfinished(folder: Path) -> Path:
    with UnfinishedStore(folder, plan()) as unfinished:
        write_part(unfinished, 0)
    return folder


@dataclass(frozen=True)
class Parts:
    """What a file of the package's own format is written from."""

    kind: str
    header: dict
    arrays: dict[str, np.ndarray]


def parts(path: Path) -> Parts:
    """What is in a file."""
    with safe_open(path, framework="numpy") as file:
        described = json.loads(file.metadata()["tl_modules"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Parts(described["kind"], described["header"], arrays)
