"""``tl-modules evaluate``: compare IterD with the paper's baselines in one table."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from tl_modules.activations.matrix import FILE_KIND, ActivationMatrix
from tl_modules.activations.reading import Reading
from tl_modules.activations.store import ActivationStore
from tl_modules.activations.store_folder import delete_store
from tl_modules.commands.collect import check_prompt_options, partial_folder, resumed_matrix
from tl_modules.commands.interruption import RESUME, on_interrupt
from tl_modules.commands.options import (
    add_common,
    add_discovery_device,
    add_prompts,
    prompts_named,
    say,
)
from tl_modules.commands.outputs import OutputFolder
from tl_modules.discovery.on_device import checked_device
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.evaluation.comparison import (
    ALL_METHODS,
    COMPARED_METHODS,
    compare_methods,
    split_by_category,
    summarise,
)
from tl_modules.tables.labels import column_hint
from tl_modules.tables.prompt_frames import categories_of

_ACTS = "acts.safetensors"
_SHOWN = {
    "L": "{:,.0f}",
    "xi": "{:.3f}",
    "B": "{:,.0f}",
    "svc_accuracy": "{:.3f}",
    "svc_macro_f1": "{:.3f}",
    "lr_accuracy": "{:.3f}",
    "lr_macro_f1": "{:.3f}",
    "ari": "{:.3f}",
    "nmi": "{:.3f}",
    "halves_ari": "{:.3f}",
    "truth_ari": "{:.3f}",
    "seconds": "{:.1f}",
    "peak_mb": "{:,.0f}",
}


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "evaluate",
        help="compare IterD with the baselines",
        description="Split prompts 80/20 by category, discover modules on the larger part by "
        "IterD and by each baseline, and tabulate the objective, the accuracy with which module "
        "means predict held-out prompts' categories, the agreement with the categories, seconds "
        "and memory. The command writes evaluation.csv (mean and standard deviation over the "
        "seeds), runs.csv (every run) and, if it collected activations, acts.safetensors.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/evaluate"), help="folder to write to (out/evaluate)"
    )
    parser.add_argument(
        "--acts",
        type=Path,
        help="saved activations (file or store's folder); without it, activations are collected",
    )
    parser.add_argument(
        "-k",
        "--n-modules",
        type=int,
        nargs="+",
        default=[5, 10, 15, 20],
        help="numbers of modules (5 10 15 20)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(COMPARED_METHODS),
        help="methods to compare (all but leiden)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        help="CSV file whose column 'owner' has each unit's true module, or -1",
    )
    parser.add_argument("--n-seeds", type=int, default=3, help="runs per method and K (3)")
    add_discovery_device(parser)
    add_prompts(parser, max_tokens=128)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Collect if needed, compare, print, write."""
    for method in args.methods:
        check_choice("methods", method, ALL_METHODS)
    check_at_least("n_modules", min(args.n_modules), 2)
    check_at_least("n_seeds", args.n_seeds, 1)
    check_seed(args.seed)
    check_seed(args.seed + args.n_seeds - 1)
    checked_device(args.discovery_device)
    names = ["evaluation.csv", "runs.csv"]
    source = _saved(args.acts) if args.acts else _prompts(args)
    output = OutputFolder(args, names if args.acts else [*names, _ACTS])
    acts = _collected(args, source, output) if isinstance(source, pd.DataFrame) else source
    n_runs = [0]  # a list, because _compare changes it and the message on Ctrl-C reads it
    acts_are_kept = "" if args.acts else f"; pass --acts {args.out / _ACTS} to skip collecting"

    def advice() -> str:
        kept = f"runs.csv holds {n_runs[0]} runs" if n_runs[0] else "no run was finished"
        return f"{kept}, and the same command starts over{acts_are_kept}"

    with on_interrupt(advice):
        _compare(args, acts, output, n_runs)


