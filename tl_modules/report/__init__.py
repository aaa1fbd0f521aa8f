"""One self-contained HTML page: what each module is, where it lies and what ablating it does.

The page needs no network.
"""

from tl_modules.report.page import write_report

__all__ = [
    "write_report",
]
