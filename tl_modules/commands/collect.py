"""``tl-modules collect``: prompts to an activation matrix on disk."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.activations.collect import collect
from tl_modules.activations.manifest import DTYPES
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.answers import answers_of, with_separator
from tl_modules.commands.options import (
    add_common,
    add_max_memory,
    add_prompts,
    add_separator,
    check_file,
    read_prompts,
    say,
)
from tl_modules.commands.ranks import check_alone, joined, one_a_machine_first
from tl_modules.data.models import load_model
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.files import write_bytes
from tl_modules.memory import budget
from tl_modules.reading import AGGREGATES, TOKENS, Reading
from tl_modules.units import SITES, site_names


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "collect",
        help="run prompts through a model and save their activations",
        description="Run prompts through a model and write each unit's mean |activation| on each "
        "prompt to one safetensors file, which 'discover' and 'evaluate' read.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write, acts.safetensors, or a folder",
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="write an activation store into the folder --out, in chunks as the prompts run; the "
        "same command goes on where it was stopped",
    )
    parser.add_argument(
        "--dtype", default="float16", help=f"the store's values: {', '.join(DTYPES)} (float16)"
    )
    parser.add_argument(
        "--units", default="mlp", help=f"the site: {', '.join(SITES)}, or several joined by + (mlp)"
    )
    parser.add_argument(
        "--weight",
        default="activation",
        help="what a value is: 'activation' (mean |a|) or 'attribution' (mean |a x gradient of the "
        "loss|)",
    )
    parser.add_argument(
        "--aggregate",
        default="mean",
        help=f"what becomes of a prompt's tokens: {', '.join(AGGREGATES)} (mean)",
    )
    parser.add_argument(
        "--tokens", default="all", help=f"which tokens count: {', '.join(TOKENS)} (all)"
    )
    parser.add_argument(
        "--chat", action="store_true", help="put prompts into the tokenizer's chat template"
    )
    add_separator(parser)
    add_prompts(parser, max_tokens=128)
    add_max_memory(parser)
    add_common(parser)
    parser.set_defaults(run=run, may_share=True)


def run(args: argparse.Namespace) -> None:
    """Collect and write."""
    if not args.store:
        check_alone()
    with joined() as distributed:
        _run(args, distributed)


def _run(args: argparse.Namespace, distributed: bool) -> None:
    """Collect and write, on every rank."""
    check_choice("dtype", args.dtype, DTYPES)
    budget(args.max_memory)
    if not args.store:
        check_file(args.out)
    reading = Reading(args.weight, args.aggregate, args.tokens, args.chat)
    for site in site_names(args.units):
        if site not in SITES:
            raise ModulesError(
                f"The site {site!r} needs SAEs, which the command line does not load. Use "
                "tlm.with_saes in Python."
            )
        if args.aggregate == "fraction_active" and SITES[site].span:
            raise ModulesError(
                f"--aggregate fraction_active needs units that can be inactive; those of {site!r} "
                "never are. Use another aggregate, or attn_z."
            )
    prompts = read_prompts(args.prompts)
    with_separator(prompts, args.separator, answers=args.tokens == "answer", chat=args.chat)
    if args.tokens == "answer":
        answers_of(prompts)
        say("Prompts are not cut: their answers count (--tokens answer)")
    into: dict[str, Any] = {"separator": args.separator, "max_memory": args.max_memory}
    if args.store:
        into |= {"store": args.out, "dtype": args.dtype, "distributed": distributed}
        _collected(args, prompts, args.units, reading, **into)
        say(f"Written to {args.out}/")
        return
    acts = _collected(args, prompts, args.units, reading, **into)
    acts.save(args.out)
    beside = args.out.with_suffix(".csv")
    write_bytes(beside, acts.samples.to_csv(index=False).encode(errors="replace"))
    say(f"Written to {args.out}, and its samples to {beside}")


def prompts_to_matrix(
    args: argparse.Namespace,
    prompts: pd.DataFrame,
    units: str = "mlp",
    reading: Reading | None = None,
) -> ActivationMatrix:
    """The activations that the options ask for; everything is checked before the model loads."""
    return _collected(args, prompts, units, Reading() if reading is None else reading)


def _collected(
    args: argparse.Namespace, prompts: pd.DataFrame, units: str, reading: Reading, **into: Any
) -> Any:
    """A matrix, or a store."""
    # The loss needs a token to predict.
    check_at_least("max_tokens", args.max_tokens, 1 if reading.weight == "activation" else 2)
    check_at_least("batch_size", args.batch_size, 1)
    with one_a_machine_first():
        model = load_model(args.model, device_map=args.device_map, dtype=args.model_dtype)
    say(f"Collecting activations over {len(prompts):,} prompts")
    acts = collect(
        model,
        prompts,
        units=units,
        batch_size=args.batch_size,
        max_tokens=None if reading.tokens == "answer" else args.max_tokens,
        **reading.to_dict(),
        **into,
        progress=not args.no_progress,
    )
    say(acts)
    return acts
