"""Write one self-contained HTML page about modules, and files about them for other viewers.

The page can be read offline: topics, layers, effects of ablating modules.
"""

from tl_modules.report.graph_file import write_attribution_graph
from tl_modules.report.neuron_list import write_neuronpedia_list
from tl_modules.report.page import write_report

__all__ = [
    "write_attribution_graph",
    "write_neuronpedia_list",
    "write_report",
]
