"""What the page of an exploration shows, as JSON: plain lists, numbers and texts."""

import math
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.modules.module import Module
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.explorer.question import KINDS, MOST_TOKENS
from tl_modules.report.explorer.session import Session
from tl_modules.tables.text import shortened, visible, without_halves

N_UNITS = 60
"""How many of a module's first units are listed to choose from."""

_LONGEST = 120  # characters of a name
_EARLIER = "An earlier result: the present choice has no answer yet."
_UNFINISHED = "The texts are unfinished."
_BEFORE_EDITS = "(Before the edits.)"


def payload(session: Session, outcome: Outcome | None, about: dict[str, Any]) -> dict[str, Any]:
    """Describe an exploration for its page.

    Args:
        session: The session.
        outcome: What the last question found; None before the first.
        about: What does not change: ``sentence``, ``cores`` (the curves of ``core_curves``) and
            ``ranking`` (a word for what ranks units).

    Returns:
        A JSON-ready mapping. Its texts are untrusted; the page shows them as text.
    """
    modules, question = session.modules, session.question
    return {
        "title": f"{_text(modules.model_name)}: {modules.n_modules} modules",
        "sentence": _sentence(session, about),
        "modules": [_module(module, session) for module in modules],
        "question": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(question).items()
        },
        "kinds": list(KINDS),
        "most_tokens": MOST_TOKENS,
        "core": _core(session, about),
        "outcome": None if outcome is None else _outcome(outcome, session),
        "history": list(session.history),
        "can_undo": session.can_undo,
    }


def core_curves(table: pd.DataFrame) -> dict[int, list[list[float]]]:
    """The selectivity of each module's cores over their size, as pairs, smallest first.

    Args:
        table: ``CausalCores.table``.
    """
    rows = table.loc[table["ranking"] == "core"].sort_values("n_units")
    pairs = ["n_units", "selectivity"]
    return {int(k): of[pairs].astype(float).to_numpy().tolist() for k, of in rows.groupby("module")}


def _sentence(session: Session, about: dict[str, Any]) -> str:
    """What the effects say of the set, which was tested as it was before the edits."""
    if about["sentence"] and session.history:
        return f"{about['sentence']} {_BEFORE_EDITS}"
    return about["sentence"]


def _module(module: Module, session: Session) -> dict[str, Any]:
    verdicts = session.modules.verdicts
    return {
        "label": module.label,
        "name": "" if module.title is None else _text(module.title),
        "category": "" if module.category_title is None else _text(module.category_title),
        "verdict": (None if verdicts is None else verdicts[module.label]) or "",
        "n_units": module.n_units,
        "n_layers": len(module.layers),
        "n_samples": len(module.samples),
        "pinned": module.label in session.pinned,
    }


def _core(session: Session, about: dict[str, Any]) -> dict[str, Any] | None:
    """The single chosen module's ranked units, and the curve of its cores if it is unedited."""
    chosen = session.question.chosen
    if len(chosen) != 1 or not len(session.modules[chosen[0]].units):
        return None
    module = session.modules[chosen[0]]
    first = session.ranked(module.label)[:N_UNITS]
    frame = session.modules.units.select(first).to_frame()
    curve = None if session.history else about["cores"].get(module.label)
    return {
        "n_units": module.n_units,
        "size": session.question.core_size or module.n_units,
        "ranking": about["ranking"],
        "layers": module.layers,
        "curve": curve,
        "units": [
            {"at": int(at), "layer": int(layer), "unit": int(unit)}
            for at, layer, unit in zip(first, frame["layer"], frame["unit"], strict=True)
        ],
    }


def _outcome(outcome: Outcome, session: Session) -> dict[str, Any]:
    """The numbers, with the question that they answer."""
    now = session.asked()
    is_current = now.is_like(outcome.asked)
    asked = now if is_current else outcome.asked  # an edit may have given modules other names
    note = "" if is_current else _EARLIER
    if not outcome.is_whole:
        note = f"{note} {_UNFINISHED}".strip()
    return {
        "asked": without_halves(visible(asked.sentence())),
        "is_current": is_current,
        "note": note,
        "n_units": outcome.n_units,
        "tokens": _rows(outcome.tokens),
        "next_tokens": _rows(outcome.next_tokens),
        "losses": _rows(outcome.losses.reset_index()),
        "texts": [
            {"run": str(run), "text": without_halves(visible(str(text)))}
            for run, text in outcome.texts["text"].items()
        ],
    }


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows; what is not finite becomes None."""
    return [
        {str(name): _plain(value) for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return without_halves(visible(value))
    if isinstance(value, bool | np.bool_):
        return bool(value)
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None


def _text(said: str) -> str:
    return shortened(without_halves(visible(said)), _LONGEST)
