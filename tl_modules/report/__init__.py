"""Write one self-contained HTML page about modules, or explore them in a notebook.

The page can be read offline, and the notebook's page fetches nothing either.
"""

from tl_modules.report.explorer.explore import explore
from tl_modules.report.explorer.explorer import Explorer
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.page import write_report

__all__ = [
    "Explorer",
    "Outcome",
    "explore",
    "write_report",
]
