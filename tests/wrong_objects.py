"""Every argument of the calls in ``tests.calls`` replaced by objects that belong elsewhere.

Run as a program, in a folder for what the calls may write: pytest's own type checks would refuse
the objects first. Prints one line a call that ends in another exception than ModulesError, and how
many end in that.
"""

import inspect
import sys
import traceback
import warnings
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from tests.calls import CALLS, setting
from tests.conftest import WORDS, tiny_model
from tests.public import FACES, FUNCTIONS, HOMES, OF_DATA


def some_prompts():
    """Prompts of two categories."""
    generator = np.random.default_rng(0)
    halves = {"animal": WORDS[:22], "code": WORDS[22:]}
    rows = [
        {"category": category, "prompt": " ".join(generator.choice(words, size=length))}
        for length in (2, 3, 5, 8, 8, 13)
        for category, words in halves.items()
    ]
    return pd.DataFrame(rows)


def wrong_objects(c):
    """What is passed in each argument's place, by name."""
    return {
        "None": None,
        "a string": "text",
        "a number": 2.5,
        "True": True,
        "numbers": [1, 2],
        "a frame": pd.DataFrame({"x": [1, 2]}),
        "prompts": c.prompts,
        "an array": np.ones((2, 2)),
        "a model": c.model,
        "acts": c.acts,
        "modules": c.modules,
        "a module": c.modules[0],
        "a dict": {"a": 1},
        "a path": Path("text"),
        "an object": object(),
    }


def recorded(calls, c):
    """The calls of public functions that the calls make: name, function, arguments by name."""
    found = {}
    places = [
        (face, name, function)
        for name, function in FUNCTIONS.items()
        if name not in OF_DATA
        for face in (tlm, FACES[HOMES[name]])
        if hasattr(face, name)
    ]

    def recording(name, function):
        @wraps(function)
        def record(*args, **options):
            bound = inspect.signature(function).bind(*args, **options)
            found.setdefault(f"{name}({', '.join(bound.arguments)})", (function, bound))
            return function(*args, **options)

        return record

    for face, name, function in places:
        setattr(face, name, recording(name, function))
    try:
        for call in calls.values():
            call(c)
    finally:
        for face, name, function in places:
            setattr(face, name, function)
    return found


def parameters_of(function):
    """The names of a function's arguments that are tried."""
    return [name for name in inspect.signature(function).parameters if name != "progress"]


def wrongly(function, bound, name, value):
    """The exception that the call raises with one argument replaced; None if it raises none."""
    arguments = dict(bound.arguments)
    arguments[name] = value
    given = inspect.BoundArguments(bound.signature, arguments)
    try:
        function(*given.args, **given.kwargs)
    except Exception as error:  # noqa: BLE001 - it is what is looked at
        return error
    return None


def is_lawful(name, kind):
    """A model is a function like any: as one of the user's, it may raise what it likes."""
    return name in ("metric", "patching_metric", "on_run", "scorer") and kind == "a model"


def main(names):
    """Try the calls of the functions named, or of all."""
    warnings.simplefilter("ignore")
    model, prompts = tiny_model(), some_prompts()
    acts = tlm.collect(model, prompts, progress=False)
    modules = tlm.discover(acts, 3, progress=False)
    c = setting(model, prompts, acts, modules, Path.cwd())
    calls = {name: call for name, call in CALLS.items() if not names or name.split()[0] in names}
    n_refused = 0
    for called, (function, bound) in recorded(calls, c).items():
        if names and called.split("(")[0] not in names:
            continue
        for name in parameters_of(function):
            for kind, value in wrong_objects(c).items():
                error = None if is_lawful(name, kind) else wrongly(function, bound, name, value)
                n_refused += isinstance(error, tlm.ModulesError)
                if error and not isinstance(error, tlm.ModulesError):
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{Path(at.filename).name}:{at.lineno}"
                    said = f"{type(error).__name__}: {error!s:.80} ({place})"
                    sys.stdout.write(f"{called.split('(')[0]}({name}={kind}): {said}\n")
    sys.stdout.write(f"{n_refused} refused\n")


if __name__ == "__main__":
    main(sys.argv[1:])
