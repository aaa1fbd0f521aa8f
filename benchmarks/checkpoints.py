"""What fine-tuning moves, beside what another seed moves; and two architectures side by side.

    python -m benchmarks.checkpoints [--category coding] [--steps 20] [--other gemma-3-270m]

Modules of SmolLM2 over the project's prompts, before and after fine-tuning on one category's
prompts, matched by units; then of SmolLM2 and another model, matched by their profiles on prompts
that neither discovery saw.
"""

import argparse
from typing import Any

import numpy as np
import torch
from tqdm.auto import trange

import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts
from tl_modules.data.models import load_model
from tl_modules.models.batches import batches
from tl_modules.models.losses import next_token_losses
from tl_modules.models.tokens import tokenise

HELD_OUT = 8
"""Prompts of each category that discovery and fine-tuning do not see."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--category", default="coding")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--other", default="gemma-3-270m", help="'none' leaves it out")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--modules", type=int, default=7)
    args = parser.parse_args()
    prompts = load_prompts()
    held_out = prompts.groupby("category", sort=False).tail(HELD_OUT)
    seen = prompts.drop(held_out.index)
    options = {"max_tokens": args.max_tokens}

    model = load_demo_model()
    base = tlm.collect(model, seen, **options)
    modules = tlm.discover(base, args.modules, method="ulcmod")
    profiles = tlm.collect(model, held_out, **options)
    print("\nAnother seed, the same model:")
    again = tlm.discover(base, args.modules, method="ulcmod", seed=1)
    show(tlm.match_modules(modules, again))

    texts = seen.query("category == @args.category")["prompt"].tolist()
    own = held_out.query("category == @args.category")["prompt"].tolist()
    before = loss(model, own, args.max_tokens)
    fine_tune(model, texts, args)
    print(
        f"\nFine-tuned on {len(texts)} {args.category} prompts, {args.steps} steps: held-out loss"
    )
    print(f"  {before:.3f} before, {loss(model, own, args.max_tokens):.3f} after (nats per token)")
    tuned = tlm.discover(tlm.collect(model, seen, **options), args.modules, method="ulcmod")
    show(tlm.match_modules(modules, tuned))
    del model
    if args.other != "none":
        other = load_model(args.other)
        others = tlm.discover(tlm.collect(other, seen, **options), args.modules, method="ulcmod")
        theirs = tlm.collect(other, held_out, **options)
        print(f"\n{args.other}, by profiles on {len(held_out)} prompts that no discovery saw:")
        show(tlm.match_modules(modules, others, profiles=(profiles, theirs)))


def show(match: tlm.evaluation.ModuleMatch) -> None:
    """The pairs, what moved, and how many units in all."""
    print(match.pairs.round(3).to_string(index=False))
    if match.by == "units":
        print(match.diff().round(3).to_string(index=False))
        moved = match.moved_units()
        scores = moved["score_a"].abs().median(), np.median(np.abs(match.a.unit_scores))
        print(
            f"{len(moved):,} of {len(match.a.units):,} units moved; their median |score| is "
            f"{scores[0]:.3f}, that of all units {scores[1]:.3f}"
        )


def fine_tune(model: Any, texts: list[str], args: argparse.Namespace) -> None:
    """A few steps of AdamW on the texts' next-token loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    token_lists = tokenise(model, texts, args.max_tokens, least=2)
    generator = np.random.default_rng(0)
    for _ in trange(args.steps, desc="fine-tune"):
        rows = generator.choice(len(texts), size=min(8, len(texts)), replace=False)
        (batch,) = batches([token_lists[row] for row in rows], len(rows))
        logits = model(batch.tokens, attention_mask=batch.mask.long())
        optimiser.zero_grad()
        next_token_losses(logits, batch.tokens, batch.mask).mean().backward()
        optimiser.step()


def loss(model: Any, texts: list[str], max_tokens: int) -> float:
    """Mean next-token loss, nats per token."""
    (batch,) = batches(tokenise(model, texts, max_tokens, least=2), len(texts))
    with torch.inference_mode():
        logits = model(batch.tokens, attention_mask=batch.mask.long())
    return float(next_token_losses(logits, batch.tokens, batch.mask).mean())


if __name__ == "__main__":
    main()
