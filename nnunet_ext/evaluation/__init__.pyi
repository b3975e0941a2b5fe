from .case import ClassResult, evaluate_pair
from .conventions import Conventions, conventions_from
from .folders import evaluate_folders
from .metrics import Metric, metric, metric_names, relative_dice
from .results import Evaluation
from .scores import chaos_score, sliver07_score
from .statistics import PairedResult, bootstrap_interval, compare, holm
from .surface import surface_distances
from .targets import LabelScheme, label_scheme

__all__ = [
    "ClassResult",
    "Conventions",
    "Evaluation",
    "LabelScheme",
    "Metric",
    "PairedResult",
    "bootstrap_interval",
    "chaos_score",
    "compare",
    "conventions_from",
    "evaluate_folders",
    "evaluate_pair",
    "holm",
    "label_scheme",
    "metric",
    "metric_names",
    "relative_dice",
    "sliver07_score",
    "surface_distances",
]