def _compare(
    args: argparse.Namespace, acts: ActivationMatrix, output: OutputFolder, n_runs: list[int]
) -> None:
    """Compare the methods, print, write; ``n_runs[0]`` counts the runs on disk."""

    # Written after every run, so that an interrupted evaluation loses at most one run.
    def keep(runs: pd.DataFrame) -> None:
        output.write_table("runs.csv", runs)
        n_runs[0] = len(runs)

    truth = None if args.truth is None else _owners(args.truth)
    train, test = split_by_category(acts, seed=args.seed)
    say(f"{len(train.samples):,} prompts to discover on, {len(test.samples):,} held out")
    runs = compare_methods(
        train,
        test,
        args.n_modules,
        methods=args.methods,
        truth=truth,
        n_seeds=args.n_seeds,
        seed=args.seed,
        device=args.discovery_device,
        progress=not args.no_progress,
        on_run=keep,
    )
    table = summarise(runs)
    flat = table.copy()
    flat.columns = ["_".join(column) for column in table.columns]
    output.write_table("evaluation.csv", flat.reset_index())
    say(
        f"\nMean and, after +-, standard deviation over {args.n_seeds} seeds. Accuracy and "
        "macro-F1 on the held-out prompts;\nARI and NMI of the training prompts' labels against "
        "their categories; halves_ari: agreement of the units' labels between halves of these "
        "prompts;\n"
        "truth_ari: agreement with --truth; peak_mb: increase of resident memory.\n"
    )
    say(_shown(table).to_string())
    say(f"\nWritten to {args.out}/: evaluation.csv, runs.csv")


def _owners(path: Path) -> Int[np.ndarray, " units"]:
    """Read the units' true modules."""
    try:
        return pd.read_csv(path)["owner"].to_numpy(dtype=np.int64)
    except (OSError, KeyError, ValueError, OverflowError) as error:
        raise ModulesError(
            f"--truth should be a CSV file with a whole number per unit in the column 'owner'; "
            f"{str(path)!r} is not ({error}). Write one row per unit, in the units' order."
        ) from error


def _saved(path: Path) -> ActivationMatrix:
    """Load the saved activations from a file or a store."""
    acts = ActivationStore(path).matrix() if path.is_dir() else ActivationMatrix.load(path)
    split_by_category(acts)  # validates the categories before a folder is made
    return acts


def _prompts(args: argparse.Namespace) -> pd.DataFrame:
    """Read the prompts, and validate them before a folder is made and the model loads."""
    prompts = prompts_named(args.prompts, args.prompt_column, args.category_column)
    if "category" not in prompts or bool(prompts["category"].isna().to_numpy().any()):
        remedy = "Fill in the column 'category'"
        if "category" not in prompts:
            remedy = column_hint(list(prompts.columns))
        raise ModulesError(
            f"Every prompt of {args.prompts!r} should have a category. {remedy}, or name another "
            "column with --category-column."
        )
    sizes = pd.Series(categories_of(prompts)).value_counts()
    # As split_by_category does later: a fifth of each category, at least one, is held out.
    n_train = len(prompts) - sizes.floordiv(5).clip(lower=1).sum()
    if max(args.n_modules) > n_train:
        raise ModulesError(
            f"n_modules should be at most the number of prompts to discover on, about {n_train}; "
            f"got {max(args.n_modules)}. Lower it, or add prompts."
        )
    check_prompt_options(args, Reading())
    return prompts


def _collected(
    args: argparse.Namespace, prompts: pd.DataFrame, output: OutputFolder
) -> ActivationMatrix:
    """Collect the activations, and save them."""
    partial = partial_folder(args.out / _ACTS)
    with on_interrupt(lambda: RESUME):
        acts = resumed_matrix(args, prompts, Reading(), partial)
    output.write_saved(_ACTS, FILE_KIND, acts.parts())
    delete_store(partial)
    say(acts)
    return acts


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Format the table as text."""
    shown = pd.DataFrame(index=table.index)
    for name, form in _SHOWN.items():
        if name not in table:
            continue
        means, deviations = (table[name, part] for part in ("mean", "std"))
        shown[name] = [
            form.format(mean) + ("" if pd.isna(std) else f" +-{form.format(std)}")
            for mean, std in zip(means, deviations, strict=True)
        ]
    return shown
