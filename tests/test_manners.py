"""What all public functions keep to: seeds, silence when asked, frames of sensible types."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.calls import CALLS, frames_of, setting
from tests.outputs import values_of
from tests.public import FUNCTIONS, OF_DATA

TAKING = {
    name: set(inspect.signature(function).parameters)
    for name, function in FUNCTIONS.items()
    if name not in OF_DATA
}


@pytest.fixture(scope="module")
def called(model, prompts, acts, modules, tmp_path_factory):
    """Results of calls by name, each made once."""
    made = {}
    with_these = setting(model, prompts, acts, modules, tmp_path_factory.mktemp("page"))

    def call(name, again=False):
        if again or name not in made:
            made[name] = CALLS[name](with_these)
        return made[name]

    return call


def global_states():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is looked at, not drawn from
    # Not Python's own, which nothing here uses and beartype draws from in tests.
    return name, keys.tolist(), rest, torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_repeats_bit_by_bit_in_silence_and_draws_from_no_global_generator(
    name, called, capfd
):
    first = list(values_of(called(name)))
    before = global_states()
    capfd.readouterr()
    again = list(values_of(called(name, again=True)))
    assert global_states() == before
    assert capfd.readouterr() == ("", "")
    assert again == first


def test_every_function_with_a_seed_or_a_bar_is_called_here():
    taking = {name for name, given in TAKING.items() if given & {"seed", "progress"}}
    assert taking <= {name.split()[0] for name in CALLS}


@pytest.mark.parametrize("name", [name for name, given in TAKING.items() if "progress" in given])
def test_bars_are_shown_unless_refused(name):
    assert inspect.signature(FUNCTIONS[name]).parameters["progress"].default is True


@pytest.mark.parametrize(
    "call",
    [
        lambda c: tlm.stability(c, 2, seed=-1),
        lambda c: tlm.split_by_category(c, seed=-1),
        lambda c: tlm.set_aside_background(c, tlm.discover(c, 2, progress=False), seed=-1),
        lambda c: tlm.selectivity(pd.DataFrame(), seed=-1),
    ],
)
def test_a_seed_that_cannot_be_is_refused(call, acts):
    with pytest.raises(tlm.ModulesError, match="seed should lie between 0"):
        call(acts)


TEXTS = {
    *("metric", "verdict", "line", "selectivity_controls"),
    *("category", "category_a", "category_b", "kind", "method", "controls", "hook_name", "set"),
    "positions",
    "ranking",
    *("predicted", "other"),
    "text",
    *("polarity", "contexts"),
    *("label", "words", "promoted", "suppressed", "top_prompt", "prompt", "token"),
    "chosen_by",
    *("id", "thought", "nearest", "detector", "prompts", "corrupted"),
    *("given", "suggested"),
    "annotator",
    *("language", "meaning", "serves"),
    "measure",
}
COUNTS = {
    *(
        "module",
        "layer",
        "head",
        "unit",
        "n",
        "n_controls",
        "n_cell_controls",
        "n_units",
        "n_samples",
        "n_layers",
        "n_tokens",
        "n_starts",
        "rank",
        "seed",
    ),
    "n_pairs",
    *("row", "n_issues", "n_suggested"),
    "n_answers",
    *("n_rounds", "n_modules", "step", "source", "target", "coarser", "coarser_k", "finer_k"),
    *("chain", "n_thoughts", "n_chains", "n_correct", "n_wrong", "n_questions"),
    "draw",
    "n_prompts",
    "number",
    *("component", "pos", "module_a", "module_b", "n_common", "n_units_a", "n_units_b"),
    *("new_unit", "n_with", "n_without", "n_features", "resample", "shuffle", "feature"),
    *(f"{what}_{change}" for what in ("units", "samples") for change in ("kept", "lost", "gained")),
}
FLAGS = {"own", "covered", "converged", "special", "rectified", "shuffled"}
FLAGS |= {
    "is_correct",
    "correct_at_first",
    "consistent",
    "chosen",
    "shared_by_all",
    "keep_only",
    "at_floor",
    "steers",
    "fits",
    "issue",
    "tied",
}


def expected_kind(where, column):
    """A column's kind, by its name."""
    if column in FLAGS:
        return "flag"
    if column == "metric" and where.startswith("faithfulness"):
        return "number"  # its value; elsewhere its name
    if column in TEXTS or (where.startswith("dissociation") and column == "module"):
        return "text"
    if column in COUNTS:
        return "count"
    return "number"


def kind_of(values):
    types = pd.api.types
    if types.is_bool_dtype(values):
        return "flag"
    if types.is_integer_dtype(values):
        return "count" if values.dtype.itemsize == 8 else f"short {values.dtype}"
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "f":
        return "number"
    texts = values.dropna().map(lambda value: isinstance(value, str)).all()
    # Before pandas 3 texts are kept as objects.
    plain = values.dtype == pd.Series(["a"]).dtype
    return "text" if plain and texts else f"odd {values.dtype}"


@pytest.mark.parametrize("name", CALLS)
def test_columns_have_the_types_that_their_names_promise(name, called):
    for where, frame in frames_of(called(name), name):
        for column in frame.columns:
            found = kind_of(frame[column])
            assert found == expected_kind(where, column), f"{where}[{column!r}]"


def test_texts_stay_texts_where_all_are_missing(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    one, other = (tlm.discover(acts, k, progress=False) for k in (4, 5))
    assert kind_of(one.to_frame()["category"]) == "text"
    assert one.to_frame()["category"].isna().all()
    match = tlm.match_modules(one, other, n_permutations=1)
    assert kind_of(match.pairs["category_b"]) == kind_of(match.diff()["category_a"]) == "text"


def test_the_frame_of_no_units_has_the_same_types(modules):
    units = modules.units
    assert units.select(units.index < 0).to_frame().dtypes.equals(units.to_frame().dtypes)


def test_effects_keep_their_types_through_a_file(called, tmp_path):
    effects = called("module_effects")
    effects.to_csv(tmp_path / "effects.csv", index=False)
    read = pd.read_csv(tmp_path / "effects.csv")
    assert read.dtypes.to_dict() == effects.dtypes.to_dict()
    both = pd.concat([effects, read], ignore_index=True)
    assert both.dtypes.to_dict() == effects.dtypes.to_dict()
