"""``tl-modules test``: ablate saved modules beside several kinds of controls."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.causal.controls import KINDS
from tl_modules.causal.effects import module_effects
from tl_modules.causal.metrics import METRICS, check_loss_on, reads_answers
from tl_modules.causal.options import POSITIONS
from tl_modules.causal.own_categories import no_common_category
from tl_modules.causal.selectivities import selectivity
from tl_modules.causal.shared_unit_scores import shared_units
from tl_modules.commands.interruption import on_interrupt
from tl_modules.commands.options import (
    add_common,
    add_positions,
    add_prompts,
    add_separator,
    say,
)
from tl_modules.commands.outputs import OutputFolder
from tl_modules.commands.unseen import categorised_prompts, drawn, unseen
from tl_modules.data.models import load_model
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.models.answers import answers_of, with_separator
from tl_modules.models.batch_sizes import check_batch_size
from tl_modules.models.loss_tokens import LOSS_ON
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.effects_frame import SIGNIFICANT, shared_modules
from tl_modules.tables.labels import quoted
from tl_modules.tables.verdicts import verdict_sentence
from tl_modules.units import Units


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "test",
        help="ablate saved modules beside matched controls",
        description="Mean-ablate each module of one or more files on prompts that discovery did "
        "not see, beside the chosen kinds of controls. Print how many modules are selective, and "
        "write effects.csv (every module and category), summary.csv and, with --n-shared, "
        "shared.csv.",
    )
    parser.add_argument("modules", type=Path, nargs="+", help="files that 'discover' wrote")
    parser.add_argument(
        "--out", type=Path, default=Path("out/test"), help="folder to write to (out/test)"
    )
    parser.add_argument("--per-category", type=int, default=3, help="prompts per category (3)")
    parser.add_argument(
        "--controls",
        nargs="+",
        default=["layer"],
        help=f"kinds of controls: {', '.join(KINDS)} (layer)",
    )
    parser.add_argument(
        "--n-controls",
        type=int,
        help="controls per module (as many as each test needs, 19 to 999); with a fixed number "
        "and m modules, a single module needs 20 m - 1 to reach p = 0.05 after correction",
    )
    parser.add_argument(
        "--n-shared",
        type=int,
        default=0,
        help="find this many units that every category needs, and repeat the test without them (0)",
    )
    parser.add_argument("--metric", default="loss", help=f"metric: {', '.join(METRICS)} (loss)")
    parser.add_argument(
        "--loss-on",
        default="prompt",
        help=f"tokens over which the loss is averaged: {', '.join(LOSS_ON)}; the last two read a "
        "column 'answer' (prompt)",
    )
    add_positions(parser)
    add_separator(parser)
    add_prompts(parser, max_tokens=24)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Ablate, print, write."""
    _check(args)
    sets = _load(args)
    tested, others = _prompts(args, sets)
    _check_categories(args, sets, tested)
    names = ["effects.csv", "summary.csv", "settings.json"]
    output = OutputFolder(args, [*names, "shared.csv"] if args.n_shared else names)
    done: list[str] = []
    kept = f"{args.out / names[0]} holds the tests so far"
    with on_interrupt(lambda: kept if done else "no test was finished"):
        _test(args, sets, tested, others, output, done)


