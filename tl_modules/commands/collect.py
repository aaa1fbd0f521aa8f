"""``tl-modules collect``: run prompts and write an activation matrix or store."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.activations.collection import collect
from tl_modules.activations.manifest import DTYPES
from tl_modules.activations.matrix import FILE_KIND, ActivationMatrix
from tl_modules.activations.reading import AGGREGATES, TOKENS, WEIGHTS, Reading
from tl_modules.activations.resumable_matrix import collect_resumably
from tl_modules.activations.store import ActivationStore
from tl_modules.activations.store_folder import check_folder, delete_store
from tl_modules.activations.stretches import check_chunk_tokens
from tl_modules.commands.interruption import RESUME, on_interrupt
from tl_modules.commands.options import (
    add_common,
    add_max_memory,
    add_prompts,
    add_separator,
    prompts_named,
    say,
)
from tl_modules.commands.outputs import OutputFile, check_table, table_bytes, write_table
from tl_modules.commands.processes import check_alone, is_first, joined, one_per_machine_first
from tl_modules.data.models import load_model
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.models.answers import answers_of, with_separator
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LOSS_ON
from tl_modules.models.sites import SITES, SiteName, site_names
from tl_modules.runtime.memory import budget


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "collect",
        help="run prompts through a model and save their activations",
        description="Run prompts through a model and write each unit's mean |activation| on each "
        "prompt to one safetensors file, which 'discover' and 'evaluate' read, or to an activation "
        "store. The same command resumes an interrupted run: until the file is complete, the "
        "values so far are in the folder OUT.partial.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write, acts.safetensors; a name without an ending is a folder for a store",
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="write an activation store into the folder --out, whatever its name",
    )
    parser.add_argument(
        "--samples",
        type=Path,
        help="another file, to write the samples to: samples.csv, or .json",
    )
    parser.add_argument(
        "--dtype",
        help=f"the dtype of a store's values: {', '.join(DTYPES)} (float16; float32 for "
        "a --weight with gradients)",
    )
    parser.add_argument(
        "--units", default="mlp", help=f"the site: {', '.join(SITES)}, or several joined by + (mlp)"
    )
    parser.add_argument(
        "--weight",
        default="activation",
        help="the kind of value: 'activation' (mean |a|), 'attribution' (mean |a x gradient of "
        "the loss|), 'top_logit' (of the top logit), 'effect' (root mean square over random probes "
        "of the logits), or 'activation_effect' (geometric mean of |a| and the effect)",
    )
    parser.add_argument(
        "--loss-on",
        default="prompt",
        help=f"tokens whose loss --weight attribution takes: {', '.join(LOSS_ON)}; the last two "
        "read a column 'answer' (prompt)",
    )
    parser.add_argument(
        "--probe-seed",
        type=int,
        default=0,
        help="draws the probes of --weight effect and activation_effect (0)",
    )
    parser.add_argument(
        "--aggregate",
        default="mean",
        help=f"how a prompt's tokens are aggregated: {', '.join(AGGREGATES)} (mean)",
    )
    parser.add_argument(
        "--tokens", default="all", help=f"which tokens count: {', '.join(TOKENS)} (all)"
    )
    parser.add_argument(
        "--chat", action="store_true", help="put prompts into the tokenizer's chat template"
    )
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help="the system prompt of --chat (the template's own, if it has one)",
    )
    add_separator(parser)
    add_prompts(parser, max_tokens=128)
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        help="run longer prompts by this many tokens at a time (each prompt in one pass)",
    )
    add_max_memory(parser)
    add_common(parser)
    parser.set_defaults(run=run, may_share=True)


def run(args: argparse.Namespace) -> None:
    """Collect and write."""
    if not _is_store(args):
        check_alone()
    with on_interrupt(lambda: RESUME), joined() as distributed:
        _run(args, distributed)


def _is_store(args: argparse.Namespace) -> bool:
    """Whether ``--out`` is a store's folder.

    Raises:
        ModulesError: If its ending fits neither a file nor a store.
    """
    if args.store or not args.out.suffix:
        return True
    if args.out.suffix.lower() != ".safetensors":
        raise ModulesError(
            f"--out should end in .safetensors, or be a store's folder without an ending; got "
            f"{str(args.out)!r}. Rename it, or pass --store for a folder of this name."
        )
    return False


def _run(args: argparse.Namespace, distributed: bool) -> None:
    """Collect and write; every process runs this."""
    _check_options(args)
    reading = Reading(
        weight=args.weight,
        aggregate=args.aggregate,
        tokens=args.tokens,
        chat=args.chat,
        probe_seed=args.probe_seed,
        system=args.system,
        loss_on=args.loss_on,
    )
    is_store, partial = _is_store(args), partial_folder(args.out)
    # All checks come before the model loads, which takes minutes for a large model.
    check_folder(args.out if is_store else partial)
    if is_store:
        check_table(args, args.samples, lambda path: _is_of_store(args.out, path))
    output = None if is_store else OutputFile(args, args.samples)
    prompts = prompts_named(args.prompts, args.prompt_column, args.category_column)
    answers = reading.reads_answers
    option, value = (
        ("--tokens", "answer") if args.tokens == "answer" else ("--loss-on", args.loss_on)
    )
    if answers and "answer" not in prompts:
        raise ModulesError(
            f"{option} {value} needs prompts with an 'answer'; {args.prompts!r} has no such "
            f"column. Add it, or leave {option} out."
        )
    prompts = with_separator(prompts, args.separator, answers=answers, chat=args.chat)
    if answers:
        answers_of(prompts)
        say(f"Prompts are not cut: their answers are read ({option} {value})")
    check_prompt_options(args, reading)
    check_chunk_tokens(args.chunk_tokens, reading)
    if output is None:
        _collect_store(args, prompts, reading, distributed)
        return
    acts = resumed_matrix(
        *(args, prompts, reading, partial),
        units=args.units,
        max_memory=args.max_memory,
        chunk_tokens=args.chunk_tokens,
    )
    output.write(FILE_KIND, acts.parts(), acts.samples)
    delete_store(partial)  # only after the file is complete
    say(acts)
    beside = "" if args.samples is None else f", and its samples to {args.samples}"
    say(f"Written to {args.out}{beside}")


def _check_options(args: argparse.Namespace) -> None:
    """Validate options before anything is read."""
    check_choice("--weight", args.weight, WEIGHTS)
    check_choice("--aggregate", args.aggregate, AGGREGATES)
    check_choice("--tokens", args.tokens, TOKENS)
    check_choice("--loss-on", args.loss_on, LOSS_ON)
    if args.dtype is not None:
        check_choice("--dtype", args.dtype, DTYPES)
        if not _is_store(args):
            raise ModulesError(
                f"--dtype needs a store; {str(args.out)!r} is a file, whose values are float32. "
                "Leave --dtype out, or pass --store."
            )
    budget(args.max_memory)
    for site in site_names(args.units):
        if site not in SITES:
            raise ModulesError(
                f"The site {site!r} needs SAEs, which the command line cannot load. Use "
                "tlm.with_saes in Python."
            )
        if args.aggregate == "fraction_active" and SITES[site].span:
            raise ModulesError(
                f"--aggregate fraction_active needs units that can be inactive; those of {site!r} "
                "never are. Pass another --aggregate, or --units attn_z."
            )


def check_prompt_options(args: argparse.Namespace, reading: Reading) -> None:
    """Validate numbers of tokens and prompts before the model loads.

    Raises:
        ModulesError: If a number is too small.
    """
    # Attributions need a loss, and a loss needs a second token to predict.
    check_at_least("--max-tokens", args.max_tokens, 2 if reading.weight == "attribution" else 1)
    if args.batch_size != "auto":
        check_at_least("--batch-size", args.batch_size, 1)


def partial_folder(out: Path) -> Path:
    """Return the folder that holds activations until the output file is complete.

    Raises:
        ModulesError: If the path has no name, such as ``.`` or ``/``.
    """
    if not out.name:
        raise ModulesError(
            f"--out should name a file, or a folder for a store; got {str(out)!r}. "
            "acts.safetensors is usual."
        )
    return out.with_name(f"{out.name}.partial")


def resumed_matrix(
    args: argparse.Namespace,
    prompts: pd.DataFrame,
    reading: Reading,
    partial: Path,
    units: SiteName | str = "mlp",
    max_memory: str | None = None,
    chunk_tokens: int | None = None,
) -> ActivationMatrix:
    """Collect the activations that the options describe; the caller deletes the partial folder."""
    check_folder(partial)
    return collect_resumably(
        _loaded(args, prompts),
        prompts,
        partial,
        reading,
        units=units,
        batch_size=args.batch_size,
        max_tokens=_cut(args, reading),
        chunk_tokens=chunk_tokens,
        max_memory=max_memory,
        progress=not args.no_progress,
    )


def _is_of_store(folder: Path, table: Path) -> bool:
    """Whether a table is the one that a run writes for the complete store in a folder."""
    try:
        return table.read_bytes() == table_bytes(table, ActivationStore(folder).samples)
    except (ModulesError, OSError):
        return False


def _collect_store(
    args: argparse.Namespace, prompts: pd.DataFrame, reading: Reading, distributed: bool
) -> None:
    store = collect(
        _loaded(args, prompts),
        prompts,
        units=args.units,
        batch_size=args.batch_size,
        max_tokens=_cut(args, reading),
        chunk_tokens=args.chunk_tokens,
        **reading.to_dict(),
        store=args.out,
        dtype=args.dtype or ("float32" if reading.needs_gradients else "float16"),
        distributed=distributed,
        max_memory=args.max_memory,
        progress=not args.no_progress,
    )
    say(store)
    beside = ""
    if args.samples is not None:
        beside = f", and its samples to {args.samples}"
        if is_first():  # several processes would write the same file at once
            write_table(args.samples, store.samples)
    say(f"Written to {args.out}/{beside}")


def _loaded(args: argparse.Namespace, prompts: pd.DataFrame) -> HookedModel:
    with one_per_machine_first():
        model = load_model(args.model, device_map=args.device_map, dtype=args.model_dtype)
    say(f"Collecting activations over {len(prompts):,} prompts")
    return model


def _cut(args: argparse.Namespace, reading: Reading) -> int | None:
    """Return the number of tokens to cut prompts at; a cut could remove the answer."""
    return None if reading.reads_answers else args.max_tokens
