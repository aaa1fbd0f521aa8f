"""Write one self-contained HTML page about modules: topics, layers, effects of ablating them.

The page can be read offline.
"""

from tl_modules.report.page import write_report

__all__ = [
    "write_report",
]
