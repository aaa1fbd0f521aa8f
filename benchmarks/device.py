"""Collection and stacked ablation beside a plain Hugging Face forward pass, on any device.

All run the same batches in one process, by turns with plain passes: those of the model as
``AutoModelForCausalLM`` makes it, logits included. Prints ratios of tokens a second, for the demo
model, a model by name, or random weights of real shapes (speed does not depend on the values).

    python -m benchmarks.device --shapes 135M 1B 7B --device cuda --dtype bfloat16 --batch-size 64
    python -m benchmarks.device --prompts 32 --batch-size 8 --tokens 24 --repeats 3   # a CPU
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tl_modules as tlm
from tl_modules.data import load_demo_model, load_prompts
from tl_modules.interventions.stacking import stacked
from tl_modules.models.batches import Batch, batches
from tl_modules.models.runs import forward, run_hooks_only
from tl_modules.models.tokens import tokenise

SHAPES = {
    "tiny": (64, 2, 128, 4, 2),
    "135M": (576, 30, 1536, 9, 3),
    "1B": (2048, 16, 8192, 32, 8),
    "7B": (4096, 32, 11008, 32, 32),
}
"""The width, the numbers of layers, neurons per layer, heads, and heads of keys and values."""


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--model", help="a Hugging Face model's name or folder (the demo model)")
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], help="random weights instead")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="of each prompt")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--modules", type=int, default=8, help="interventions stacked in a pass")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    path = args.model or load_demo_model().original_model.config._name_or_path
    for shape in args.shapes or [None]:
        plain, model = load(path, args) if shape is None else made(path, shape, args)
        measure(shape or path.rsplit("/", 1)[-1], plain, model, args)
        del plain, model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(path: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """A model as Hugging Face has it, and as a bridge of its own copy."""
    dtype = getattr(torch, args.dtype)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(args.device).eval()
    bridge = TransformerBridge.boot_transformers(path, device=args.device, dtype=dtype).eval()
    return plain, bridge


def made(path: str, shape: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """Random weights of a shape, with the tokenizer and the architecture of a folder's model."""
    config, tokenizer = AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    width, n_layers, n_neurons, n_heads, n_pairs = SHAPES[shape]
    config.hidden_size, config.num_hidden_layers, config.intermediate_size = (
        width,
        n_layers,
        n_neurons,
    )
    config.num_attention_heads, config.num_key_value_heads = n_heads, n_pairs
    config.head_dim = width // n_heads
    dtype = getattr(torch, args.dtype)
    with torch.device(args.device):
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        # A copy, because the bridge puts parts of its own into the model.
        bridge = TransformerBridge.boot_transformers(
            folder,
            hf_model=copy.deepcopy(plain),
            tokenizer=tokenizer,
            device=args.device,
            dtype=dtype,
        )
    return plain, bridge.eval()


