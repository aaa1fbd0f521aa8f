"""The memory that long prompts take: each in one pass, and by ``chunk_tokens`` tokens at a time.

    python -m benchmarks.long_prompts [--lengths 1024 2048 4096] [--most-whole 4096]
    python -m benchmarks.long_prompts --layers 2 --lengths 8192 32768

Every run is a process of its own, which loads the model and collects one prompt's activations. It
prints by how much the process's memory rises meanwhile (on a GPU, the GPU's memory), the time, and,
where a prompt runs both ways, the largest difference of a unit's value by the largest value. The
text is the shipped prompts, one after the other. Beyond the context that the model was trained for
(8,192 tokens for the demo model) what it computes means little, but it takes the same memory.
``--layers`` takes random weights in the model's shape with fewer layers, to be done in less time:
only the cache and the matrix grow with the layers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model
from tl_modules.runtime.peak_memory import PeakMemory


def main() -> None:
    """Print the table, or what one run of it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768]
    )
    parser.add_argument("--layers", type=int, help="of random weights, in place of the model's own")
    parser.add_argument("--chunk-tokens", type=int, default=512)
    parser.add_argument("--most-whole", type=int, default=4096, help="of tokens in one pass")
    parser.add_argument("--one", type=int, help="take part in a table: run this length alone")
    parser.add_argument("--out", type=Path, help="where --one writes what it measured")
    args = parser.parse_args()
    if args.one is None:
        table(args)
    else:
        measure(args.model, args.layers, args.one, args.chunk_tokens, args.out)


def table(args: argparse.Namespace) -> None:
    """Run every length, and print a line as soon as it is known."""
    print(f"{'tokens':>7}  {'one pass':>19}  {f'by {args.chunk_tokens} tokens':>19}  difference")
    with tempfile.TemporaryDirectory() as folder:
        for length in args.lengths:
            found = []
            for at_once in (length, args.chunk_tokens):
                is_run = length <= args.most_whole or at_once < length
                path = Path(folder) / f"{length}-{at_once}.npz"
                words = ["--model", args.model, "--one", str(length), "--out", str(path)]
                words += [] if args.layers is None else ["--layers", str(args.layers)]
                words += ["--chunk-tokens", str(at_once)]
                found.append(measured(words) if is_run else None)
            print(line(length, *found), flush=True)


def measured(words: list[str]) -> dict[str, np.ndarray]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks.long_prompts", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with np.load(words[words.index("--out") + 1]) as found:
        return dict(found)


def line(
    length: int, whole: dict[str, np.ndarray] | None, parted: dict[str, np.ndarray] | None
) -> str:
    """A length's line of the table."""
    texts = [
        "-" if found is None else f"{found['bytes'] / 1e6:,.0f} MB, {found['seconds']:,.0f} s"
        for found in (whole, parted)
    ]
    difference = "-"
    if whole is not None and parted is not None:
        largest = np.abs(whole["values"] - parted["values"]).max() / whole["values"].max()
        difference = f"{largest:.1e}"
    return f"{length:>7,}  {texts[0]:>19}  {texts[1]:>19}  {difference:>10}"


def measure(name: str, n_layers: int | None, length: int, at_once: int, path: Path | None) -> None:
    """Collect one prompt, and write what it took."""
    model = load_model(name)
    if n_layers is not None:
        model = shallow(model, n_layers)
    model.cfg.n_ctx = max(length, model.cfg.n_ctx)
    text = long_text(model, length)
    # What is loaded at the first pass is loaded now.
    options = {"max_tokens": length, "batch_size": 1, "progress": False}
    tlm.collect(model, [text[:400]], **{**options, "max_tokens": 64}, chunk_tokens=16)
    on_gpu = torch.device(model.cfg.device or "cpu").type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with PeakMemory() as peak:
        acts = tlm.collect(model, [text], chunk_tokens=at_once, **options)
    seconds = time.perf_counter() - started
    rise = torch.cuda.max_memory_allocated() - before if on_gpu else peak.bytes
    assert acts.samples["n_tokens"].tolist() == [length]
    if path is None:
        print(json.dumps({"tokens": length, "megabytes": rise / 1e6, "seconds": seconds}))
    else:
        np.savez(path, bytes=rise, seconds=seconds, values=acts.values)


def shallow(model: Any, n_layers: int) -> Any:
    """A model of random weights in another's shape, with fewer layers."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    config = deepcopy(model.original_model.config)
    config.num_hidden_layers = n_layers
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - transformers takes no generator
        made = AutoModelForCausalLM.from_config(config)
    name = f"random, {n_layers} layers"
    options = {"hf_model": made, "tokenizer": model.tokenizer}
    return TransformerBridge.boot_transformers(name, **options).eval()


def long_text(model: tlm.HookedModel, length: int) -> str:
    """The shipped prompts, again and again, until they are this many tokens."""
    prompts = "\n\n".join(load_prompts()["prompt"])
    n_tokens = model.to_tokens(prompts, truncate=False).shape[1]
    return "\n\n".join([prompts] * (length // n_tokens + 1))


if __name__ == "__main__":
    main()
