"""Write one self-contained HTML page about modules, explore them, write files for other viewers.

The page can be read offline, and the notebook's page fetches nothing either.
"""

from tl_modules.report.explorer.explore import explore
from tl_modules.report.explorer.explorer import Explorer
from tl_modules.report.explorer.outcome import Outcome
from tl_modules.report.graph_file import write_attribution_graph
from tl_modules.report.neuron_list import write_neuronpedia_list
from tl_modules.report.page import write_report

__all__ = [
    "Explorer",
    "Outcome",
    "explore",
    "write_attribution_graph",
    "write_neuronpedia_list",
    "write_report",
]
