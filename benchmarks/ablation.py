"""What stacked interventions cost over a plain forward pass of the same rows, on the demo model.

python -m benchmarks.ablation [--rows 16] [--runs 4] [--tokens 24] [--repeats 15]
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts
from tl_modules.interventions.stacking import stacked
from tl_modules.models.batches import batches
from tl_modules.models.runs import forward
from tl_modules.models.tokens import tokenise


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="prompts of the batch")
    parser.add_argument("--runs", type=int, default=4, help="interventions stacked")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    model = load_demo_model()
    prompts = load_prompts()["prompt"].tolist()
    prompts = [text for text in prompts if len(text.split()) > args.tokens][: args.rows]
    acts = tlm.collect(model, prompts, max_tokens=args.tokens, progress=False)
    # A tenth of all neurons each, as K = 10 gives.
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=len(acts.units))
    modules = [
        tlm.Module(k, acts.units.select(labels == k), acts.samples, means=acts)
        for k in range(args.runs)
    ]
    batch = next(batches(tokenise(model, prompts, args.tokens), args.rows))
    tokens, mask = (part.repeat(args.runs, 1) for part in (batch.tokens, batch.mask))
    print(f"{args.runs} interventions x {args.rows} prompts x {tokens.shape[1]} tokens")
    for method, options in (("mean", {}), ("scale", {"factor": 2.0}), ("mean", {"positions": -1})):
        hooks = stacked([module.fwd_hooks(method, **options) for module in modules], args.rows)
        ratios = []
        for _ in range(args.repeats + 1):
            plain = seconds(model, tokens, mask, [])
            ratios.append(seconds(model, tokens, mask, hooks) / plain)
        shown = np.percentile(ratios[1:], [25, 50, 75])  # the first warms up
        print(
            f"{method} {options or ''}: median {shown[1]:.3f} times a plain forward pass of the "
            f"same rows (quartiles {shown[0]:.3f} to {shown[2]:.3f}, {args.repeats} pairs)"
        )
    check(model, batch, modules, args.rows)


def seconds(model, tokens, mask, hooks) -> float:
    """One forward pass."""
    started = time.perf_counter()
    forward(model, tokens, mask, hooks)
    return time.perf_counter() - started


def check(model, batch, modules, n_rows: int) -> None:
    """The stacked run equals the single ones."""
    hooks = stacked([module.fwd_hooks() for module in modules], n_rows)
    tokens, mask = (part.repeat(len(modules), 1) for part in (batch.tokens, batch.mask))
    together = forward(model, tokens, mask, hooks)
    gaps = [
        float((together[k * n_rows :][:n_rows] - alone).abs().max())
        for k, module in enumerate(modules)
        for alone in [forward(model, batch.tokens, batch.mask, replace(module).fwd_hooks())]
    ]
    print(f"largest difference of a logit from the run alone: {max(gaps):.1e}")
    assert torch.isfinite(together).all()


if __name__ == "__main__":
    main()
