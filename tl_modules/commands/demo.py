"""``tl-modules demo``: the whole path on a small real model."""

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
from tl_modules.causal.effects import module_effects
from tl_modules.commands.collect import partial_folder
from tl_modules.commands.interruption import RESUME, on_interrupt
from tl_modules.commands.options import add_common, add_model, say
from tl_modules.commands.outputs import OutputFolder
from tl_modules.commands.test import summary
from tl_modules.data.corpora import load_prompts
from tl_modules.data.models import load_model
from tl_modules.discovery.from_activations import discover
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interpret.topics import with_topics
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.page import report_page
from tl_modules.sharing.shareable import FILE_KIND as MODULES

FILES = ("report.html", "effects.csv", "modules.safetensors", "acts.safetensors", "summary.json")
HELD_OUT = 3
"""Prompts of each category that discovery does not see, for the causal test."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    demo = commands.add_parser(
        "demo",
        help="collect, discover and ablate on a small real model",
        description="Collect a model's activations over the project's prompts, "
        "discover modules, ablate each beside its controls on prompts that discovery did not "
        "see, print the module x category table, and write acts.safetensors, "
        "modules.safetensors, effects.csv, summary.json and report.html.",
    )
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write to")
    add_model(demo)
    demo.add_argument("-k", "--n-modules", type=int, default=7, help="how many modules (7)")
    demo.add_argument(
        "--n-controls", type=int, default=19, help="random controls for each module (19)"
    )
    demo.add_argument("--max-tokens", type=int, default=24, help="cut prompts in the test (24)")
    add_common(demo)
    demo.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Collect, discover, ablate, write."""
    # Refused here rather than after half a minute of work.
    check_at_least("n_modules", args.n_modules, 2)
    check_at_least("n_controls", args.n_controls, 0)
    check_at_least("max_tokens", args.max_tokens, 2)
    check_seed(args.seed)
    prompts = load_prompts()
    held_out = prompts.groupby("category", sort=False).tail(HELD_OUT)
    seen = prompts.drop(held_out.index)
    if args.n_modules > len(seen):
        raise ModulesError(
            f"n_modules should be at most the number of prompts, {len(seen)}; got {args.n_modules}."
        )
    output = OutputFolder(args, FILES)
    partial = partial_folder(args.out / "acts.safetensors")
    check_folder(partial)
    with on_interrupt(lambda: RESUME):
        _run(args, seen, held_out, output, partial)
    delete_store(partial)


def _run(
    args: argparse.Namespace,
    seen: pd.DataFrame,
    held_out: pd.DataFrame,
    output: OutputFolder,
    partial: Path,
) -> None:
    """The whole path; activations stay in the partial store, so that another run has them."""
    started = time.perf_counter()
    progress = not args.no_progress
    say("[1/5] Loading the model")
    model = load_model(args.model)
    say(f"[2/5] Collecting activations over {len(seen)} prompts")
    acts = collect_resumably(model, seen, partial, Reading(), progress=progress)
    say(f"[3/5] Discovering {args.n_modules} modules among {len(acts.units):,} neurons")
    modules = discover(acts, args.n_modules, seed=args.seed, progress=progress)
    say(
        f"[4/5] Ablating each module and {args.n_controls} layer-matched random controls on "
        f"{len(held_out)} prompts that discovery did not see"
    )
    effects = module_effects(
        model,
        modules,
        held_out,
        n_controls=args.n_controls,
        batch_size=len(held_out),  # all at once: short prompts, and one pass wastes least
        max_tokens=args.max_tokens,
        seed=args.seed,
        progress=progress,
    )
    say("[5/5] Asking what each module is about, and writing the report")
    modules = with_topics(modules, model, seed=args.seed, progress=progress)
    seconds = time.perf_counter() - started
    # All at the end: an interrupted run leaves no mixture of its own files and older ones.
    output.write_saved("acts.safetensors", MATRIX, acts.parts())
    output.write_saved("modules.safetensors", MODULES, modules.parts())
    output.write_table("effects.csv", effects)
    found = _summary(modules, effects) | {"seconds": round(seconds, 1), "seed": args.seed}
    output.write("summary.json", json.dumps(found, indent=2).encode())
    _print_results(modules, effects, found)
    parts: dict[str, Any] = {"effects": effects, "acts": acts, "model": model, "seed": args.seed}
    page = report_page(modules, **parts, progress=progress)
    output.write("report.html", page)
    say(f"\nWritten to {args.out}/: {', '.join(FILES)}")


def _summary(modules: ModuleSet, effects: pd.DataFrame) -> dict[str, object]:
    """The demo's headline numbers."""
    counts = summary(effects)
    return {
        "objective": asdict(modules.objective),
        "rounds": len(modules.history),
        "converged": modules.converged,
        "n_modules": modules.n_modules,
        "modules_whose_selectivity_exceeds_all_their_controls": counts["n_beyond_all"],
        "modules_whose_raw_own_effect_exceeds_all_their_controls": counts["n_raw"],
    }


def _print_results(modules: ModuleSet, effects: pd.DataFrame, numbers: dict[str, object]) -> None:
    """The module x category table, and what it comes to."""
    each = effects.drop_duplicates("module").set_index("module")
    table = effects.pivot(index="module", columns="category", values="effect")
    table = table[list(dict.fromkeys(effects["category"]))]
    shown = table.map("{:.2f}".format)
    own = effects.loc[effects["own"]]
    for module, category in zip(own["module"], own["category"], strict=True):
        shown.loc[module, category] += "*"
    shown["(controls)"] = (
        effects.groupby("module")["control_mean"].agg(["min", "max"]).map("{:.2f}".format)
    ).agg("..".join, axis=1)
    shown["selectivity"] = each["selectivity"].map("{:.2f}".format)
    shown["(controls, mean)"] = each["selectivity_control_mean"].map("{:.2f}".format)
    shown["p"] = each["selectivity_p_value"].map("{:.3f}".format)
    found = modules.objective
    say(f"\nL = {found.L:,.0f}, xi = {found.xi:.4f}, B = {found.B:,.0f}")
    say(
        "\nRise of the mean next-token loss (nats per token) when a module is mean-ablated;\n"
        "* = the module's own category; (controls) = the range over categories of its controls'\n"
        "mean rise. Selectivity = own category minus mean of the others.\n"
    )
    say(shown.to_string())
    say("\nWhat drives each module:")
    for module in modules:
        say(f"  {module.label:>3}  {'' if module.topic is None else module.topic.label}")
    say()
    for name, value in numbers.items():
        if name.startswith("modules_whose"):
            say(f"{name.replace('_', ' ')}: {value} of {modules.n_modules}")
    say(f"seconds: {numbers['seconds']}")
