"""The page of an exploration as an anywidget: state goes out as JSON, messages come in.

This file alone needs anywidget (extra ``viz``).
"""

import asyncio
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from tl_modules.errors import ModulesError

if TYPE_CHECKING:
    from tl_modules.report.explorer.explorer import Explorer

_HERE = files("tl_modules.report.explorer")
_PAUSE = 0.001
"""Seconds between two steps, in which the kernel reads messages: the stop button's, for one."""


class ExplorerWidget(anywidget.AnyWidget):
    """Shows an ``Explorer``, and does what is clicked.

    The model runs in the kernel's own loop, one step at a time: between steps, no hooks are on the
    model, so that cells may run.
    """

    _esm = (_HERE / "explorer.js").read_text("utf-8")
    _css = (_HERE / "explorer.css").read_text("utf-8")
    state = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: "Explorer") -> None:
        """Show the explorer's state."""
        super().__init__(state=explorer.state(), status=_status())
        self._explorer = explorer
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_msg(self._receive)

    def show(self) -> None:
        """Show the state as it is now."""
        self.state = self._explorer.state()

    def view(self) -> dict[str, Any]:
        """What Jupyter shows the widget by."""
        found: Any = self._repr_mimebundle_()
        bundle = found[0] if isinstance(found, tuple) else found or {}
        kept = "application/vnd.jupyter.widget-view+json"
        return {kept: bundle[kept]} if kept in bundle else {}

    def _receive(self, _: object, content: Any, __: object) -> None:
        """Do what the page asks for."""
        if not isinstance(content, Mapping):
            return
        answered = str(content.get("id"))
        if content.get("do") == "stop":
            self._number += 1
            self.status = _status(answered, said="Stopped.")
            return
        try:
            runs = self._explorer.receive(content)
        except ModulesError as error:
            self.status = _status(answered, error=str(error))
            return
        self.show()
        self._number += 1  # an earlier run ends at its next step
        if not runs:
            self.status = _status(answered)
            return
        self.status = _status(answered, total=1, said="starting")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no notebook: there is no loop that could go on meanwhile
            asyncio.run(self._run(self._number, answered))
            return
        task = loop.create_task(self._run(self._number, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, number: int, answered: str) -> None:
        """Answer the question, until another one comes or the stop button is pressed."""
        found = None
        try:
            for step in self._explorer.steps():
                if number != self._number:
                    return
                self.status = _status(answered, done=step.done, total=step.total, said=step.what)
                if step.outcome is not found:
                    found = step.outcome
                    self.show()
                await asyncio.sleep(_PAUSE)
        except ModulesError as error:
            self.status = _status(answered, error=str(error))
            return
        except Exception as error:
            self.status = _status(answered, error=f"{type(error).__name__}: {error}")
            raise
        self.status = _status(answered, said="Done.")


def _status(
    answered: str = "", *, done: int = 0, total: int = 0, said: str = "", error: str = ""
) -> dict[str, int | str]:
    """The message that was answered last, and how far the run is; ``total`` is 0 without one."""
    return {"answered": answered, "done": done, "total": total, "said": said, "error": error}
