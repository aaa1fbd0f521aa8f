"""Refusals of what the tests' own type checks would catch first: users run without these."""

import subprocess
import sys

import pytest

MAKE = """
import sys, numpy as np, tl_modules as tlm
from tests.plain import Plain
values = np.random.default_rng(0).random((12, 8)) + np.kron(np.eye(2), np.ones((6, 4)))
acts = tlm.ActivationMatrix.from_arrays(values)
modules = tlm.discover(acts, 2)
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("tlm.evaluation.label_audit(acts, 7)", "labels should be one label per prompt; got 7"),
        (
            "tlm.annotate(['a'], {1: str})",
            "annotators should hold at least one annotator, each with a text as name; got 1",
        ),
        (
            "tlm.annotate(['a'], str)",
            "annotators should be a list of annotators or a mapping of their names; got type",
        ),
        ("tlm.annotate(['a'], [str], labels=3)", "labels should be a list of labels; got 3"),
        ("tlm.nestedness(modules)", "sets should be a list of module sets"),
        ("tlm.nestedness(list(modules))", "sets should be a list of module sets"),
        ("tlm.ModuleSet.from_pretrained(7)", "name_or_folder should be a folder or a repository"),
        ("modules.push_to_hub(7)", "Cannot share modules as 7: "),
        (
            "modules.save_pretrained(sys.argv[1], prompts='False')",
            "prompts should be True or False; got 'False'",
        ),
        (
            "modules.save_pretrained(sys.argv[1], effects=[1])",
            "effects should be a table; got list",
        ),
        (
            "import torch; tlm.training.rectified(torch.ones(2), torch.ones(3))",
            "forget and retain should be gradients with respect to the same entries",
        ),
        (
            "tlm.training.forgetting(Plain(), None, ['a'], ['b'], held_out='ab')",
            "held_out should be two sets of prompts, (forget, retain); got str",
        ),
        ("tlm.Reading(weight='loss')", "weight should be one of 'activation', 'attribution'"),
        ("tlm.Reading(aggregate='sum')", "aggregate should be one of 'mean', 'rms', 'max'"),
        ("tlm.Reading(tokens='first')", "tokens should be one of 'all', 'content', 'last'"),
        ("tlm.Reading(loss_on='both')", "loss_on should be one of 'prompt', 'answer', 'all'"),
        (
            "from dataclasses import replace; replace(modules, holds='core')",
            "holds should be one of 'modules', 'cores'; got 'core'",
        ),
        ("tlm.attached(acts)", "model should be a TransformerBridge or HookedTransformer; got Act"),
        ("tlm.detach_all(acts)", "model should be a TransformerBridge or HookedTransformer; got"),
        (
            "import pandas as pd; f = pd.DataFrame({'prompt': ['a'], 'category': ['b']}); "
            "tlm.concept_effects(Plain(), modules, 'b', f, [f, f])",
            "tests should be a frame of prompts, or several by name, {name: frame}; got a list",
        ),
    ],
)
def test_it_is_refused(code, message, tmp_path):
    run = [sys.executable, "-c", MAKE + code, str(tmp_path / "new")]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert f"ModulesError: {message}" in found.stderr
