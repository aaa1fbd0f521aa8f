"""Cores of one size against many layer-matched controls, beside the whole modules.

    python -m benchmarks.core_tests --out FILE.csv [--modules 10] [--size 460] [--choosing 43]
                                    [--testing 20] [--controls 99] [--test-tokens 16]
                                    [--dtype bfloat16]

Modules are discovered, and cores are chosen and tested, on the prompts that ``benchmarks.cores``
describes. Hours on two cores: each module's row is written when it is finished, and another run
with the same file goes on with the next module. ``--dtype`` converts the model for the tests.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch

import tl_modules as tlm
from benchmarks.cores import add_setting, setting
from tl_modules.tables.p_values import benjamini_hochberg, holm

SHOWN = (
    *("module", "category", "n_units", "effect", "selectivity", "selectivity_ci_low"),
    *("selectivity_control_mean", "selectivity_control_max", "selectivity_z"),
    "selectivity_p_value",
)


def main() -> None:
    """Test what the file lacks, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, modules=10, choosing=43, testing=20)
    parser.add_argument("--size", type=int, default=460)
    parser.add_argument("--controls", type=int, default=99)
    parser.add_argument("--choose-tokens", type=int, default=20, help="of each prompt in choosing")
    parser.add_argument("--test-tokens", type=int, default=16, help="of each prompt in the tests")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    done = _so_far(args)
    warnings.filterwarnings("ignore", category=UserWarning)
    model, modules, _, choosing, testing = setting(args)
    cores = _cores(model, modules, choosing, testing, args)
    model.to(getattr(torch, args.dtype))
    options = {"n_controls": args.controls, "max_tokens": args.test_tokens, "batch_size": 32}
    for core in cores:
        if core.label in set(done["module"]):
            continue
        # A core's controls are the same alone and among others.
        effects = tlm.module_effects(model, [core], testing, seed=args.seed, **options)
        own = effects.loc[effects["own"]].assign(options=_said(args))
        done = own if done.empty else pd.concat([done, own], ignore_index=True)
        done.to_csv(args.out, index=False)
    options["n_controls"] = 0
    wholes = tlm.module_effects(model, modules, testing, seed=args.seed, **options)
    whole = wholes.drop_duplicates("module")[["module", "selectivity"]]
    table = done[[*SHOWN]].merge(whole.rename(columns={"selectivity": "whole_selectivity"}))
    p_values = table["selectivity_p_value"].to_numpy(dtype=float)
    table = table.assign(p_bh=benjamini_hochberg(p_values), p_holm=holm(p_values))
    beyond = (table["selectivity"] > table["selectivity_control_max"]).sum()
    print(f"{beyond} of {len(table)} cores are beyond all controls")
    print(f"{(table['p_bh'] < 0.05).sum()} have p < 0.05 after Benjamini and Hochberg")
    print(f"{(table['selectivity'] >= table['whole_selectivity']).sum()} are at least as selective")
    print(table.round(3).to_string(index=False))


def _said(args: argparse.Namespace) -> str:
    """The options that decide the numbers."""
    return str({name: value for name, value in vars(args).items() if name != "out"})


def _so_far(args: argparse.Namespace) -> pd.DataFrame:
    """The rows that an earlier run with the same options wrote."""
    if not args.out.exists():
        return pd.DataFrame(columns=["module"])
    done = pd.read_csv(args.out)
    if set(done["options"]) != {_said(args)}:
        raise SystemExit(f"{args.out} holds tests with other options. Name another file.")
    return done


def _cores(
    model: tlm.HookedModel,
    modules: tlm.ModuleSet,
    choosing: pd.DataFrame,
    testing: pd.DataFrame,
    args: argparse.Namespace,
) -> tlm.ModuleSet:
    """Cores of one size, which are kept beside the table: ranking takes minutes."""
    path = args.out.with_suffix(".cores")
    if path.exists():
        return tlm.ModuleSet.load(path)
    found = tlm.causal_cores(
        model,
        modules,
        choosing,
        testing.groupby("category", sort=False).head(1),  # they choose nothing
        sizes=[args.size],
        share=1e-9,  # the first size that is selective at all
        rankings=[],
        n_controls=0,
        max_tokens=args.choose_tokens,
        batch_size=32,
        seed=args.seed,
    )
    wholes = [core.n_units for core in found.cores if core.n_units > args.size]
    if wholes:
        print(f"Not selective at this size, so that the whole module is tested: {wholes} units")
    found.cores.save(path)
    return found.cores


if __name__ == "__main__":
    main()