def _test(
    args: argparse.Namespace,
    sets: dict[str, ModuleSet],
    tested: pd.DataFrame,
    others: pd.DataFrame,
    output: OutputFolder,
    done: list[str],
) -> None:
    """Ablate, print, write; ``done`` gets the name of each finished test."""
    model = load_model(args.model, device_map=args.device_map, dtype=args.model_dtype)
    # One reference for all sets, so that all are ablated to the same means. Controls of similar
    # magnitude need a set that holds mean |activation|.
    plain = [modules for modules in sets.values() if modules.reading.is_magnitude]
    reference = next(iter([*plain, *sets.values()]))
    if reference.reading.chat or reference.reading.tokens != "all":
        say(
            f"The modules were discovered from {reference.reading}. They are tested on prompts as "
            "given, without a template, and ablated to their units' means over those tokens"
        )
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "max_tokens": None if reads_answers(args.metric, args.loss_on) else args.max_tokens,
        "positions": args.positions,
        "progress": not args.no_progress,
    }
    excluded: list[tuple[str, Units | None]] = [("none", None)]
    if args.n_shared:
        # By the loss that is tested; with an answer metric, by the prompts' own.
        answers = args.loss_on != "prompt"
        others = with_separator(others, args.separator if answers else None, answers=answers)
        given = {"n_units": args.n_shared, "loss_on": args.loss_on, **options}
        shared = shared_units(model, others, reference, **given)
        output.write_table("shared.csv", shared.table)
        excluded.append((f"{args.n_shared} shared", shared.units))
    tables, rows = [], []
    cases = [
        (name, modules, left_out, units, kind)
        for name, modules in sets.items()
        for left_out, units in excluded
        for kind in args.controls
    ]
    for name, modules, left_out, units, kind in cases:
        n_controls = "as many" if args.n_controls is None else args.n_controls
        needed = " as each test needs" if args.n_controls is None else ""
        say(f"{name}: {n_controls} controls by {kind}{needed}, excluding {left_out}")
        effects = module_effects(
            model,
            modules,
            tested,
            metric=args.metric,
            loss_on=args.loss_on,
            separator=args.separator,
            reference=reference,
            n_controls=args.n_controls,
            controls=kind,
            exclude=units,
            seed=args.seed,
            **options,
        )
        what = {"modules": name, "reading": str(modules.reading), "excluded": left_out}
        what |= {"metric": args.metric}
        what |= {} if args.loss_on == "prompt" else {"loss_on": args.loss_on}
        tables.append(effects.assign(**what))
        said = {"controls": kind, "verdict": verdict_sentence(effects, of=modules.holds)}
        rows.append(what | said | summary(effects))
        # Written after every test, so that an interruption loses at most one test.
        output.write_table("effects.csv", pd.concat(tables, ignore_index=True))
        done.append(name)
    table = pd.DataFrame(rows)
    output.write_table("summary.csv", table)
    # ``run`` is the function of the command, not an option.
    settings = {name: str(value) for name, value in vars(args).items() if name != "run"}
    output.write("settings.json", json.dumps(settings, indent=2).encode())
    say(f"\n{len(tested)} prompts. {_own_effects(pd.concat(tables, ignore_index=True))}")
    for row in rows:
        apart = f"{row['modules']} ({row['controls']} controls, excluded: {row['excluded']})"
        say(f"{apart}: {row['verdict']}")
    say(f"\nn_selective: p at most {SIGNIFICANT} after Benjamini and Hochberg over the modules.\n")
    say(table.drop(columns="verdict").round(3).to_string(index=False))
    say(f"\nWritten to {args.out}/: effects.csv, summary.csv, settings.json")


def _check(args: argparse.Namespace) -> None:
    """Validate options before anything is read."""
    for kind in args.controls:
        check_choice("controls", kind, KINDS)
    check_choice("metric", args.metric, METRICS)
    check_choice("loss_on", args.loss_on, LOSS_ON)
    check_loss_on(args.metric, args.loss_on)
    check_choice("positions", args.positions, POSITIONS)
    check_at_least("per_category", args.per_category, 1)
    if args.n_controls is not None:
        check_at_least("n_controls", args.n_controls, 1)
    check_at_least("n_shared", args.n_shared, 0)
    check_at_least("max_tokens", args.max_tokens, 2)
    check_batch_size(args.batch_size)
    check_seed(args.seed)


def _load(args: argparse.Namespace) -> dict[str, ModuleSet]:
    """Load the module sets, by the names of their files."""
    names = [path.stem for path in args.modules]
    if len(set(names)) < len(names):
        raise ModulesError(
            f"The module files should have different names; got {names}. Copy one to another name."
        )
    sets = dict(zip(names, map(ModuleSet.load, args.modules), strict=True))
    first = sets[names[0]]
    for name, modules in sets.items():
        if not modules.units.same_hooks(first.units):
            raise ModulesError(
                f"The module files should belong to one model; {name!r} belongs to another. Test "
                "it separately."
            )
    magnitudes = any(modules.reading.is_magnitude for modules in sets.values())
    if "magnitude" in args.controls and not magnitudes:
        raise ModulesError(
            "Controls of similar magnitude need modules that were discovered on magnitudes; no "
            "file has any. Add such a file, or leave 'magnitude' out."
        )
    return sets


