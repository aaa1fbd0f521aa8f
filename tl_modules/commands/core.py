"""``tl-modules core``: find the causal core of each saved module, test it and describe it."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from tl_modules.causal.core_rankings import RANKINGS, By, check_rankings
from tl_modules.causal.core_sizes import check_share, core_sizes
from tl_modules.causal.cores import CausalCores, causal_cores, core_prompts
from tl_modules.causal.effects import module_effects
from tl_modules.causal.options import POSITIONS
from tl_modules.commands.interruption import on_interrupt
from tl_modules.commands.options import add_common, add_positions, add_prompts, say
from tl_modules.commands.outputs import OutputFolder
from tl_modules.commands.unseen import categorised_prompts, halves, unseen
from tl_modules.data.models import load_model
from tl_modules.errors import check_at_least, check_choice, check_seed
from tl_modules.interpret.unit_table import describe_units
from tl_modules.models.batch_sizes import check_batch_size
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.core_page import core_page
from tl_modules.sharing.shareable import FILE_KIND as MODULES

FILES = (
    *("summary.csv", "cores.safetensors", "cores.csv", "choice.csv", "units.csv", "effects.csv"),
    *("cores.html", "settings.json"),
)
_PAGE = "cores.html"
_OF_CORES = ["module", "category", "n_units", "share", "effect", "others", "selectivity"]
_INTERVAL = ["selectivity_ci_low", "selectivity_ci_high"]
_OF_TESTS = {
    "control_selectivity": "selectivity_control_mean",
    "p_value": "selectivity_p_value",
    "p_bh": "selectivity_p_bh",
    "n_controls": "n_controls",
}


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "core",
        help="find the few units of each module that matter, and test them",
        description="Find the core of each module: the smallest set of its units that does most of "
        "what ablating the whole module does. Some prompts that discovery did not see choose the "
        "cores, others test them beside random controls. Print a table, and write "
        "cores.safetensors (a module set), cores.csv (all sizes and rankings), choice.csv, "
        "units.csv (the cores' units), effects.csv, summary.csv and, with plotly, cores.html.",
    )
    parser.add_argument("modules", type=Path, help="a file that 'discover' wrote")
    parser.add_argument(
        "--out", type=Path, default=Path("out/core"), help="folder to write to (out/core)"
    )
    parser.add_argument(
        "--per-category",
        type=int,
        default=8,
        help="prompts per category: half of them choose the cores, the others test them (8)",
    )
    parser.add_argument(
        "--sizes",
        type=size,
        nargs="+",
        help="sizes of cores: numbers of units, or shares of the model's units such as 0.01 (ten "
        "shares from 0.001 to 1.0)",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.9,
        help="share of the largest selectivity that a core has to reach (0.9)",
    )
    parser.add_argument(
        "--rankings",
        nargs="+",
        default=list(RANKINGS),
        help=f"rankings to compare the cores with: {', '.join(map(repr, RANKINGS))} (all; "
        "'core' alone: with none)",
    )
    parser.add_argument(
        "--by", default="path", help=f"score of units: {', '.join(get_args(By))} (path)"
    )
    parser.add_argument(
        "--curve-controls",
        type=int,
        default=3,
        help="random sets per module, size and kind of control, for the curves (3)",
    )
    parser.add_argument(
        "--n-controls",
        type=int,
        help="controls that test each core (as many as each test needs, 19 to 999)",
    )
    parser.add_argument(
        "--n-described", type=int, default=20, help="units of each core to describe (20)"
    )
    add_positions(parser)
    add_prompts(parser, max_tokens=24)
    add_common(parser)
    parser.set_defaults(run=run)


def size(said: str) -> int | float:
    """A whole number of units, or a share."""
    return int(said) if said.isdecimal() else float(said)


def run(args: argparse.Namespace) -> None:
    """Validate, find, test, describe, write."""
    _check(args)
    modules = ModuleSet.load(args.modules)
    core_sizes(args.sizes, len(modules.units))
    prompts = unseen(args, categorised_prompts(args), {args.modules.stem: modules})
    choosing, testing = core_prompts(modules, *halves(prompts, args.per_category, args.seed))
    check_rankings(modules, choosing, args.rankings)
    output = OutputFolder(args, FILES)
    done: list[str] = []
    with on_interrupt(
        lambda: f"kept in {args.out}: {', '.join(done)}" if done else "nothing was written"
    ):
        _find(args, modules, choosing, testing, output, done)


def _check(args: argparse.Namespace) -> None:
    """Validate options before anything is read."""
    for ranking in args.rankings:
        check_choice("rankings", ranking, RANKINGS)
    check_choice("by", args.by, get_args(By))
    check_choice("positions", args.positions, POSITIONS)
    check_share(args.share)
    check_at_least("per_category", args.per_category, 2)
    check_batch_size(args.batch_size)
    for name in ("curve_controls", "n_described"):
        check_at_least(name, getattr(args, name), 0)
    if args.n_controls is not None:
        check_at_least("n_controls", args.n_controls, 1)
    check_at_least("max_tokens", args.max_tokens, 2)
    check_seed(args.seed)


def _find(
    args: argparse.Namespace,
    modules: ModuleSet,
    choosing: pd.DataFrame,
    testing: pd.DataFrame,
    output: OutputFolder,
    done: list[str],
) -> None:
    """Run all steps; ``done`` gets the name of each file that is written."""
    model = load_model(args.model, device_map=args.device_map, dtype=args.model_dtype)
    progress = not args.no_progress
    options: dict[str, Any] = {
        "positions": args.positions,
        "batch_size": args.batch_size,
        "max_tokens": args.max_tokens,
        "seed": args.seed,
        "progress": progress,
    }

    def write(name: str, table: pd.DataFrame) -> None:
        output.write_table(name, table)
        done.append(name)

    say(f"[1/3] Cores, chosen on {len(choosing)} prompts and measured on {len(testing)} others")
    found = causal_cores(
        *(model, modules, choosing, testing),
        sizes=args.sizes,
        share=args.share,
        rankings=args.rankings,
        by=args.by,
        n_controls=args.curve_controls,
        **options,
    )
    output.write_saved("cores.safetensors", MODULES, found.cores.parts())
    done.append("cores.safetensors")
    write("cores.csv", found.table)
    write("choice.csv", found.choice)
    page = core_page(found.table)
    if page is not None:
        output.write(_PAGE, page)
        done.append(_PAGE)
    say(f"[2/3] The first {args.n_described} units of each core")
    write("units.csv", _described(args, model, modules, found.units, choosing))
    say("[3/3] Each core beside random controls")
    # As in the search for cores, so that controls hold no unit that cores may not hold.
    exclude = None if modules.shared is None else modules.shared.units
    effects = module_effects(
        *(model, found.cores, testing),
        reference=modules,
        exclude=exclude,
        n_controls=args.n_controls,
        **options,
    )
    write("effects.csv", effects)
    table = summary(found, effects)
    write("summary.csv", table)
    # ``run`` is the function of the command, not an option.
    settings = {name: str(value) for name, value in vars(args).items() if name != "run"}
    output.write("settings.json", json.dumps(settings, indent=2).encode())
    _print(args, table)
    if find_spec("plotly") is None:
        say("Figures need plotly: pip install plotly")


def _described(
    args: argparse.Namespace,
    model: HookedModel,
    modules: ModuleSet,
    units: pd.DataFrame,
    prompts: pd.DataFrame,
) -> pd.DataFrame:
    """All units of the cores, the first of each with a description."""
    spans = dict(zip(modules.units.hook_names, modules.units.spans, strict=True))
    first = units.loc[units.groupby("module").cumcount() < args.n_described]
    first = first.loc[first["hook_name"].map(spans) == 1]  # attention heads have no polarity
    if not len(first):
        return units
    sizes = {"batch_size": args.batch_size, "max_tokens": args.max_tokens}
    described = describe_units(
        *(model, first, prompts, modules), **sizes, seed=args.seed, progress=not args.no_progress
    )
    return units.join(described.drop(columns=units.columns.tolist()))


def summary(found: CausalCores, effects: pd.DataFrame) -> pd.DataFrame:
    """What a reader wants to know of each core.

    Args:
        found: The cores.
        effects: What ``module_effects`` returned of them.

    Returns:
        One row per module: its core's numbers on the prompts that test, ``whole_selectivity`` (the
        whole module's), and the test of the core's selectivity against controls.
    """
    cores = found.table.loc[found.table["ranking"] == "core"]
    table = cores.loc[cores["chosen"], [*_OF_CORES, *_INTERVAL]]
    largest = cores.loc[cores.groupby("module")["n_units"].idxmax(), ["module", "selectivity"]]
    whole = pd.DataFrame({"module": largest["module"], "whole_selectivity": largest["selectivity"]})
    tests = effects.drop_duplicates("module")
    columns = {name: tests[column] for name, column in _OF_TESTS.items()}
    return table.merge(whole).merge(pd.DataFrame({"module": tests["module"], **columns}))


def _print(args: argparse.Namespace, table: pd.DataFrame) -> None:
    """Print the short table."""
    pairs = zip(*(table[name] for name in _INTERVAL), strict=True)
    shown = table.round(3).assign(
        share=table["share"].map("{:.1%}".format),
        selectivity_ci_low=[f"{low:.2f}..{high:.2f}" for low, high in pairs],
    )
    shown = shown.rename(columns={"selectivity_ci_low": "(95 %)"}).drop(columns=_INTERVAL[1])
    say(
        "\nAblating each core, in nats per token: effect on the module's own category, mean effect "
        "on\nthe others, selectivity (their difference), and its test against the core's controls\n"
    )
    say(shown.to_string(index=False))
    names = [name for name in FILES if name != _PAGE or find_spec("plotly") is not None]
    say(f"\nWritten to {args.out}/: {', '.join(names)}")
