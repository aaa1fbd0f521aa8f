"""How many rows a forward pass has: as asked for, or as many as fit into memory."""

from collections.abc import Callable

from tl_modules.errors import ModulesError
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.runtime.memory import Found, unless_out_of_memory


class RowLimit:
    """The largest number of rows of a pass, which is halved where memory runs out."""

    def __init__(self, max_rows: int) -> None:
        """Begin with the number asked for.

        Args:
            max_rows: Rows of a pass, unless a batch of prompts itself has more.
        """
        self._rows = max_rows
        self._is_halved = False

    def rows(self, start: int, n_rows: int, n_copies: int, *, whole: bool) -> int:
        """How many rows the next pass has.

        Args:
            start: The first of them, among all copies of a batch of prompts, one after the other.
            n_rows: The rows of the batch.
            n_copies: How many copies there are.
            whole: Whether the pass should hold whole copies, or a part of one.
        """
        most = self._rows if self._is_halved else max(self._rows, n_rows)
        if not whole:
            return min(most, n_copies * n_rows - start)
        rest_of_copy = n_rows - start % n_rows
        if start % n_rows or most < n_rows:
            return min(most, rest_of_copy)
        return min(most // n_rows * n_rows, n_copies * n_rows - start)

    def tried(self, run: Callable[[], Found], n_rows: int) -> Found | None:
        """Run a pass.

        Args:
            run: Runs it.
            n_rows: The rows of the pass.

        Returns:
            What ``run`` returns; None if memory ran out, and fewer rows are to be tried.

        Raises:
            ModulesError: If memory ran out at a single row.
        """
        found = unless_out_of_memory(run)
        if found is not None:
            return found
        if n_rows == 1:
            raise ModulesError(
                "One prompt does not fit into memory. Pass a smaller max_tokens, or load the model "
                "in a narrower dtype or over several devices."
            )
        self._rows, self._is_halved = n_rows // 2, True
        warn_user(
            f"Memory ran out at a forward pass of {n_rows} rows; passes now have half as many. A "
            "smaller batch_size avoids the failed attempts."
        )
        return None
