"""What a model too large for this machine would take, calculated from rates measured here.

Measures collection on the demo model (floating-point operations a second: two a weight and token)
and a search's passes over a store (bytes a second), and scales both up.

    python -m benchmarks.plan                                      # Llama 3.1 70B, 7,000 prompts
    python -m benchmarks.plan --flops 4e14 --processes 8           # at a rate measured elsewhere
"""

import argparse
import tempfile
import time
from pathlib import Path

import tl_modules as tlm
from benchmarks.device import long_prompts
from benchmarks.scale import write
from tl_modules.activations.chunk_values import chunk_size
from tl_modules.data import load_demo_model
from tl_modules.discovery.streamed import streamed_bytes

GB = 1e9


def main() -> None:
    """Print the calculation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=70.6e9)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--width", type=int, default=28_672, help="neurons a layer")
    parser.add_argument("--prompts", type=int, default=7000)
    parser.add_argument("--tokens", type=int, default=200, help="of each prompt")
    parser.add_argument("--modules", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30, help="of IterD")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--flops", type=float, help="a second and process; measured here by default"
    )
    args = parser.parse_args()
    flops = args.flops or measured_flops()
    read = measured_reading()
    n_units, n_tokens = args.layers * args.width, args.prompts * args.tokens
    store = 2 * n_units * args.prompts
    needed = 2 * args.parameters * n_tokens
    # z-score; some units; a start's sums; then about one and a half a round.
    passes = 1 + 1 + 4 + 1.5 * args.rounds
    memory = streamed_bytes((args.prompts, n_units), args.modules, components=False)
    print(
        f"{args.parameters / 1e9:.1f} billion weights, {n_units:,} neurons, {args.prompts:,} "
        f"prompts x {args.tokens} tokens, {args.processes} process(es)\n"
        f"weights in bfloat16: {2 * args.parameters / GB:,.0f} GB for each process\n"
        f"collect: {needed:.2e} floating-point operations, at {flops:.2e} a second and process: "
        f"{needed / flops / args.processes / 3600:,.1f} hours\n"
        f"store: {store / GB:,.1f} GB in {-(-args.prompts // chunk_size(n_units))} chunks\n"
        f"discover: {passes:.0f} passes, {passes * store / GB:,.0f} GB read, at {read / GB:.2f} GB "
        f"a second and process: {passes * store / read / args.processes / 3600:,.1f} hours, and "
        f"about {memory / GB:,.1f} GB of memory for rank 0"
    )


def measured_flops() -> float:
    """What collection does here, on the demo model; embeddings are looked up, not multiplied."""
    model = load_demo_model(say=lambda _: None)
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    prompts = long_prompts(32, 64)
    tlm.collect(model, prompts[:4], max_tokens=64, progress=False)
    started = time.perf_counter()
    acts = tlm.collect(model, prompts, max_tokens=64, progress=False)
    rate = int(acts.samples["n_tokens"].sum()) / (time.perf_counter() - started)
    print(f"measured: collection at {rate:,.0f} tokens a second over {weights / 1e6:.0f} M weights")
    return 2 * weights * rate


def measured_reading() -> float:
    """Bytes of a store that a search reads a second here, all its passes together."""
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder) / "acts", 1000, 60_000, 20, "float16")
        tlm.discover(store, 20, max_rounds=1, progress=False)  # compiles
        before, started = store.bytes_read, time.perf_counter()
        tlm.discover(store, 20, progress=False)
        rate = (store.bytes_read - before) / (time.perf_counter() - started)
    print(f"measured: a search at {rate / GB:.2f} GB of the store a second")
    return rate


if __name__ == "__main__":
    main()
