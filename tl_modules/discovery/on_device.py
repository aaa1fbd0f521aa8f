"""The sums that IterD needs, by torch on a device such as a GPU."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.discovery.components import leading_components
from tl_modules.discovery.products import (
    InMemory,
    Moved,
    Products,
    SampleLabels,
    SampleSums,
    UnitLabels,
    UnitSums,
)
from tl_modules.errors import ModulesError
from tl_modules.runtime.memory import free_memory

_BLOCK_BYTES = 256 * 1024**2
"""Size of the part of the matrix that is in float64 at one time."""


class OnDevice:
    """A normalised matrix on a device; sums are matrix products in float64.

    The matrix's float32 values are exact in float64. A sum of n values therefore differs from the
    CPU's by at most n * 2^-52 times the sum of their magnitudes: both round each addition in
    float64, in different orders. The sweeps over units and samples are sequential and stay on the
    CPU.
    """

    def __init__(self, products: InMemory, n_modules: int, device: torch.device) -> None:
        """Copy a matrix to a device.

        Args:
            products: The matrix. It stays in the machine's memory, too.
            n_modules: K.
            device: The device, as ``checked_device`` returns it.

        Raises:
            ModulesError: If the matrix does not fit into the device's memory.
        """
        _check_fits(products, n_modules, device)
        self._host = products
        # torch warns of an array that cannot be written, such as a file's.
        self._matrix = torch.from_numpy(np.require(products.matrix, requirements="W")).to(device)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and number of units."""
        return self._host.shape

    def unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums:
        """See ``Products``.

        Raises:
            ModulesError: If a value of the matrix is not finite.
        """
        members = self._members(sample_labels, n_modules)
        sums = self._zeros(self.shape[1], n_modules)
        for start, rows in self._row_blocks(self._matrix):
            sums.addmm_(rows.T, members[start : start + len(rows)])
        found = sums.cpu().numpy()
        self._host.check_finite(found)
        return found

    def sample_sums(self, unit_labels: UnitLabels, n_modules: int) -> SampleSums:
        """See ``Products``."""
        members = self._members(unit_labels, n_modules)
        parts = [rows @ members for _, rows in self._row_blocks(self._matrix)]
        return torch.cat(parts).cpu().numpy()

    def shift_unit_sums(
        self, sums: UnitSums, moved: Moved, before: SampleLabels, after: SampleLabels
    ) -> None:
        """See ``Products``."""
        if not len(moved):
            return
        change = self._change(moved, before, after, sums.shape[1])
        added = self._zeros(*sums.shape)
        for start, rows in self._row_blocks(self._matrix[self._index(moved)]):
            added.addmm_(rows.T, change[start : start + len(rows)])
        sums += added.cpu().numpy()

    def shift_sample_sums(
        self, sums: SampleSums, moved: Moved, before: UnitLabels, after: UnitLabels
    ) -> None:
        """See ``Products``."""
        if not len(moved):
            return
        change = self._change(moved, before, after, sums.shape[1])
        columns = self._matrix.index_select(1, self._index(moved))
        parts = [rows @ change for _, rows in self._row_blocks(columns)]
        sums += torch.cat(parts).cpu().numpy()

    def sum_of_squares(self) -> float:
        """See ``Products``."""
        return float(sum((rows**2).sum().item() for _, rows in self._row_blocks(self._matrix)))

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """See ``Products``; block Krylov iteration."""
        n_samples = self.shape[0]
        means = self.unit_sums(np.zeros(n_samples, dtype=np.int64), 1)[:, 0] / n_samples
        centre = torch.from_numpy(means).to(self._matrix.device)
        n_columns = max(1, _BLOCK_BYTES // (8 * n_samples))

        def gram(basis: Float[np.ndarray, "samples width"]) -> Float[np.ndarray, "samples width"]:
            image, given = self._zeros(*basis.shape), torch.from_numpy(basis).to(centre.device)
            for start in range(0, len(means), n_columns):
                part = slice(start, start + n_columns)
                block = self._matrix[:, part].double() - centre[part]
                image += block @ (block.T @ given)
            return image.cpu().numpy()

        return leading_components(gram, None, n_samples, n_components, seed)

    def some_units(self) -> Float[np.ndarray, "samples some"]:
        """See ``Products``."""
        return self._host.some_units()

    def _row_blocks(
        self, matrix: Float[torch.Tensor, "rows columns"]
    ) -> Iterator[tuple[int, Float[torch.Tensor, "some columns"]]]:
        """The first row's number of each block of rows, and the block in float64."""
        n_rows = max(1, _BLOCK_BYTES // (8 * matrix.shape[1]))
        for start in range(0, len(matrix), n_rows):
            yield start, matrix[start : start + n_rows].double()

    def _zeros(self, *shape: int) -> Float[torch.Tensor, "items modules"]:
        return torch.zeros(shape, dtype=torch.float64, device=self._matrix.device)

    def _index(self, items: Moved) -> Int[torch.Tensor, " moved"]:
        return torch.from_numpy(items).to(self._matrix.device)

    def _members(
        self, labels: Int[np.ndarray, " items"], n_modules: int
    ) -> Float[torch.Tensor, "items modules"]:
        """1 where an item has a label, and 0 elsewhere."""
        index = torch.from_numpy(labels).to(self._matrix.device)
        return torch.nn.functional.one_hot(index, n_modules).double()

    def _change(
        self,
        moved: Moved,
        before: Int[np.ndarray, " items"],
        after: Int[np.ndarray, " items"],
        n_modules: int,
    ) -> Float[torch.Tensor, "moved modules"]:
        """-1 for the label that an item left, 1 for the label that it joined, and 0 elsewhere."""
        left, joined = (self._members(labels[moved], n_modules) for labels in (before, after))
        return joined - left


def placed(products: InMemory, n_modules: int, device: torch.device | None) -> Products:
    """The matrix on the device of its sums.

    Args:
        products: The matrix.
        n_modules: K.
        device: As ``checked_device`` returns it; None leaves the sums to the CPU's compiled loops.

    Raises:
        ModulesError: If the matrix does not fit into the device's memory.
    """
    return products if device is None else OnDevice(products, n_modules, device)


def checked_device(device: str | torch.device | None) -> torch.device | None:
    """The device of this name; None for the CPU's compiled loops.

    Raises:
        ModulesError: If torch has no such device, or the device has no float64.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.zeros(1, dtype=torch.float64, device=found).item()
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModulesError(
            f"device should be a device that torch has, with float64; got {str(device)!r} "
            f"({reason}). Leave device=... out to search on the CPU."
        ) from error
    return found


def _check_fits(products: InMemory, n_modules: int, device: torch.device) -> None:
    """Refuse a matrix that does not fit into a device's memory.

    Raises:
        ModulesError: If it does not.
    """
    n_samples, n_units = products.shape
    # The matrix, the rows or columns that moved (half of them at most), blocks, and sums.
    sums = 3 * 8 * n_modules * (n_samples + n_units)
    needed = 3 * products.matrix.nbytes // 2 + 2 * _BLOCK_BYTES + sums
    free = free_memory(device)
    if needed > free:
        raise ModulesError(
            f"A search on {device} takes about {needed / 1e9:,.1f} GB of its memory; "
            f"{free / 1e9:,.1f} GB is free. Leave device=... out to search on the CPU."
        )
