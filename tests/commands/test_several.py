"""Commands that several processes run together, on the real model."""

import json
import subprocess
import sys

import pytest

from tests.activations.test_resume import contents
from tests.conftest import LEGACY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LEGACY, reason="minutes long, and it needs nothing of TransformerLens 3"),
]
MODULE = ("-m", "tl_modules")
ENGINES = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", *MODULE),
    "accelerate": (  # it starts several processes only where it is told of GPUs; they run anywhere
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", *MODULE),
    ),
}


def ran(folder, *words):
    """What a command printed that ended well."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 prompts, which make three chunks, and the store that one process writes."""
    folder = tmp_path_factory.mktemp("several")
    topics = ["the sea and", "one plus", "def function", "a red house", "why do people"]
    rows = [
        {"prompt": f"{topic} number {number}", "category": topic}
        for number in range(40)
        for topic in topics
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran(folder, *collect("one"))
    return folder


def collect(out):
    return (
        *("-m", "tl_modules", "collect", "--store", "--out", out, "--prompts", "prompts.jsonl"),
        *("--max-tokens", "4", "--no-progress"),
    )


def together(engine, words):
    return ("-m", *ENGINES[engine], *words[2:])


@pytest.mark.parametrize("engine", ENGINES)
def test_several_processes_write_the_store_and_the_modules_of_one(engine, folder):
    printed = ran(folder, *together(engine, collect(engine)))
    assert printed.count("Collecting activations over 200 prompts") == 1  # rank 0 alone prints
    assert contents(folder / engine) == contents(folder / "one")
    assert (folder / engine / ".lock-1").exists()  # the other was there

    words = ("-m", "tl_modules", "discover", engine, "--out", f"{engine}.safetensors", "-k", "5")
    printed = ran(folder, *together(engine, words), "--no-progress")
    assert printed.count(f"Written to {engine}.safetensors") == 1
    words = ("-m", "tl_modules", "discover", engine, "--out", "alone.safetensors", "-k", "5")
    ran(folder, *words, "--no-progress")
    found, alone = (folder / f"{name}.safetensors" for name in (engine, "alone"))
    assert found.read_bytes() == alone.read_bytes()


def test_what_is_not_shared_is_refused(folder):
    words = collect("matrix.safetensors")
    done = subprocess.run(
        [sys.executable, *together("torchrun", [word for word in words if word != "--store"])],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode != 0
    assert "Only 'collect --store' and 'discover' on a store can run" in done.stderr
    assert not (folder / "matrix.safetensors").exists()
