import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tl_modules as tlm


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
