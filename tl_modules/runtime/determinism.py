"""Equal bits from equal input, for every number of threads and every batch size."""

import os
from contextlib import AbstractContextManager
from typing import Any

# Makes Intel's MKL, with which torch multiplies on most CPUs, add in one order. MKL reads the
# variable at its first multiplication, so this also works if torch was imported earlier.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def rows_alike() -> AbstractContextManager[Any]:
    """Context manager in which a softmax's gradient does not depend on the number of threads.

    On CPUs, torch's own kernel rounds differently in one thread and in several. This replaces it
    for softmaxes over the last axis in float32, as attention uses.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    softmax_backward = torch.ops.aten._softmax_backward_data.default

    class RowsAlike(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is not softmax_backward or not _is_ours(*args):
                return func(*args, **(kwargs or {}))
            gradient, probabilities, _, dtype = args
            product = gradient * probabilities
            single = product.numel() == product.shape[-1]
            # Threads would split the sum of a single row between them; of two rows, each thread
            # sums one.
            sums = (torch.stack([product, product]) if single else product).sum(-1, keepdim=True)
            return (product - probabilities * (sums[0] if single else sums)).to(dtype)

    def _is_ours(gradient: Any, probabilities: Any, dim: int, dtype: Any) -> bool:
        """Whether this is a softmax over the last axis, in float32, on a CPU."""
        last = gradient.ndim > 0 and dim % gradient.ndim == gradient.ndim - 1
        on_cpu = gradient.device.type == "cpu" and gradient.dtype == torch.float32
        return last and on_cpu and gradient.numel() > 0

    return RowsAlike()


def one_thread() -> Any:
    """Context manager in which BLAS and OpenMP run in one thread, and so add in one order.

    The limit holds for the whole process, so enter it around a thread pool, not inside its threads.
    """
    import sklearn.cluster  # noqa: F401 - loads the libraries that are to be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
