"""Many sets of units in one pass: the values of each by itself, and few operators and copies."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tl_modules as tlm
from tests.conftest import tiny_model
from tl_modules.causal import prompt_runs
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.joined_edits import JoinedEdits, Recipe
from tl_modules.interventions.positions import Where
from tl_modules.interventions.resident import Resident
from tl_modules.models.prompt_starts import FromTheStart
from tl_modules.units import Units

NAMES = ("blocks.0.mlp.hook_post", "blocks.1.attn.hook_z")
UNITS = Units.whole(NAMES, (0, 1), (8, 3), (1, 4))
"""Eight neurons, and three heads of four coordinates."""

SETS = [np.array(flat, dtype=np.int64) for flat in ([0, 3, 9], [], [1], [2, 3, 8, 10], range(11))]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
COUNTED = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]).bool()
PROMPTS = np.array([7, 2, 4])


class Reference:
    """Means, means by position and tokens of made-up activations."""

    units = UNITS
    unit_means = np.arange(1, 21, dtype=np.float32) / 8
    position_means = np.arange(60, dtype=np.float32).reshape(3, 20) / 16
    tokens = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)


def sets(flats=SETS):
    return [UNITS.select(np.asarray(flat, dtype=np.int64)) for flat in flats]


def activations(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = {NAMES[0]: (8,), NAMES[1]: (3, 4)}
    return {
        name: torch.randn(3, 4, *shape, generator=generator).to(device, dtype)
        for name, shape in shapes.items()
    }


RECIPES = [
    Recipe("zero", None),
    Recipe("mean", Reference),
    Recipe("position_mean", Reference),
    Recipe("resample", Reference, seed=3),
    Recipe("scale", None, factor=-2.0),
]


@pytest.mark.parametrize("where", ["every token", "padding", "content"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.method)
def test_each_row_is_changed_as_by_its_own_edits(recipe, where):
    given = activations()
    mask = None if where == "every token" else MASK
    positions = COUNTED if where == "content" else None
    runs = np.array([4, 0, 1, 3, 2, 3, 0])
    rows = np.array([0, 1, 2, 2, 1, 0, 0])
    joined = JoinedEdits(sets(), recipe).hooks(
        runs,
        Where(
            None if positions is None else positions[rows],
            None if mask is None else mask[rows],
            PROMPTS[rows],
            FromTheStart(),
        ),
    )
    assert [name for name, _ in joined] == list(NAMES)
    for name, hook in joined:
        before = given[name].clone()
        found = hook(given[name][rows])
        assert torch.equal(given[name], before)
        assert found.shape == given[name][rows].shape
        for place, (run, row) in enumerate(zip(runs, rows, strict=True)):
            alone = UnitEdits(
                sets()[run], recipe.method, recipe.reference, factor=recipe.factor, seed=recipe.seed
            ).hooks(positions=positions, attention_mask=mask, rows=PROMPTS)
            expected = given[name]
            for other, edit in alone:
                expected = edit(expected) if other == name else expected
            assert torch.equal(found[place], expected[row])


def test_units_that_no_set_holds_need_no_mean():
    class Partial(Reference):
        unit_means = np.where(np.arange(20) == 5, np.nan, Reference.unit_means)

    JoinedEdits(sets([[0], [1, 2]]), Recipe("mean", Partial))
    with pytest.raises(tlm.ModulesError, match="unit_means should be finite"):
        JoinedEdits(sets([[0], [5]]), Recipe("mean", Partial))


def test_an_activation_of_another_width_is_refused():
    hooks = JoinedEdits(sets(), Recipe("zero", None)).hooks(
        np.array([0]), Where(finder=FromTheStart())
    )
    with pytest.raises(tlm.ModulesError, match="are among 8; the activation there has shape"):
        hooks[0][1](torch.zeros(1, 4, 9))


class Operators(TorchDispatchMode):
    """Counts operators, and the bytes and number of copies to another device."""

    def __init__(self):
        super().__init__()
        self.names, self.uploads = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        found = function(*args, **(kwargs or {}))
        is_view = name in {
            "view",
            "slice",
            "unsqueeze",
            "expand",
            "_unsafe_view",
            "alias",
            "select",
        }
        self.names[name] += not is_view
        self.uploads += name == "_to_copy" and args[0].device != found.device
        return found


def pass_of(joined, n_sets, given, n_rows=12):
    """The operators of one pass; its rows take all sets in turn."""
    numbers = np.arange(n_rows)
    rows = numbers % 3
    where = Where(COUNTED[rows], MASK[rows], PROMPTS[rows], FromTheStart())
    hooks = joined.hooks(numbers % n_sets, where)
    repeated = {name: values[torch.as_tensor(rows)] for name, values in given.items()}
    with Operators() as operators:
        for name, hook in hooks:
            hook(repeated[name])
    return operators


def many(n_sets):
    generator = np.random.default_rng(1)
    return [np.arange(11), *(generator.choice(11, 5, replace=False) for _ in range(n_sets - 1))]


@pytest.mark.parametrize("method", ["zero", "mean", "scale"])
def test_operators_do_not_grow_with_the_sets_of_a_pass(method):
    counts = []
    for n_sets in (2, 12):
        recipe = Recipe(method, Reference, factor=2.0)
        joined = JoinedEdits(sets(many(n_sets)), recipe)
        counts.append(sum(pass_of(joined, n_sets, activations()).names.values()))
    # Per hook point: the rows' masks, the positions among them, the values, and the choice. Once:
    # the positions.
    assert counts[0] == counts[1] <= 4 * len(NAMES) + 3


@pytest.mark.parametrize("method", ["mean", "position_mean"])
def test_each_device_gets_the_masks_once_and_each_pass_its_rows(method):
    # The meta device stands for a GPU: tensors without memory, whose copies are counted.
    given = activations(torch.bfloat16, "meta")
    joined = JoinedEdits(sets(many(12)), Recipe(method, Reference))
    first, second = (pass_of(joined, 12, given).uploads for _ in range(2))
    assert second == 2  # which set each row has, and which tokens are changed
    assert first <= 2 + 2 * len(NAMES)  # masks and means


def test_a_copy_is_made_once_and_can_take_part_in_a_backward_pass():
    resident = Resident(torch.ones(3))
    with torch.inference_mode(), Operators() as operators:
        copies = [resident.on(torch.device("cpu"), torch.bfloat16) for _ in range(3)]
    assert operators.names["_to_copy"] == 1
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    (weight * copies[0]).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1]


def test_passes_are_filled_to_the_last_row(monkeypatch):
    model = tiny_model()
    texts = ["the cat sat on", "one plus two", "a bird", "why is the house blue", "red and big"]
    prompts = [f"{text} {word}" for text in texts for word in ("mat", "cat", "the")]
    frame = pd.DataFrame({"prompt": prompts})
    frame["category"] = ["a" if "the" in text else "b" for text in prompts]
    acts = tlm.collect(model, frame, progress=False)
    modules = tlm.discover(acts, 3, progress=False)
    sizes = []
    original = prompt_runs.forward

    def watched(model, tokens, *words):
        sizes.append(len(tokens))
        return original(model, tokens, *words)

    monkeypatch.setattr(prompt_runs, "forward", watched)
    options = {"n_controls": 4, "batch_size": 10, "progress": False}
    tlm.module_effects(model, modules, frame, **options)
    # Batches of 10 and 5 prompts: two clean passes, then 3 x (1 + 4) runs of each.
    assert sizes == [10, 5, *[10] * 15, *[10] * 7, 5]


@pytest.mark.parametrize("is_left", [False, True])
def test_means_by_position_are_looked_up_once_unless_rows_begin_at_different_places(is_left):
    mask = MASK.flip(1) if is_left else MASK
    where = Where(None, mask, None, FromTheStart())
    at = np.array([0, 3])
    replace = Recipe("position_mean", Reference).replacements(UNITS.coordinates())(NAMES[0], at)
    old = activations()[NAMES[0]][..., at]
    found = replace(old, where)
    assert found.shape == ((3, 4, 2) if is_left else (4, 2))
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    table = np.concatenate([Reference.position_means, Reference.unit_means[None]])
    expected = torch.tensor(table[:, at])[numbers]
    assert torch.equal(found.expand(3, 4, 2)[mask], expected[mask])


def test_sets_that_share_passes_need_no_edits_of_their_own(model, modules, prompts, monkeypatch):
    made, original = [], UnitEdits.__init__

    def counted(self, *given, **words):
        made.append(given)
        original(self, *given, **words)

    monkeypatch.setattr(UnitEdits, "__init__", counted)
    options = {"n_controls": 2, "progress": False}
    tlm.module_effects(model, modules, prompts, **options)
    assert not made
    with modules[0].ablated(model):
        assert len(made) == 1
