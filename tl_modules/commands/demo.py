"""``tl-modules demo``: collect, discover, ablate, find cores and report on a small real model."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.activations.matrix import FILE_KIND as MATRIX
from tl_modules.activations.reading import Reading
from tl_modules.activations.resumable_matrix import collect_resumably
from tl_modules.activations.store_folder import check_folder, delete_store
from tl_modules.causal.cores import CausalCores, causal_cores
from tl_modules.causal.effects import module_effects
from tl_modules.causal.options import POSITIONS
from tl_modules.commands.collect import partial_folder
from tl_modules.commands.core import summary as core_summary
from tl_modules.commands.interruption import RESUME, on_interrupt
from tl_modules.commands.options import (
    add_common,
    add_discovery_device,
    add_model,
    add_positions,
    say,
)
from tl_modules.commands.outputs import OutputFolder
from tl_modules.commands.test import summary
from tl_modules.data.corpora import load_prompts
from tl_modules.data.models import load_model
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.on_device import checked_device
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.interpret.topics import with_topics
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.page import ReportPage
from tl_modules.sharing.shareable import FILE_KIND as MODULES
from tl_modules.tables.effects_frame import positions_said
from tl_modules.tables.verdicts import verdict_sentence, verdicts

FILES = (
    *("report.html", "effects.csv", "modules.safetensors", "acts.safetensors", "summary.json"),
    *("cores.safetensors", "cores.csv", "core_units.csv", "core_effects.csv"),
)
CHOOSING = 3
"""The number of prompts per category that choose the cores; discovery does not see them."""

TESTING = 3
"""The number of prompts per category of the causal tests; nothing else sees them."""

HIDDEN = ["selectivity_ci_low", "selectivity_ci_high", "n_controls"]
"""Columns of the table of cores that are not printed."""

SIZES = (0.0025, 0.01)
"""The sizes of cores, as shares of the model's units. The whole module is the third."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    demo = commands.add_parser(
        "demo",
        help="collect, discover and ablate on a small real model",
        description="Collect a model's activations over the project's prompts, "
        "discover modules, ablate each module beside its controls on held-out prompts, find the "
        "few neurons of each that do most of it, and test them. Print the module x category table "
        "and the table of cores, and write acts.safetensors, modules.safetensors, effects.csv, "
        "cores.safetensors, cores.csv, core_units.csv, core_effects.csv, summary.json and "
        "report.html.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder to write to (out/demo)"
    )
    add_model(demo)
    demo.add_argument("-k", "--n-modules", type=int, default=7, help="number of modules (7)")
    demo.add_argument("--n-controls", type=int, default=9, help="random controls per module (9)")
    demo.add_argument(
        "--core-controls", type=int, default=29, help="random controls that test each core (29)"
    )
    demo.add_argument(
        "--max-tokens", type=int, default=16, help="cut prompts after this many tokens (16)"
    )
    add_positions(demo)
    add_discovery_device(demo)
    add_common(demo)
    demo.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Collect, discover, ablate, write."""
    # Validated before the model runs, not after half a minute of work.
    check_at_least("n_modules", args.n_modules, 2)
    check_at_least("n_controls", args.n_controls, 0)
    check_at_least("core_controls", args.core_controls, 1)
    check_at_least("max_tokens", args.max_tokens, 2)
    check_choice("positions", args.positions, POSITIONS)
    check_seed(args.seed)
    checked_device(args.discovery_device)
    prompts = load_prompts()
    held_out = prompts.groupby("category", sort=False).tail(CHOOSING + TESTING)
    halves = [held_out.groupby("category", sort=False).head(CHOOSING)]
    halves.append(held_out.drop(halves[0].index))
    seen = prompts.drop(held_out.index)
    if args.n_modules > len(seen):
        raise ModulesError(
            f"n_modules should be at most the number of prompts, {len(seen)}; got "
            f"{args.n_modules}. 7 is usual."
        )
    output = OutputFolder(args, FILES)
    partial = partial_folder(args.out / "acts.safetensors")
    check_folder(partial)
    with on_interrupt(lambda: RESUME):
        _run(args, seen, halves, output, partial)
    delete_store(partial)


def _run(
    args: argparse.Namespace,
    seen: pd.DataFrame,
    halves: list[pd.DataFrame],
    output: OutputFolder,
    partial: Path,
) -> None:
    """Run all steps; activations stay in the partial store, so that another run can resume."""
    started = time.perf_counter()
    progress = not args.no_progress
    say("[1/6] Loading the model")
    model = load_model(args.model)
    say(f"[2/6] Collecting activations over {len(seen)} prompts")
    acts = collect_resumably(model, seen, partial, Reading(), progress=progress)
    say(f"[3/6] Discovering {args.n_modules} modules among {len(acts.units):,} neurons")
    modules = discover(
        acts,
        args.n_modules,
        seed=args.seed,
        device=args.discovery_device,
        progress=progress,
    )
    choosing, testing = halves
    say(
        f"[4/6] Ablating each module and {args.n_controls} layer-matched random controls on "
        f"{len(testing)} held-out prompts"
    )
    options: dict[str, Any] = {
        "positions": args.positions,
        "batch_size": len(testing),  # the prompts are short, so that one pass fits into memory
        "max_tokens": args.max_tokens,
        "seed": args.seed,
        "progress": progress,
    }
    effects = module_effects(model, modules, testing, n_controls=args.n_controls, **options)
    say(
        f"[5/6] Finding the core of each module on {len(choosing)} other held-out prompts, and "
        f"ablating it and {args.core_controls} controls"
    )
    found = causal_cores(
        *(model, modules, choosing, testing),
        sizes=SIZES,
        rankings=(),
        n_controls=0,
        **options,
    )
    of_cores = module_effects(model, found.cores, testing, n_controls=args.core_controls, **options)
    say("[6/6] Finding topics, and writing the report")
    modules = modules.with_effects(effects)
    modules = with_topics(modules, model, seed=args.seed, progress=progress)
    seconds = time.perf_counter() - started
    # All files are written at the end, so that an interrupted run leaves no mixture with old files.
    output.write_saved("acts.safetensors", MATRIX, acts.parts())
    output.write_saved("modules.safetensors", MODULES, modules.parts())
    output.write_table("effects.csv", effects)
    output.write_saved("cores.safetensors", MODULES, found.cores.parts())
    output.write_table("cores.csv", found.table)
    output.write_table("core_units.csv", found.units)
    output.write_table("core_effects.csv", of_cores)
    numbers = _summary(modules, effects, of_cores)
    numbers |= {
        "verdict": verdict_sentence(effects),
        "verdict_of_cores": verdict_sentence(of_cores, of="cores"),
        "verdicts": _by_module(effects),
        "verdicts_of_cores": _by_module(of_cores),
    }
    numbers |= {"seconds": round(seconds, 1), "seed": args.seed}
    output.write("summary.json", json.dumps(numbers, indent=2).encode())
    _print_results(modules, effects)
    _print_cores(found, of_cores, numbers)
    page = ReportPage(modules, effects, acts, model, args.seed, progress, of_cores, found)
    output.write("report.html", page.html())
    say(f"\nWritten to {args.out}/: {', '.join(FILES)}")


def _summary(
    modules: ModuleSet, effects: pd.DataFrame, of_cores: pd.DataFrame
) -> dict[str, object]:
    """Compute the numbers of summary.json."""
    counts, core_counts = summary(effects), summary(of_cores)
    return {
        "objective": asdict(modules.objective),
        "rounds": len(modules.history),
        "converged": modules.converged,
        "n_modules": modules.n_modules,
        "modules_whose_selectivity_exceeds_all_their_controls": counts["n_beyond_all"],
        "modules_whose_raw_own_effect_exceeds_all_their_controls": counts["n_raw"],
        "cores_whose_selectivity_exceeds_all_their_controls": core_counts["n_beyond_all"],
        "cores_that_are_significant_after_correction": core_counts["n_selective"],
    }


def _by_module(effects: pd.DataFrame) -> dict[str, str]:
    """Each module's verdict in words, by its number."""
    table = verdicts(effects)
    return dict(zip(table["module"].astype(str), table["line"], strict=True))


