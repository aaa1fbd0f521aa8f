import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_modules as tlm
from tests.conftest import LEGACY
from tl_modules.models.hooked_model import check_model


@given(widths=st.lists(st.integers(1, 6), min_size=1, max_size=5), data=st.data())
def test_columns_and_hook_indices_map_back_and_forth(widths, data):
    names = tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(len(widths)))
    whole = tlm.Units.whole(names, tuple(range(len(widths))), tuple(widths))
    assert whole.are_whole()
    chosen = data.draw(st.lists(st.integers(0, len(whole) - 1), unique=True, min_size=1))
    some = whole.select(np.array(sorted(chosen)))
    assert some.flat().tolist() == sorted(chosen)
    assert some.counts().sum() == len(chosen)
    seen = {(names[hook], int(index)) for hook, at in some.by_hook() for index in some.index[at]}
    frame = some.to_frame()
    assert seen == set(zip(frame["hook_name"], frame["unit"], strict=True))


def test_a_description_gives_the_same_units_back(acts):
    found = tlm.Units.from_dict(acts.units.to_dict())
    assert found.to_frame().equals(acts.units.to_frame())


def test_an_object_that_is_no_hooked_model_is_refused_with_what_it_lacks():
    with pytest.raises(tlm.ModulesError, match="got list, which lacks cfg, hook_dict"):
        check_model([])


def test_the_suite_runs_on_the_model_class_of_the_installed_transformer_lens(model):
    assert type(model).__name__ == ("HookedTransformer" if LEGACY else "TransformerBridge")


def test_any_object_with_the_six_names_will_do(model, prompts, acts):
    class Wrapped:
        """No subclass of anything, and no tokenizer: just the Protocol."""

        def __init__(self, inner):
            self.cfg, self.hook_dict = inner.cfg, inner.hook_dict
            self.run_with_cache, self.run_with_hooks = inner.run_with_cache, inner.run_with_hooks
            self.hooks, self.to_tokens = inner.hooks, inner.to_tokens

    wrapped = Wrapped(model)
    assert isinstance(wrapped, tlm.HookedModel)
    found = tlm.collect(wrapped, prompts, progress=False)
    np.testing.assert_array_equal(found.values, acts.values)
    modules = tlm.discover(found, 3)
    effects = tlm.module_effects(wrapped, modules, prompts, n_controls=1, progress=False)
    assert len(effects) == 6


def test_a_model_without_such_hook_points_is_refused(model):
    class Bare:
        cfg, hook_dict = model.cfg, {}
        run_with_cache = run_with_hooks = hooks = to_tokens = print

    with pytest.raises(tlm.ModulesError, match=r"needs the hook points.*lacks \['blocks.0.mlp"):
        tlm.Collector(Bare())
