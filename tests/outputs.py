"""Whether a change of the code left all numbers as they were, bit for bit.

Before the change and after it, from the repository's root::

    python -m tests.outputs tiny before.json
    python -m tests.outputs tiny after.json --like before.json

``demo`` in the place of ``tiny`` makes the calls on the demo model. The values of all results are
held against each other, not the names of fields and columns, so that these can change.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from tests.calls import CALLS, QUIET, frames_of, setting
from tests.conftest import WORDS, tiny_model
from tl_modules.data import load_demo_model, load_prompts


def on_tiny(folder):
    """The calls' setting on a tiny model."""
    generator = np.random.default_rng(0)
    rows = [
        {"category": category, "prompt": " ".join(generator.choice(words, size=length))}
        for length in (2, 3, 5, 8, 8, 13, 21, 30)
        for category, words in {"animal": WORDS[:22], "code": WORDS[22:]}.items()
    ]
    return made(tiny_model(), pd.DataFrame(rows), folder)


def on_demo(folder):
    """The calls' setting on the demo model: four prompts of each of two categories."""
    prompts = load_prompts()
    chosen = prompts["category"].drop_duplicates()[:2]
    few = prompts[prompts["category"].isin(chosen)].groupby("category").head(4)
    few = few.assign(prompt=few["prompt"].str.split().str[:12].str.join(" "))
    return made(load_demo_model(), few.reset_index(drop=True), folder)


def made(model, prompts, folder):
    acts = tlm.collect(model, prompts, **QUIET)
    return setting(model, prompts, acts, tlm.discover(acts, 3, **QUIET), folder)


def values_of(thing, name=""):
    """Every value in a result, by its place.

    Raises:
        TypeError: If a value is of a kind that would be left out.
    """
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().float().cpu().numpy()
    if isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
        yield name, f"{thing.dtype} {thing.shape} {digest(np.ascontiguousarray(thing).tobytes())}"
    elif hasattr(thing, "to_plotly_json"):
        yield name, digest(thing.to_json().encode())
    elif isinstance(thing, bool | int | float | str | np.generic | None) or thing is pd.NA:
        yield name, repr(thing)
    elif isinstance(thing, Path):
        yield name, thing.name
    else:
        for key, part in parts_of(thing):
            yield from values_of(part, f"{name}{key}")


def parts_of(thing):
    """What a result holds, by what it is held under."""
    if isinstance(thing, pd.DataFrame):
        columns = [(f"[{column}]", thing[column].to_numpy()) for column in thing]
        return [*columns, (".index", thing.index.to_numpy())]
    if isinstance(thing, pd.Series):
        return [("", thing.to_numpy()), (".index", thing.index.to_numpy())]
    if isinstance(thing, dict):
        return [(f"[{key}]", part) for key, part in thing.items()]
    if isinstance(thing, list | tuple | np.ndarray):
        return [(f"[{number}]", part) for number, part in enumerate(thing)]
    if not hasattr(thing, "__dataclass_fields__"):
        raise TypeError(f"a {type(thing).__name__} has no values that are compared")
    fields = [(f".{name}", getattr(thing, name)) for name in thing.__dataclass_fields__]
    # A model that a result holds is the one that it was made with.
    return [(name, part) for name, part in fields if not isinstance(part, torch.nn.Module)]


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def outputs(where):
    """The values of every call, by the call's name."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"tiny": on_tiny, "demo": on_demo}[where](Path(folder))
        found = {}
        for name, call in CALLS.items():
            print(name, file=sys.stderr)
            try:
                result = call(given)
            except tlm.ModulesError as error:  # of eight prompts on the demo model, say
                result = f"refused: {error}"
            frames = [value for part in frames_of(result) for value in values_of(part[1], part[0])]
            found[name] = [list(value) for value in [*values_of(result), *frames]]
        return found


def differences(before, after):
    """Each call with the values that it had before and has no more."""
    for name, values in before.items():
        left = Counter(value for _, value in values)
        left.subtract(value for _, value in after.get(name, []))
        lost = [(place, value) for place, value in values if left[value] > 0]
        if lost:
            yield name, lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("where", choices=["tiny", "demo"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--like", type=Path, help="outputs of before, to compare with")
    given = parser.parse_args()
    found = outputs(given.where)
    given.out.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} calls, {sum(map(len, found.values()))} values")
    if given.like:
        differing = list(differences(json.loads(given.like.read_text()), found))
        for name, lost in differing:
            print(f"{name}: {len(lost)} values differ, the first at {lost[0]}")
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()
