"""What ``attach`` left on a model is listed, and comes off."""

import copy
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY, tiny_model
from tests.saes.made import RESID, Random


@pytest.fixture
def own_model():
    return tiny_model()


@pytest.fixture
def tokens(own_model):
    return own_model.to_tokens("the cat sat on the mat")


def logits(model, tokens):
    with torch.inference_mode():
        return model(tokens)


def test_a_cell_run_twice_warns_and_can_be_undone(own_model, tokens, modules):
    module, clean = modules[0], logits(own_model, tokens)
    handle = module.attach(own_model, "scale", factor=0.5)
    once = logits(own_model, tokens)
    with pytest.warns(UserWarning, match=r"is attached to this model already.*detach_all"):
        handle = module.attach(own_model, "scale", factor=0.5)
    quarter = logits(own_model, tokens)
    assert not torch.equal(quarter, once)
    handle.remove()
    del handle
    own_model.reset_hooks()
    gc.collect()
    assert torch.equal(logits(own_model, tokens), once)
    (left,) = tlm.attached(own_model)
    assert (left.target, left.method) == (module, "scale")
    assert set(left.hook_names) <= set(own_model.hook_dict)
    assert f"{module!r}, method 'scale'" in repr(left)
    assert tlm.detach_all(own_model) == 1
    assert tlm.attached(own_model) == []
    assert tlm.detach_all(own_model) == 0
    assert torch.equal(logits(own_model, tokens), clean)


def test_other_edits_do_not_warn(own_model, modules):
    modules[0].attach(own_model, "scale", factor=0.5)
    modules[0].attach(own_model, "scale", factor=0.4)
    modules[0].attach(own_model, "zero")
    modules[1].attach(own_model, "scale", factor=0.5)
    modules[0].by_fit(0.5).attach(own_model, "scale", factor=0.5)
    modules[0].attach(own_model, "zero", positions=[1, 2])
    modules[0].attach(tiny_model(), "zero")
    modules[2].attach(own_model, "zero").remove()
    modules[2].attach(own_model, "zero")
    assert len(tlm.attached(own_model)) == 7


def test_the_same_units_of_modules_discovered_anew_warn(own_model, acts):
    first, again = (tlm.discover(acts, 3, progress=False)[0] for _ in range(2))
    first.attach(own_model, "zero", positions=[1, 2])
    with pytest.warns(UserWarning, match="already"):
        again.attach(own_model, "zero", positions=[1, 2])
    assert len(tlm.attached(own_model)) == 2


def test_each_edit_has_a_handle_of_its_own(own_model, tokens, modules):
    modules[0].attach(own_model, "zero")
    only = logits(own_model, tokens)
    modules[1].attach(own_model, "zero")
    found = {edit.target.label: edit for edit in tlm.attached(own_model)}
    assert set(found) == {0, 1}
    found[1].handle.remove()
    found[1].handle.remove()
    assert torch.equal(logits(own_model, tokens), only)
    with found[0].handle:
        pass
    assert tlm.attached(own_model) == []


def test_an_exception_in_a_with_leaves_nothing(own_model, modules):
    def measure():
        with modules[0].attach(own_model, "zero"):
            (edit,) = tlm.attached(own_model)
            assert edit.in_with
            raise RuntimeError

    with pytest.raises(RuntimeError):
        measure()
    assert tlm.attached(own_model) == []


def test_hooks_of_others_stay(own_model, tokens, modules):
    def halved(activation, hook):
        return activation / 2

    own_model.add_hook(RESID.format(1), halved)
    mine = logits(own_model, tokens)
    modules[0].attach(own_model, "zero")
    assert tlm.detach_all(own_model) == 1
    assert torch.equal(logits(own_model, tokens), mine)


def test_a_handle_does_nothing_after_detach_all(own_model, tokens, modules):
    handle = modules[0].attach(own_model, "zero")
    tlm.detach_all(own_model)
    modules[0].attach(own_model, "zero")
    edited = logits(own_model, tokens)
    handle.remove()
    assert torch.equal(logits(own_model, tokens), edited)


