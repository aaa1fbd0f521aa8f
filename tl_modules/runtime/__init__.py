"""What every call relies on: checked arguments, warnings, memory, processes, determinism.

Nothing here knows of models or modules.
"""

from tl_modules.runtime import determinism as determinism  # sets how MKL adds up, on import
