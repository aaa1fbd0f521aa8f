"""``tl-modules report``: write a page about a folder's modules."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.commands.interruption import on_interrupt
from tl_modules.commands.options import add_common, say
from tl_modules.commands.outputs import check_outputs, is_signed, make_folder, signed
from tl_modules.data.models import load_model
from tl_modules.errors import ModulesError, check_seed
from tl_modules.interpret.labels import with_labels
from tl_modules.interpret.topics import with_topics
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.page import ReportPage
from tl_modules.saving.files import write_bytes

_CORES = ("cores.safetensors", "cores.csv", "core_units.csv")


@dataclass(frozen=True, eq=False)
class SavedCores:
    """What ``causal_cores`` returned, read from files."""

    cores: ModuleSet
    table: pd.DataFrame
    units: pd.DataFrame


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "report",
        help="write a page of saved modules, their effects and activations",
        description="Write one HTML page about a folder's modules: their topics, their layers and "
        "the effects of ablating them. The page needs no network. The command reads "
        "modules.safetensors and, if they exist, effects.csv (of 'demo' or 'test'), "
        "acts.safetensors (or the store acts/), which some figures need, and what 'demo' found of "
        "cores: cores.safetensors, cores.csv, core_units.csv and core_effects.csv.",
    )
    parser.add_argument("dir", type=Path, help="the folder")
    parser.add_argument("--out", type=Path, help="the HTML file (report.html in the folder)")
    parser.add_argument(
        "--modules", type=Path, help="the modules' file (modules.safetensors in the folder)"
    )
    parser.add_argument(
        "--model",
        help="a model, named as for 'collect', to find missing topics, colour the top "
        "prompts' tokens, and write texts with and without each module",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="choose a label for each module, and score it on the activations of prompts that "
        "'discover' held out",
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Validate the inputs and the output, then write."""
    out = args.out or args.dir / "report.html"
    if not args.dir.is_dir():
        raise ModulesError(
            f"There is no folder {str(args.dir)!r}. Name the folder that 'discover' wrote to."
        )
    path = args.modules or args.dir / "modules.safetensors"
    if not path.is_file():
        raise ModulesError(
            f"{str(args.dir)!r} should hold modules.safetensors. Run 'tl-modules discover "
            f"acts.safetensors --out {args.dir / 'modules.safetensors'}', or name a file with "
            "--modules."
        )
    check_seed(args.seed)
    check_outputs(args, {out: lambda path: is_signed(path, args.command)}, _files(args.dir))
    make_folder(out.parent)
    with on_interrupt(lambda: "nothing was written"):
        _write(args, path, out)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that a page is made from."""
    names = ("modules.safetensors", "effects.csv", "core_effects.csv", "acts.safetensors")
    return [folder / name for name in (*names, *_CORES)]


def _write(args: argparse.Namespace, path: Path, out: Path) -> None:
    """Read the folder, write the page, and print its path."""
    modules = ModuleSet.load(path)
    effects = _effects(args.dir / "effects.csv", path.stem)
    acts = _activations(args.dir)
    model = None if args.model is None else load_model(args.model)
    if args.labels:
        modules = _labelled(args, modules, acts, model)
    of_cores = _effects(args.dir / "core_effects.csv", path.stem)
    cores = _cores(args.dir)
    progress = not args.no_progress
    page = ReportPage(modules, effects, acts, model, args.seed, progress, of_cores, cores)
    write_bytes(out, signed(page.html(), args.command))
    parts = {"effects.csv": effects, "activations": acts, "a model": model}
    missing = [name for name, part in parts.items() if part is None]
    say(f"Written to {out}" + (f" (without {', '.join(missing)})" if missing else ""))


def _labelled(
    args: argparse.Namespace,
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore | None,
    model: HookedModel | None,
) -> ModuleSet:
    """Choose and score labels on the samples that discovery did not see."""
    others = None if acts is None else _held_out(modules, acts)
    if others is None:
        raise ModulesError(
            "--labels needs activations of prompts that discovery did not see, in acts.safetensors "
            "or acts/; there are none. Hold some out: 'tl-modules discover --held-out 0.5'."
        )
    options: dict[str, Any] = {"seed": args.seed, "progress": not args.no_progress}
    if modules.topics is None:
        modules = with_topics(modules, model, **options)
    return with_labels(modules, others, **options)


def _held_out(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> ActivationMatrix | None:
    """The activations of prompts that are not among the modules' samples; None without any."""
    if "prompt" not in acts.samples or "prompt" not in modules.samples:
        return None
    rows = np.flatnonzero(~acts.samples["prompt"].isin(list(modules.samples["prompt"])))
    if not len(rows):
        return None
    return acts.select(rows) if isinstance(acts, ActivationMatrix) else acts.matrix(rows)


def _cores(folder: Path) -> SavedCores | None:
    """Read the folder's cores, if all of their files are there."""
    paths = [folder / name for name in _CORES]
    if not all(path.is_file() for path in paths):
        return None
    cores, *tables = paths
    return SavedCores(ModuleSet.load(cores), *map(_table, tables))


def _effects(path: Path, stem: str) -> pd.DataFrame | None:
    """Read the folder's table of effects, and select the rows of this file's modules."""
    if not path.is_file():
        return None
    effects = _table(path)
    if "modules" not in effects:  # 'demo' tests one set of modules, 'test' may test several
        return effects
    of_set = effects.loc[effects["modules"].astype(str) == stem]
    return of_set if len(of_set) else None


def _table(path: Path) -> pd.DataFrame:
    """Read a CSV file."""
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"category": str})
    except (ValueError, OSError) as error:
        raise ModulesError(
            f"{str(path)!r} should be a CSV file; it cannot be parsed ({error}). Run the command "
            "that wrote it again."
        ) from error


def _activations(folder: Path) -> ActivationMatrix | ActivationStore | None:
    """Load the folder's activations from a file or a store, if there are any."""
    if (folder / "acts.safetensors").is_file():
        return ActivationMatrix.load(folder / "acts.safetensors")
    if (folder / "acts").is_dir():
        return ActivationStore(folder / "acts")
    return None
