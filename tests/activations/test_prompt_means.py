"""Means over each prompt's content, and the memory that they take."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

import tl_modules as tlm
from tl_modules.activations import prompt_means as module
from tl_modules.activations.prompt_means import prompt_means
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.sites import hook_points_at
from tl_modules.models.tokens import tokenise


def test_means_are_those_of_the_content_alone(model, prompts):
    lists = tokenise(model, prompts["prompt"].tolist())
    points = hook_points_at(model, "resid")
    (found,), n_content = prompt_means(model, [(points, "signed")], lists, 3, progress=False)
    marked = content_masks(model, lists, 1)
    assert n_content.tolist() == [int(each.sum()) for each in marked]
    for row in (0, 7, 15):
        _, cache = model.run_with_cache(lists[row][None])
        each = [cache[name][0][marked[row]].mean(0).detach() for name in points.names]
        np.testing.assert_allclose(found[row], np.concatenate(each), rtol=1e-4, atol=1e-5)


def test_means_that_memory_does_not_hold_are_refused_before_anything_runs(
    model, prompts, monkeypatch
):
    lists = tokenise(model, prompts["prompt"].tolist())
    wanted = [(hook_points_at(model, "resid"), "signed"), (hook_points_at(model, "mlp"), "size")]
    # 16 prompts x 3 layers x (16 + 12) units; 4 prompts x 31 tokens x 16 coordinates, three times.
    needed = 4 * 16 * 3 * (16 + 12) + 3 * 4 * 4 * max(map(len, lists)) * 16
    assert max(map(len, lists)) == 31
    free = SimpleNamespace(available=needed - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with monkeypatch.context() as patched:
        patched.setattr(module, "content_masks", lambda *_: pytest.fail("the model ran"))
        message = "Averaging over each prompt's content.*Pass fewer prompts, or a smaller batch"
        with pytest.raises(tlm.ModulesError, match=message):
            prompt_means(model, wanted, lists, 4, progress=False)
    free.available = needed
    means, _ = prompt_means(model, wanted, lists, 4, progress=False)
    assert [each.shape for each in means] == [(16, 48), (16, 36)]
