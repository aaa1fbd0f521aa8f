"""Whether two tables of effects hold the same numbers, within rounding."""

import pandas as pd

import tl_modules as tlm

COLUMN = "selectivity_controls"


def check_alike(found, expected, *, rtol=1e-3, atol=1e-5):
    """Fail unless tables agree; the single controls are text, and are compared as numbers."""
    numbers = (table.drop(columns=COLUMN) for table in (found, expected))
    pd.testing.assert_frame_equal(*numbers, rtol=rtol, atol=atol)
    singles = (tlm.control_selectivities(table) for table in (found, expected))
    # Five digits are kept.
    pd.testing.assert_frame_equal(*singles, rtol=max(rtol, 1e-4), atol=max(atol, 1e-6))
