"""Remove the prompts from a module set before it is shared."""

from typing import Any


def without_prompts(header: dict[str, Any]) -> dict[str, Any]:
    """Remove the text of prompts from the header of a module set's file.

    The samples keep ``category`` and columns of numbers. Other text columns (an answer, a source)
    are removed, because they may repeat a prompt. The topics lose their prompts and contexts and
    keep their single words.

    Args:
        header: The header, as ``ModuleSet.save`` writes it; it is not changed.

    Returns:
        The header of a set of the same modules.
    """
    samples = header["samples"]
    n_samples = len(next(iter(samples.values()), []))
    kept = {
        name: column for name, column in samples.items() if name == "category" or _plain(column)
    }
    topics = header["topics"] and [
        {**topic, "prompts": [], "contexts": []} for topic in header["topics"]
    ]
    # A frame without columns would lose its rows.
    return {**header, "samples": kept or {"sample": list(range(n_samples))}, "topics": topics}


def _plain(column: list[Any]) -> bool:
    """Whether a column holds only numbers."""
    return all(value is None or isinstance(value, int | float) for value in column)
