"""The conditions under which every call runs: checked arguments, warnings, memory, processes.

Nothing here uses a model or a module.
"""

from tl_modules.runtime import determinism as determinism  # sets how MKL adds up, on import
