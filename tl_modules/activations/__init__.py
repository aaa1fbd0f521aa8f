"""Turn prompts or activation caches into a matrix of samples x units.

The matrix is in memory, or in chunks on disk.
"""

from tl_modules.activations.collection import collect
from tl_modules.activations.collector import Collector
from tl_modules.activations.embedding_groups import EmbeddingAnnotator, embedding_annotator
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.reading import Reading
from tl_modules.activations.reference import Reference, collect_reference
from tl_modules.activations.store import ActivationStore, StoreWriter

__all__ = [
    "ActivationMatrix",
    "ActivationStore",
    "Collector",
    "EmbeddingAnnotator",
    "Reading",
    "Reference",
    "StoreWriter",
    "collect",
    "collect_reference",
    "embedding_annotator",
]