def _print_results(modules: ModuleSet, effects: pd.DataFrame) -> None:
    """Print the module x category table, and the modules' topics."""
    per_module = effects.drop_duplicates("module").set_index("module")
    table = effects.pivot(index="module", columns="category", values="effect")
    table = table[list(dict.fromkeys(effects["category"]))]
    shown = table.map("{:.2f}".format)
    on_own = effects.loc[effects["own"]]
    for module, category in zip(on_own["module"], on_own["category"], strict=True):
        shown.loc[module, category] += "*"
    shown["(controls)"] = (
        effects.groupby("module")["control_mean"].agg(["min", "max"]).map("{:.2f}".format)
    ).agg("..".join, axis=1)
    shown["selectivity"] = per_module["selectivity"].map("{:.2f}".format)
    shown["(controls, mean)"] = per_module["selectivity_control_mean"].map("{:.2f}".format)
    shown["p"] = per_module["selectivity_p_value"].map("{:.3f}".format)
    shown["p corrected"] = per_module["selectivity_p_bh"].map("{:.3f}".format)
    objective = modules.objective
    say(f"\n{verdict_sentence(effects)}")
    say(f"L = {objective.L:,.0f}, xi = {objective.xi:.4f}, B = {objective.B:,.0f}")
    say(
        "\nIncrease of the mean next-token loss (nats per token) when a module is mean-ablated\n"
        f"{positions_said(effects)};\n"
        "* = the module's own category; (controls) = the range over categories of the mean\n"
        "increase of its controls. Selectivity = own category minus mean of the others.\n"
    )
    say(shown.to_string())
    say("\nWhat drives each module:")
    for module in modules:
        say(f"  {module.label:>3}  {module.title or ''}")


def _print_cores(found: CausalCores, of_cores: pd.DataFrame, numbers: dict[str, object]) -> None:
    """Print the table of cores, and the summary."""
    say(
        "\nThe core of each module: the smallest of three sets (0.25 % and 1 % of the model's\n"
        "neurons, and the whole module) that is nearly as selective as the best. In nats per\n"
        "token: the core's effect on the module's own category and on the others, its\n"
        "selectivity and the whole module's, and its test against layer-matched controls\n"
    )
    say(f"{numbers['verdict_of_cores']}\n")
    say(core_summary(found, of_cores).drop(columns=HIDDEN).round(3).to_string(index=False))
    say()
    for name, value in numbers.items():
        if name.startswith(("modules_whose", "cores_")):
            say(f"{name.replace('_', ' ')}: {value} of {numbers['n_modules']}")
    say(f"seconds: {numbers['seconds']}")