def summary(effects: pd.DataFrame) -> dict[str, int | float]:
    """Summarise how selective the modules of a table of effects are.

    Args:
        effects: The table that ``module_effects`` returned.

    Returns:
        ``n_modules`` (modules whose own category was tested), ``n_selective`` (modules with that
        verdict: p at most 0.05 after Benjamini and Hochberg, and not shared by all),
        ``n_beyond_all`` (modules more selective than all their controls), ``n_shared_by_all``
        (modules that every category needs),
        ``n_raw`` (modules with a larger effect on their own category than all their controls), mean
        ``selectivity`` and ``control_selectivity``, and the
        diagonal dominance with its null.
    """
    per_module = effects.drop_duplicates("module").dropna(subset="selectivity")
    on_own = effects.loc[effects["own"].astype(bool)]

    def values(table: pd.DataFrame, name: str) -> np.ndarray:
        return table[name].to_numpy(dtype=np.float64)

    selectivities = values(per_module, "selectivity")
    # As tlm.verdicts has it.
    shared = [module in (shared_modules(effects) or ()) for module in per_module["module"]]
    is_selective = (values(per_module, "selectivity_p_bh") <= SIGNIFICANT) & (selectivities > 0)
    is_selective &= ~np.array(shared, dtype=bool)
    counts: dict[str, int | float] = {
        "n_modules": len(per_module),
        "n_selective": int(np.count_nonzero(is_selective)),
        "n_beyond_all": int(
            np.count_nonzero(selectivities > values(per_module, "selectivity_control_max"))
        ),
        "n_shared_by_all": len(shared_modules(effects) or ()),
        "n_raw": int(np.count_nonzero(values(on_own, "effect") > values(on_own, "control_max"))),
    }
    if not len(per_module):
        return counts
    whole = selectivity(effects)
    return counts | {
        "selectivity": float(selectivities.mean()),
        "control_selectivity": float(values(per_module, "selectivity_control_mean").mean()),
        "dominance": whole.dominance,
        "null_mean": whole.null_mean,
        "null_std": whole.null_std,
        "dominance_p": whole.p_value,
    }


def _prompts(
    args: argparse.Namespace, sets: dict[str, ModuleSet]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Choose prompts to test on, and others to find shared units on, that discovery did not see."""
    prompts = categorised_prompts(args)
    answers = reads_answers(args.metric, args.loss_on)
    if answers and "answer" not in prompts:
        given, remedy = f"--metric {args.metric}", "--metric loss"
        if args.metric == "loss":
            given, remedy = f"--loss-on {args.loss_on}", "--loss-on prompt"
        raise ModulesError(
            f"{given} needs prompts with an 'answer'; {args.prompts!r} has no such column. Add it, "
            f"or use {remedy}."
        )
    # Validated before the model loads.
    with_separator(prompts, args.separator, answers=answers)
    if answers:
        answers_of(prompts)
    new = unseen(args, prompts, sets)
    tested, others = drawn(new, [args.per_category] * 2, args.seed)
    if args.n_shared and not len(others):
        raise ModulesError(
            f"--n-shared needs prompts besides the {len(tested)} that are tested; there are none. "
            "Lower --per-category, or name a larger file."
        )
    return tested, others


def _check_categories(
    args: argparse.Namespace, sets: dict[str, ModuleSet], tested: pd.DataFrame
) -> None:
    """Raise if the prompts cannot measure the selectivity of any module."""
    for name, modules in sets.items():
        problem = no_common_category(list(modules), tested)
        if problem:
            raise ModulesError(f"{name}, on the prompts that discovery did not see: {problem}")
    tested_categories = set(tested["category"])
    if len(tested_categories) < 2:
        raise ModulesError(
            f"The prompts of {args.prompts!r} that discovery did not see should have at least two "
            f"categories, because selectivity compares them; all are {quoted(tested_categories)}. "
            "Add prompts of another category."
        )


def _own_effects(effects: pd.DataFrame) -> str:
    """Format each module's effect on its own category, and its selectivity."""
    on_own = effects.loc[effects["own"].astype(bool)]
    columns = ["modules", "excluded", "controls", "module", "category", "n_units", "effect"]
    columns += ["selectivity", "selectivity_control_mean", "selectivity_p_value"]
    shown = on_own[[*columns, "selectivity_p_bh", "shared_by_all"]].round(3)
    return (
        "Effect on the module's own category, and selectivity (this effect minus the mean\neffect "
        f"on the other categories):\n\n{shown.to_string(index=False)}"
    )
