"""Ranks of torch.distributed, forked from one process that has imported all that they need.

torchrun starts each rank anew, and most of a short test's time would go into imports.
"""

import json
import os
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

CONTEXT = get_context("forkserver")

NAMES = """
import numpy as np, torch
import torch.distributed as dist
import tl_modules as tlm
from tests.plain import Plain, digits
from tl_modules.activations import chunk_values, resumable, store_folder
from tl_modules.discovery import search, streamed as streamed_module
from tl_modules.discovery.streamed import Streamed
from tl_modules.runtime import processes as processes_module
from tl_modules.runtime.processes import process_group, wait_for_all
"""
"""What the lines that ranks run may name."""

RUN = """
chunk_values.CHUNK_BYTES, chunk_values.LEAST_PROMPTS = 1, 2  # a batch each
store_folder.VISIBLE_AFTER_S = 0.5
said = None
try:
{body}
except tlm.ModulesError as error:
    said = "refused: " + str(error)
"""


def script(body):
    """The lines of a body, as they run in each rank."""
    return RUN.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))


def said(folder, world, body):
    """What each rank says that runs a few lines in a folder, by rank."""
    CONTEXT.set_forkserver_preload(["tests.runtime.preloaded"])
    with TemporaryDirectory() as answers:
        ranks = [
            CONTEXT.Process(target=_run, args=(rank, world, str(folder), body, answers))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        paths = {rank: Path(answers) / str(rank) for rank in range(world)}
        found = {
            rank: json.loads(path.read_text()) for rank, path in paths.items() if path.exists()
        }
    assert found, [process.exitcode for process in ranks]
    return found


def _run(rank, world, folder, body, answers):
    names = {"os": os, "rank": rank}
    exec(NAMES, names)
    os.chdir(folder)
    dist = names["dist"]
    # A file, and no port that another test might take.
    dist.init_process_group(
        "gloo", init_method=f"file://{answers}/meet", rank=rank, world_size=world
    )
    exec(compile(script(body), "body", "exec"), names)
    (Path(answers) / str(rank)).write_text(json.dumps(names["said"]))
