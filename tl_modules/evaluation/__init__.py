"""Measure how good modules are without intervening on a model.

This covers the paper's downstream test, agreement between module sets, labels from several
annotators, an audit of labels, and comparisons of discovery methods and of detectors.
"""

from tl_modules.evaluation.annotations import Annotations, annotate
from tl_modules.evaluation.comparison import compare_methods, split_by_category
from tl_modules.evaluation.detectors import Detectors, compare_detectors
from tl_modules.evaluation.downstream import Probe, probe, probe_accuracy, probe_confusion
from tl_modules.evaluation.label_audit import LabelAudit, label_audit
from tl_modules.evaluation.matching import ModuleMatch, match_modules

__all__ = [
    "Annotations",
    "Detectors",
    "LabelAudit",
    "ModuleMatch",
    "Probe",
    "annotate",
    "compare_detectors",
    "compare_methods",
    "label_audit",
    "match_modules",
    "probe",
    "probe_accuracy",
    "probe_confusion",
    "split_by_category",
]
