"""What ``explore`` returns: modules to play with, on a page or in Python."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.actions import act
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.explorer.payload import payload
from tl_modules.report.explorer.runner import Runner, Step
from tl_modules.report.explorer.session import Kind, Session
from tl_modules.report.explorer.static import static_html

if TYPE_CHECKING:
    from tl_modules.report.explorer.widget import ExplorerWidget

_HOW_TO_INSTALL = (
    "The interactive page needs anywidget: pip install anywidget (it is in the extra 'viz'), then "
    "restart the kernel. This is the same state without controls; explorer.run(...) changes it."
)
_NO_SCRIPTS = "Buttons and sliders show where widgets run, such as in JupyterLab."


class Explorer:
    """Modules to play with: what ``explore`` returns."""

    def __init__(self, session: Session, runner: Runner, about: Mapping[str, Any]) -> None:
        """Hold the parts; ``explore`` makes them."""
        self._session = session
        self._runner = runner
        self._about = dict(about)
        self._outcome: Outcome | None = None
        self._widget: ExplorerWidget | None = None

    @property
    def modules(self) -> ModuleSet:
        """The set as edited.

        Scores, verdicts and the objective are kept where the edits leave them true; elsewhere they
        are missing (NaN, None).
        """
        return self._session.modules

    @property
    def history(self) -> tuple[str, ...]:
        """The edits that led to ``modules``, one line each."""
        return self._session.history

    @property
    def outcome(self) -> Outcome | None:
        """What the last run found; None before the first."""
        return self._outcome

    def run(
        self,
        *,
        prompt: str | None = None,
        chosen: Sequence[int] | None = None,
        kind: Kind | None = None,
        factor: float | None = None,
        other_prompt: str | None = None,
        core_size: int | None = None,
        n_new_tokens: int | None = None,
        control: int | None = None,
    ) -> Outcome:
        """Change the question, run the model, and update the page.

        Args:
            prompt: The prompt.
            chosen: The numbers of the modules that are changed together.
            kind: What becomes of their units: ``"ablate"`` (their means), ``"scale"`` (times
                ``factor``), ``"patch"`` (their values on ``other_prompt``).
            factor: The factor of ``"scale"``.
            other_prompt: The prompt of ``"patch"``; it has as many tokens as ``prompt``.
            core_size: How many units of a single chosen module to change, first in its ranking.
            n_new_tokens: How many tokens the model writes; 0 for none.
            control: The number of the random control: another number draws another one.

        Returns:
            What was found. What is None stays as it was.

        Raises:
            ModulesError: If a value does not fit.
        """
        given = {
            "prompt": prompt,
            "chosen": chosen,
            "kind": kind,
            "factor": factor,
            "other_prompt": other_prompt,
            "core_size": core_size,
            "n_new_tokens": n_new_tokens,
            "control": control,
        }
        self._session.ask(**{name: value for name, value in given.items() if value is not None})
        for _ in self.steps():
            pass
        assert self._outcome is not None
        return self._outcome

    def merge(self, numbers: Sequence[int]) -> None:
        """Merge modules into the first of them.

        Args:
            numbers: Two modules or more.

        Raises:
            ModulesError: If there are fewer, or fewer than two modules would be left.
        """
        self._session.merge(numbers)
        self._again()

    def split(self, k: int, *, n: int | None = None, layer: int | None = None) -> None:
        """Split a module in two; the new one is the last of the set, and has no samples.

        Args:
            k: The module.
            n: It keeps the first n units of its ranking.
            layer: It keeps its units up to this layer.

        Raises:
            ModulesError: If not exactly one of ``n`` and ``layer`` is given, or one part is empty.
        """
        self._session.split(k, n=n, layer=layer)
        self._again()

    def move(self, units: Sequence[tuple[int, int]], to: int | None) -> None:
        """Move units into a module, or out of all modules.

        Args:
            units: Pairs ``(layer, unit)``.
            to: The module; None for none.

        Raises:
            ModulesError: If there is no such unit or module, or nothing to move.
        """
        self._session.move(self._session.positions(units), to)
        self._again()

    def rename(self, k: int, name: str) -> None:
        """Name a module: the name becomes its topic's label. Its own category stays.

        Args:
            k: The module.
            name: The name, which no other module has.

        Raises:
            ModulesError: If the name does not fit.
        """
        self._session.rename(k, name)
        self._show()

    def keep_core(self, k: int, n: int) -> None:
        """Take all but the first n units of a module's ranking out of it.

        Args:
            k: The module.
            n: How many units it keeps.

        Raises:
            ModulesError: If it has no more units already.
        """
        self._session.keep_core(k, n)
        self._again()

    def pin(self, k: int) -> None:
        """Pin a module to the top of the list, or unpin it.

        Args:
            k: The module.
        """
        self._session.pin(k)
        self._show()

    def undo(self) -> None:
        """Take the last edit back.

        Raises:
            ModulesError: If there is none.
        """
        self._session.undo()
        self._again()

    def receive(self, message: Mapping[str, Any]) -> bool:
        """Do what the page asks for.

        Args:
            message: ``{"do": ...}`` with what the action needs. It is untrusted.

        Returns:
            Whether the model has to run again.

        Raises:
            ModulesError: If the page asks for what cannot be done.
        """
        return act(self._session, message)

    def steps(self) -> Iterator[Step]:
        """Answer the question step by step, and keep what is found.

        Yields:
            How far the run is.

        Raises:
            ModulesError: If the question cannot be answered.
        """
        for step in self._runner.steps(self._session):
            if step.outcome is not None:
                self._outcome = step.outcome
            yield step
        self._show()

    def state(self) -> dict[str, Any]:
        """What the page shows, JSON-ready."""
        return payload(self._session, self._outcome, self._about)

    def _again(self) -> None:
        """Run the question again after an edit."""
        if self._session.question.prompt:
            self.run()
        else:
            self._show()

    def _show(self) -> None:
        """Update the page, if there is one."""
        if self._widget is not None:
            self._widget.show()

    def __repr__(self) -> str:
        """One line."""
        n = len(self.history)
        return f"Explorer({self.modules.n_modules} modules, {n} edit{'' if n == 1 else 's'})"

    def _repr_html_(self) -> str:
        """The state as tables, where widgets do not run."""
        return static_html(self.state(), _NO_SCRIPTS if _has_widgets() else _HOW_TO_INSTALL)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """For Jupyter: the page, and the tables for where it does not run."""
        del include, exclude
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if _has_widgets():
            bundle |= self.widget().view()
        return bundle

    def widget(self) -> "ExplorerWidget":
        """The page as a widget, one for all the places where it is shown.

        Raises:
            ModulesError: If anywidget is not installed.
        """
        if not _has_widgets():
            raise ModulesError(_HOW_TO_INSTALL)
        from tl_modules.report.explorer.widget import ExplorerWidget

        if self._widget is None:
            self._widget = ExplorerWidget(self)
        return self._widget


def _has_widgets() -> bool:
    return find_spec("anywidget") is not None
