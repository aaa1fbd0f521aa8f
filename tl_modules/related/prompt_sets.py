"""Validate the two sets of prompts that an intervention is fitted to."""

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts


def prompt_set_frames(towards: Prompts, against: Prompts) -> list[pd.DataFrame]:
    """Make frames of both sets.

    Args:
        towards: Prompts of one kind: strings, or a frame with ``prompt``.
        against: Prompts of the other kind.

    Returns:
        The two frames, ``towards`` first.

    Raises:
        ModulesError: If a set is no list and no frame, or holds fewer than two prompts.
    """
    frames = {
        "towards": prompt_frame(towards, "towards"),
        "against": prompt_frame(against, "against"),
    }
    for name, frame in frames.items():
        if len(frame) < 2:
            raise ModulesError(
                f"{name} should hold at least two prompts; got {len(frame)}. Add prompts."
            )
    return list(frames.values())
