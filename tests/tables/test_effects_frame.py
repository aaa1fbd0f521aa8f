"""What a table of effects says of the run that made it."""

import pandas as pd
import pytest

from tl_modules.tables.effects_frame import positions_said, split_runs

ROWS = pd.DataFrame({"module": [0, 1], "category": ["a", "a"]})


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["content", "content"], "at content tokens"),
        (["all", "all"], "at every token"),
        (["last", "last"], "at positions last"),
        (["content", None], "at content tokens or at every token"),
        ([float("nan")] * 2, "at every token"),
        (pd.array(["content", pd.NA], dtype="string"), "at content tokens or at every token"),
    ],
)
def test_the_column_says_where_units_were_changed(column, said):
    assert positions_said(ROWS.assign(positions=column)) == said


def test_a_table_without_the_column_is_of_every_token():
    assert positions_said(ROWS) == "at every token"


def test_runs_at_other_tokens_are_other_runs():
    both = pd.concat([ROWS.assign(positions="content"), ROWS.assign(positions="all")])
    assert [run for run, _ in split_runs(both)] == [{"positions": "content"}, {"positions": "all"}]
