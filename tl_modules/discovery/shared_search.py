"""A search over a store that the processes of torch.distributed share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.search import SearchOptions, search
from tl_modules.discovery.streamed import Streamed
from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.processes import process_group


def search_together(
    store: ActivationStore, options: SearchOptions, check_memory: Callable[[int], object]
) -> ModuleSet:
    """Search on the first process with the others' help, and return the modules on every process.

    Args:
        store: The store.
        options: The options of the search.
        check_memory: Called on the first process with the number of processes on its machine;
            raises if the search takes more memory than it may.

    Raises:
        ModulesError: If the calls of the processes differ, the search takes too much memory, or a
            process has ended.
    """
    with process_group(True) as processes:
        # Processes may ask for different progress bars and numbers of threads.
        compared = replace(options, n_jobs=1, progress=False)
        processes.check_same({"the stores": str(store.chunks), "the options": str(compared)})
        processes.from_first(lambda: check_memory(processes.on_machine))
        scaler = store.fit_zscore(processes)
        products = Streamed(store, scaler, processes)
        arrays: dict[str, Any] = {}

        def run() -> dict[str, Any]:
            """Search; return the modules' JSON header and the names of their arrays."""
            try:
                header, found_arrays = search(store, scaler, products, options).parts()
            except ModulesError:
                # Between steps the others wait for the next one; within a step they wait for data,
                # and no message of ours would reach them.
                if not products.in_step:
                    products.stop()
                raise
            products.stop()
            arrays.update(found_arrays)
            return {"header": header, "arrays": list(found_arrays)}

        if not processes.is_first:
            products.serve()
        described = processes.from_first(run, raise_alone=lambda: products.in_step)
        arrays = {name: processes.broadcast(arrays.get(name)) for name in described["arrays"]}
    return ModuleSet.from_parts(described["header"], arrays)