def test_a_copy_has_its_own_edits(own_model, tokens, modules):
    clean = logits(own_model, tokens)
    modules[0].attach(own_model, "zero")
    edited = logits(own_model, tokens)
    other = copy.deepcopy(own_model)
    assert torch.equal(logits(other, tokens), edited)
    (edit,) = tlm.attached(other)
    edit.handle.remove()
    assert torch.equal(logits(other, tokens), clean)
    assert torch.equal(logits(own_model, tokens), edited)
    assert tlm.detach_all(own_model) == 1


def test_edits_keep_no_model_alive(modules):
    model = tiny_model()
    handle = modules[0].attach(model, "zero")
    (edit,) = tlm.attached(model)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
    handle.remove()
    edit.handle.remove()


def test_edits_of_latents_are_found_from_either_model(own_model, tokens, prompts):
    clean = logits(own_model, tokens)
    spliced = tlm.with_saes(own_model, [Random(RESID.format(layer)) for layer in (0, 2)])
    modules = tlm.discover(
        tlm.collect(spliced, prompts, units="sae", progress=False), 2, progress=False
    )
    for model in (spliced, own_model):
        modules[0].attach(spliced, "zero")
        with pytest.warns(UserWarning, match="already"):
            modules[0].attach(spliced, "zero")
        assert len(tlm.attached(model)) == 2
        assert not torch.equal(logits(own_model, tokens), clean)
        with pytest.warns(UserWarning, match="part of what is measured"):
            tlm.collect(model, prompts, progress=False)
        assert tlm.detach_all(model) == 2
        assert torch.equal(logits(own_model, tokens), clean)
    with modules[0].ablated(spliced, "zero"):
        assert tlm.attached(spliced) == []


@pytest.mark.skipif(LEGACY, reason="only a bridge has aliases")
def test_an_edit_under_an_alias_is_found(own_model, modules):
    names = [name for name in own_model.hook_dict if name.endswith("mlp.hook_post")]
    aliases = [name.replace("hook_post", "out.hook_in") for name in names]
    points = own_model.hook_dict
    assert [points[name] for name in names] == [points[name] for name in aliases]
    modules[0].attach(own_model, "zero")
    assert tlm.detach_all(own_model) == 1
    assert all(not point._forward_hooks for point in own_model.hook_dict.values())


def test_targets_that_are_no_modules_are_listed(own_model, prompts):
    sets = [group for _, group in prompts.groupby("category")]

    def shift():
        return tlm.related.eigenshift(own_model, *sets, n_new_tokens=0, progress=False)

    first, again = shift(), shift()
    first.attach(own_model)
    with pytest.warns(UserWarning, match=r"EigenShift\(.* is attached to this model already"):
        again.attach(own_model)
    assert [edit.method for edit in tlm.attached(own_model)] == [None, None]
    assert tlm.attached(own_model)[0].target is first
    assert tlm.detach_all(own_model) == 2


WARNED = """
import torch, tl_modules as tlm
from tests.plain import Plain, digits
model = Plain()
model.hook_dict = {name: torch.nn.Identity() for name in model.hook_dict}
modules = tlm.discover(tlm.collect(model, digits(12), progress=False), 2, progress=False)
modules[0].attach(model, "zero")
modules[0].attach(model, "zero")
tlm.collect(model, digits(12), progress=False)
"""


def test_warnings_name_the_callers_line(tmp_path):
    # In a process of its own: runtime type checks put frames between.
    script = tmp_path / "cell.py"
    script.write_text(WARNED.strip())
    root = Path(__file__).parents[2]
    run = [sys.executable, "-W", "always", script]
    found = subprocess.run(
        run, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    lines = [line for line in found.stderr.splitlines() if "UserWarning" in line]
    assert len(lines) == 2
    for line, number, text in zip(lines, (7, 8), ("already", "attached to 'plain'"), strict=True):
        assert line.startswith(f"{script}:{number}: UserWarning: ")
        assert text in line