def measure(label: str, plain: Any, model: Any, args: argparse.Namespace) -> None:
    """Print one model's ratios."""
    prompts = long_prompts(args.prompts, args.tokens)
    runs = list(batches(tokenise(model, prompts, args.tokens), args.batch_size))
    n_tokens = sum(int(batch.mask.sum()) for batch in runs)
    print(
        f"{label}, {args.dtype}, on {where(args.device)}: {len(prompts)} prompts, {n_tokens:,} "
        f"tokens, batches of {args.batch_size}",
        flush=True,
    )
    acts = tlm.collect(model, prompts[:16], max_tokens=args.tokens, progress=False)
    for name, run in runs_of(model, acts.units.hook_names, prompts, runs, args).items():
        compare(name, run, plain, runs, n_tokens, args)

    halved = {"max_tokens": args.tokens, "progress": False, "batch_size": args.batch_size // 2 or 1}
    one, other = (
        tlm.collect(model, prompts[:64], **halved | {"batch_size": size}).values
        for size in (args.batch_size, halved["batch_size"])
    )
    gap = np.abs(one - other) / np.maximum(np.abs(one), 1e-6)
    print(
        f"a batch half as large: {np.mean(gap > 0):.1%} of the values differ, by up to "
        f"{gap.max():.1e} of a value"
    )

    few, n_rows = runs[:2], max(1, args.batch_size // args.modules)
    labels = np.random.default_rng(0).integers(args.modules, size=len(acts.units))
    hooks = [
        tlm.Module(k, acts.units.select(labels == k), acts.samples, means=acts).fwd_hooks()
        for k in range(args.modules)
    ]
    rows = [stack(batch, n_rows, args.modules) for batch in few]
    together = stacked(hooks, n_rows)

    def ablated() -> None:
        for batch in rows:
            forward(model, batch.tokens, batch.mask, together)

    n_stacked = sum(int(batch.mask.sum()) for batch in rows)
    name = f"stacked ablation, {args.modules} modules x {n_rows} prompts a pass"
    compare(name, ablated, plain, rows, n_stacked, args)


def runs_of(
    model: Any,
    names: tuple[str, ...],
    prompts: list[str],
    runs: list[Batch],
    args: argparse.Namespace,
) -> dict[str, Callable[[], None]]:
    """What runs beside plain passes, from the bridge alone to ``collect``."""

    def bridge(does_nothing: bool) -> None:
        hooks = [(name, lambda activation, hook=None: None) for name in names if does_nothing]
        for batch in runs:
            forward(model, batch.tokens, batch.mask, hooks)

    def least_reader() -> None:
        for batch in runs:
            mask = batch.mask.to(args.device)
            share, found = 1.0 / mask.sum(1, keepdim=True), []

            def read(activation: torch.Tensor, mask=mask, share=share, found=found) -> None:
                sizes = activation.abs() * mask[..., None]
                found.append(sizes.sum(1, dtype=torch.float32) * share)

            run_hooks_only(model, batch.tokens, batch.mask, dict.fromkeys(names, read))
            torch.cat(found, 1).cpu()

    def collected() -> None:
        options = {"max_tokens": args.tokens, "batch_size": args.batch_size, "progress": False}
        tlm.collect(model, prompts, **options)

    return {
        "the bridge alone": lambda: bridge(False),
        "hooks that do nothing": lambda: bridge(True),
        "the least reader": least_reader,
        "collect, tokenising included": collected,
    }


def compare(
    name: str,
    ours: Callable[[], None],
    plain: Any,
    runs: list[Batch],
    n_tokens: int,
    args: argparse.Namespace,
) -> None:
    """By turns, the first turn to warm up; prints medians and the ratio of each pair."""

    def forwarded() -> None:
        with torch.inference_mode():
            for batch in runs:
                plain(
                    batch.tokens.to(args.device),
                    attention_mask=batch.mask.long().to(args.device),
                    use_cache=False,
                )

    pairs = [(seconds(forwarded), seconds(ours)) for _ in range(args.repeats + 1)][1:]
    ratios = sorted(theirs / own for theirs, own in pairs)
    theirs, own = (statistics.median(of) for of in zip(*pairs, strict=True))
    print(
        f"{name}: {n_tokens / own:,.0f} tokens/s, {statistics.median(ratios):.2f} times a plain "
        f"forward pass's {n_tokens / theirs:,.0f} ({ratios[0]:.2f} to {ratios[-1]:.2f} over "
        f"{len(ratios)} pairs)"
    )


def seconds(run: Callable[[], None]) -> float:
    """How long it takes, until the device is done."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def stack(batch: Batch, n_rows: int, times: int) -> Batch:
    """The batch's first rows, so many times under each other."""
    rows = np.tile(batch.rows[:n_rows], times)
    parts = (part[:n_rows].repeat(times, 1) for part in (batch.tokens, batch.mask, batch.counted))
    return Batch(rows, *parts)


def long_prompts(n_prompts: int, n_tokens: int) -> list[str]:
    """Prompts that are as long as asked for, nearly all: the project's own, run together."""
    texts = load_prompts()["prompt"].sample(frac=1, random_state=0).tolist()
    step = max(1, n_tokens // 8)
    joined = [" ".join(texts[start : start + step]) for start in range(len(texts))]
    return [joined[number % len(joined)] for number in range(n_prompts)]


def where(device: str) -> str:
    """The device in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"the CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
