"""The same bits from the same input, whatever the number of threads or the batch size is."""

import os
from contextlib import AbstractContextManager
from typing import Any

# Intel's MKL, which torch multiplies with on most CPUs, then adds up in one order. It reads this at
# its first multiplication, so that it also counts if torch was imported before.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def rows_alike() -> AbstractContextManager[Any]:
    """Context manager for a backward pass: a softmax's gradient is that of each row by itself.

    Torch's own kernel rounds rows otherwise in one thread than in several, on CPUs. It counts for
    softmaxes over the last axis in float32.
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
            # Threads would share the sum of a single row, but take one whole of two.
            sums = (torch.stack([product, product]) if single else product).sum(-1, keepdim=True)
            return (product - probabilities * (sums[0] if single else sums)).to(dtype)

    def _is_ours(gradient: Any, probabilities: Any, dim: int, dtype: Any) -> bool:
        """Attention's are: a softmax over the last axis, in float32, on a CPU."""
        last = gradient.ndim > 0 and dim % gradient.ndim == gradient.ndim - 1
        on_cpu = gradient.device.type == "cpu" and gradient.dtype == torch.float32
        return last and on_cpu and gradient.numel() > 0

    return RowsAlike()


def one_thread() -> Any:
    """Context manager: BLAS and OpenMP libraries run in one thread, and so add up in one order.

    It holds for the whole process: enter it around threads of one's own, not inside them.
    """
    import sklearn.cluster  # noqa: F401 - loads the libraries that are to be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)
