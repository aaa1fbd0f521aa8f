"""Many sets of units on copies of one batch: the values of each by itself, few operators."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.interventions.test_joined_edits import (
    COUNTED,
    MASK,
    NAMES,
    SETS,
    Operators,
    Reference,
    activations,
    many,
    sets,
)
from tl_modules.interventions.copy_edits import CopyEdits
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.replacements import Sources

OTHER_RUN = {name: values.flip(0) + 1 for name, values in activations().items()}


def sources_of(method):
    return Sources(
        Reference if method == "mean" else None, OTHER_RUN if method == "patch" else None
    )


def stacked(given, n_copies):
    return {name: values.repeat(n_copies, *[1] * (values.ndim - 1)) for name, values in given}


@pytest.mark.parametrize("places", [None, [0, 3, 1, 2, 1]])
@pytest.mark.parametrize("where", ["every token", "padding", "content"])
@pytest.mark.parametrize("method", ["zero", "mean", "patch"])
def test_each_copy_is_changed_as_by_its_own_edits(method, where, places):
    given = activations()
    mask = None if where == "every token" else MASK
    positions = COUNTED if where == "content" else None
    sources = sources_of(method)
    edits = CopyEdits(
        sets(), method, sources, positions=positions, attention_mask=mask, places=places
    )
    for first, last in ((0, 5), (1, 3), (4, 5)):
        copies = stacked(given.items(), last - first)
        found = {name: values.clone() for name, values in copies.items()}
        for name, hook in edits.hooks(first, last):
            found[name] = hook(copies[name])
        for place, number in enumerate(range(first, last)):
            touched = positions
            if places is not None:
                touched = (torch.ones_like(MASK) if positions is None else positions).clone()
                touched[:, torch.arange(4) != places[number]] = False
            alone = UnitEdits(
                sets()[number], method, sources.reference, source=sources.source
            ).hooks(positions=touched, attention_mask=mask)
            expected = dict(given)
            for name, edit in alone:
                expected[name] = edit(expected[name])
            for name in NAMES:
                assert torch.equal(found[name][3 * place : 3 * place + 3], expected[name])


def test_a_hook_point_without_units_in_a_pass_has_no_hook():
    edits = CopyEdits(sets([[0, 1], [9], []]), "zero", Sources())
    assert [[name for name, _ in edits.hooks(at, at + 1)] for at in range(3)] == [
        [NAMES[0]],
        [NAMES[1]],
        [],
    ]


@pytest.mark.parametrize("flats", [[[0], [1]], [range(5), [1]]])
def test_units_that_no_set_holds_need_no_mean(flats):
    class Partial(Reference):
        unit_means = np.where(np.arange(20) == 6, np.nan, Reference.unit_means)

    given = activations()[NAMES[0]]
    [(_, hook)] = CopyEdits(sets(flats), "mean", Sources(Partial)).hooks(0, 1)
    found = hook(given)
    n_changed = len(flats[0])
    expected = torch.tensor(Reference.unit_means[:n_changed]).expand(3, 4, -1)
    assert torch.equal(found[..., :n_changed], expected)
    assert torch.equal(found[..., n_changed:], given[..., n_changed:])
    with pytest.raises(tlm.ModulesError, match="unit_means should be finite"):
        CopyEdits(sets([[0], [6]]), "mean", Sources(Partial))


def test_a_source_of_another_shape_is_refused():
    source = {name: values[:2] for name, values in OTHER_RUN.items()}
    [(_, hook), *_] = CopyEdits(sets(), "patch", Sources(source=source)).hooks(0, 2)
    with pytest.raises(tlm.ModulesError, match="source should be a run of the same batch"):
        hook(activations()[NAMES[0]].repeat(2, 1, 1))


def pass_of(edits, copies):
    """The operators of one pass over copies of the batch."""
    with Operators() as operators:
        for name, hook in edits.hooks(0, len(edits)):
            hook(copies[name])
    return operators


@pytest.mark.parametrize("method", ["zero", "mean", "patch"])
def test_operators_do_not_grow_with_the_sets_of_a_pass(method):
    counts = []
    for n_sets in (2, 12):
        edits = CopyEdits(sets(many(n_sets)), method, sources_of(method), positions=COUNTED)
        copies = stacked(activations().items(), n_sets)
        pass_of(edits, copies)
        counts.append(sum(pass_of(edits, copies).names.values()))
    # Per hook point: the copies' masks, the positions among them, and the choice.
    assert counts[0] == counts[1] <= 3 * len(NAMES)


@pytest.mark.parametrize("method", ["mean", "patch"])
def test_nothing_is_copied_to_a_device_for_a_pass(method):
    # The meta device stands for a GPU: tensors without memory, whose copies are counted.
    on_device = {name: values.to("meta") for name, values in OTHER_RUN.items()}
    sources = Sources(Reference, on_device if method == "patch" else None)
    places = [0, 3, 1] * 4
    edits = CopyEdits(sets(many(12)), method, sources, positions=COUNTED, places=places)
    copies = stacked(activations(torch.bfloat16, "meta").items(), 12)
    first, second = (pass_of(edits, copies).uploads for _ in range(2))
    assert second == 0
    # Each set's masks and values; once: the sets' order, their places, and the positions.
    assert first <= 2 * len(NAMES) + 3


def test_a_set_that_is_given_again_is_kept_once():
    once, again = sets(SETS[:1] * 2)
    edits = CopyEdits([once, once, again, once], "zero", Sources(), places=[0, 1, 2, 3])
    given = activations()[NAMES[0]]
    found = edits.hooks(0, 4)[0][1](given.repeat(4, 1, 1)).unflatten(0, (4, 3))
    changed = (found != given).any(-1).any(1)
    assert torch.equal(changed, torch.eye(4, dtype=torch.bool))
    assert len(edits) == 4
