"""The page of an exploration as an anywidget: state goes out as JSON, messages come in.

This file alone needs anywidget (extra ``viz``).
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from tl_modules.errors import ModulesError

if TYPE_CHECKING:
    from tl_modules.report.explorer.explorer import Explorer
    from tl_modules.report.explorer.runner import Step

_HERE = files("tl_modules.report.explorer")
_PAUSE = 0.001
"""Seconds between two steps, in which the kernel reads messages: the stop button's, for one."""


class ExplorerWidget(anywidget.AnyWidget):
    """Shows an ``Explorer``, and does what is clicked.

    The model runs in the loop and the thread in which the widget was made, those of the cells, one
    step at a time. Between steps, no hooks are on the model, so that cells may run. JupyterLab
    delivers clicks in another thread of the kernel; they are handed over.
    """

    _esm = (_HERE / "explorer.js").read_text("utf-8")
    _css = (_HERE / "explorer.css").read_text("utf-8")
    state = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: "Explorer") -> None:
        """Show the explorer's state."""
        self._explorer = explorer
        self._answered = ""
        super().__init__(state=explorer.state(), status=self._status())
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.get_ident()
        self._loop = _running_loop()
        self.on_msg(self._receive)

    def show(self) -> None:
        """Show the state as it is now."""
        self.state = self._explorer.state()

    def show_status(self) -> None:
        """Show how far a run is."""
        self.status = self._status()

    def _status(self) -> dict[str, int | str]:
        """The explorer's status, with the message that was answered last."""
        return {"answered": self._answered, **self._explorer.status()}

    def view(self) -> dict[str, Any]:
        """What Jupyter shows the widget by."""
        found: Any = self._repr_mimebundle_()
        bundle = found[0] if isinstance(found, tuple) else found or {}
        kept = "application/vnd.jupyter.widget-view+json"
        return {kept: bundle[kept]} if kept in bundle else {}

    def _receive(self, _: object, content: Any, __: object) -> None:
        """Do what the page asks for, in the thread of the cells: hooks on the model are seen there.

        JupyterLab 4.4 and later deliver clicks in a thread of their own (a kernel's subshell).
        """
        if not isinstance(content, Mapping):
            return
        if self._loop is not None and threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._receive_here, content)
        else:
            self._receive_here(content)

    def _receive_here(self, content: Mapping[str, Any]) -> None:
        """Do what the page asks for."""
        self._answered = str(content.get("id"))
        steps = self._explorer.receive(content)
        if steps is None:
            return
        loop = _running_loop()
        if loop is None:  # no notebook: there is no loop that could go on meanwhile
            asyncio.run(_done(steps))
            return
        task = loop.create_task(_done(steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread; None in plain Python."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _done(steps: "Iterator[Step]") -> None:
    """Do all steps of a run, unless another one replaces it or it is stopped."""
    with suppress(ModulesError):  # the explorer's status says it
        for _ in steps:
            await asyncio.sleep(_PAUSE)
