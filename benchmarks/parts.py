"""Recall and reasoning: layers, heads and neurons beside modules, on prompts that did not choose.

python -m benchmarks.parts
python -m benchmarks.parts --method patch
python -m benchmarks.parts --figure docs/images/parts.png
"""

import argparse
from pathlib import Path

import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw, table
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--controls", type=int, default=19)
    parser.add_argument("--metric", default="answer_logprob")
    parser.add_argument("--method", default="mean", help="or patch, from other prompts")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    sets = pd.concat([load_prompts("recall"), load_prompts("reasoning")], ignore_index=True)
    fit, held_out = sets.iloc[::2], sets.iloc[1::2]
    reference = tlm.collect_reference(model, fit, units="mlp+attn_heads")
    kinds = {"layer": 1, "head": args.heads, "neuron": args.neurons}
    parts = tlm.specialised_parts(model, fit, reference, kinds=kinds)
    modules = tlm.discover(tlm.collect(model, fit), args.modules)
    options = {"metric": args.metric, "n_controls": args.controls, "method": args.method}
    if args.method == "patch":
        held_out = tlm.with_corrupted(model, held_out)
        print(held_out["category"].value_counts().to_dict())
    effects = tlm.module_effects(model, [*modules, *parts], held_out, **options)
    for part in parts:
        print(part, sorted(set(part.units.to_frame()["layer"])))
    shown = table(effects).drop(columns="perplexity of others x")
    print(shown.to_string(index=False))
    if args.figure is not None:
        unit = "nats" if args.metric == "answer_logprob" else "share"
        draw(tlm.plots.plot_costs(effects, modules=modules, unit=unit), args.figure)


if __name__ == "__main__":
    main()
