"""``tl-modules discover``: find modules in saved activations and write them."""

import argparse
from pathlib import Path
from typing import Any

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import NORMALISATIONS
from tl_modules.activations.store import ActivationStore
from tl_modules.commands.interruption import on_interrupt
from tl_modules.commands.options import add_common, add_discovery_device, add_max_memory, say
from tl_modules.commands.outputs import OutputFile
from tl_modules.commands.processes import check_alone, is_first, joined
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.on_device import checked_device
from tl_modules.discovery.search import METHODS
from tl_modules.errors import ModulesError, check_choice
from tl_modules.evaluation.comparison import split_by_category
from tl_modules.sharing.shareable import FILE_KIND


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "discover",
        help="find the modules of saved activations",
        description="Find the modules of an activation matrix that 'collect' wrote, or of an "
        "activation store, print a table of them, and write them to one safetensors file.",
    )
    parser.add_argument("acts", type=Path, help="file that 'collect' wrote, or a store's folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--table", type=Path, help="another file, to write the table to: table.csv, or .json"
    )
    parser.add_argument("-k", "--n-modules", type=int, default=10, help="number of modules (10)")
    parser.add_argument(
        "--method",
        help="topics_first, which favours no size of modules, or ulcmod, the paper's objective "
        "(topics_first; ulcmod if --n-starts or --n-kicks is given)",
    )
    parser.add_argument(
        "--n-starts", type=int, help="ulcmod: number of starts; the best is kept (1)"
    )
    parser.add_argument("--n-kicks", type=int, help="ulcmod: number of kicks of the best start (0)")
    parser.add_argument(
        "--held-out",
        type=float,
        help="share of each category's samples to hold out of discovery, so that 'test' can use "
        "them",
    )
    parser.add_argument(
        "--normalise",
        default="zscore",
        help=f"the normalisation of each unit: {', '.join(NORMALISATIONS)} (zscore)",
    )
    add_discovery_device(parser)
    add_max_memory(parser)
    add_common(parser)
    parser.set_defaults(run=run, may_share=True)


def run(args: argparse.Namespace) -> None:
    """Discover, print, write."""
    if args.acts.is_file():
        check_alone()
    with on_interrupt(lambda: "nothing was written"), joined() as distributed:
        _run(args, distributed)


def _run(args: argparse.Namespace, distributed: bool) -> None:
    """Discover in every process; print and write in the first."""
    say(f"Reading {args.acts}")
    output = OutputFile(args, args.table)
    if args.method is not None:
        check_choice("method", args.method, METHODS)
    check_choice("normalise", args.normalise, NORMALISATIONS)
    device = checked_device(args.discovery_device)
    if device is not None and args.acts.is_dir():
        raise ModulesError(
            f"--discovery-device needs a file that 'collect' wrote; {str(args.acts)!r} is a store, "
            "which is streamed through the CPU. Leave --discovery-device out."
        )
    if args.normalise != "zscore" and args.acts.is_dir():
        raise ModulesError(
            f"--normalise should be zscore for a store, which is z-scored as it is read; got "
            f"{args.normalise}. Leave --normalise out."
        )
    # A store stays on disk, and discovery streams over it; a file is read into memory.
    acts = ActivationStore(args.acts) if args.acts.is_dir() else ActivationMatrix.load(args.acts)
    if args.held_out is not None:
        if isinstance(acts, ActivationStore):
            raise ModulesError(
                f"--held-out needs a file that 'collect' wrote; {str(args.acts)!r} is a store, "
                "over which discovery streams as a whole. Collect the held-out prompts separately."
            )
        acts, _ = split_by_category(acts, test_share=args.held_out, seed=args.seed)
    say(acts)
    if isinstance(acts, ActivationMatrix):
        acts = acts.normalise(args.normalise)
    modules = discover(
        acts,
        args.n_modules,
        method=args.method,
        seed=args.seed,
        n_starts=args.n_starts,
        n_kicks=args.n_kicks,
        device=device,
        distributed=distributed,
        max_memory=args.max_memory,
        progress=not args.no_progress,
    )
    if not is_first():
        return
    table = modules.to_frame()
    output.write(FILE_KIND, modules.parts(), table)
    say(modules)
    if modules.starts is not None and len(modules.starts) > 1:
        say(f"\nStarts:\n{modules.starts.to_string(index=False)}")
    beside = "" if args.table is None else f", and the table to {args.table}"
    say(f"\n{table.to_string(index=False)}\n\nWritten to {args.out}{beside}")
