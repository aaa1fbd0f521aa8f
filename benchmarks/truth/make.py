"""Train a model of one kind, check that its owners are true, and write it.

    python -m benchmarks.truth.make hard 0 hard-0.safetensors

A model whose owners do not hold is not written, and the command fails.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Int
from transformers import LlamaForCausalLM

from benchmarks.truth.checks import check
from benchmarks.truth.composed import composed
from benchmarks.truth.files import read, write
from benchmarks.truth.kinds import KINDS, RECIPES, Kind, Recipe
from benchmarks.truth.routing import routed
from benchmarks.truth.tasks import draw_rules

STEPS = 1200


def main() -> None:
    """Train, check and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seed", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help="batches to train on")
    args = parser.parse_args()
    make(args.kind, args.seed, args.out, args.steps)


def make(kind: Kind, seed: int, out: Path, steps: int = STEPS) -> None:
    """Train a model and write it, unless its owners prove false.

    Args:
        kind: The kind of model.
        seed: Of rules, weights, prompts and the neurons' order.
        out: The file to write.
        steps: Batches.

    Raises:
        SystemExit: If the owners do not hold.
    """
    recipe = RECIPES[kind]
    generator = np.random.default_rng([3, seed])
    rules = draw_rules(recipe.n_tasks, generator)
    network = (composed if recipe.composed else routed)(recipe, rules, seed, steps)
    owners = shuffled(network, recipe, generator)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / out.name
        write(draft, network, owners, rules, kind)
        found = check(read(draft))
        print(f"{kind} {seed}: {found.text()}")
        failures = found.failures(cancels=kind == "cancelling")
        if failures:
            raise SystemExit(
                f"{out} was not written: the owners do not hold. " + "; ".join(failures)
            )
        out.write_bytes(draft.read_bytes())


@torch.no_grad()
def shuffled(
    network: LlamaForCausalLM, recipe: Recipe, generator: np.random.Generator
) -> Int[np.ndarray, "layers neurons"]:
    """Put each layer's neurons in a random order, in place, and return their owners."""
    blocks = np.repeat(np.arange(recipe.n_tasks), recipe.n_own)
    blocks = np.concatenate([blocks, np.full(recipe.n_shared, -1)])
    owners = []
    for layer in network.model.layers:
        order = generator.permutation(len(blocks))
        for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
            weight.copy_(weight[order].clone())
        layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order].clone())
        owners.append(blocks[order])
    return np.stack(owners)


if __name__ == "__main__":
    main()
