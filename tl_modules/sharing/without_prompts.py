"""What to share of a set whose prompts are not for others."""

from typing import Any


def without_prompts(header: dict[str, Any]) -> dict[str, Any]:
    """A module set's file header without the text of its prompts.

    Of the samples' columns, ``category`` and numbers stay: any other text (an answer, a source)
    may repeat a prompt. Of the topics, the prompts and contexts go; their words stay, one by one.

    Args:
        header: As ``ModuleSet.save`` writes it; it is not changed.

    Returns:
        A header that makes a set of the same modules.
    """
    samples = header["samples"]
    n_samples = len(next(iter(samples.values()), []))
    kept = {
        name: column for name, column in samples.items() if name == "category" or _plain(column)
    }
    topics = header["topics"] and [
        {**topic, "prompts": [], "contexts": []} for topic in header["topics"]
    ]
    # Without any column a frame would lose its rows.
    return {**header, "samples": kept or {"sample": list(range(n_samples))}, "topics": topics}


def _plain(column: list[Any]) -> bool:
    """Whether it holds numbers alone."""
    return all(value is None or isinstance(value, int | float) for value in column)
