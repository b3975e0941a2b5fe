"""Paired comparison of models that were evaluated on the same cases under the same conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import bootstrap, wilcoxon

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.metrics import Metric, metric
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import MEAN_KEY, MEAN_NAME

RESAMPLES = 10_000
CONFIDENCE = 0.95
_SHOWN = 5


@dataclass(frozen=True)
class PairedResult:
    """Comparison of two models in one metric and class.

    Attributes:
        first: Name of the model compared with.
        second: Name of the model compared.
        label: Name of the class, ``None`` for the mean over classes in each case.
        key: nnU-Net's key of the class, ``foreground_mean`` for the mean over classes.
        metric: Metric.
        n: Cases compared.
        mean_first: Mean of the first model over these cases.
        mean_second: Mean of the second model.
        difference: Mean of second minus first over cases.
        low: Lower end of the 95 % bootstrap interval of the difference.
        high: Upper end.
        wins: Cases in which the second model is better.
        losses: Cases in which it is worse.
        ties: Cases in which both are equal.
        p: Two-sided Wilcoxon signed-rank p-value.
        p_holm: The same after Holm's correction over all rows of the comparison.
    """

    first: str
    second: str
    label: str | None
    key: str
    metric: str
    n: int
    mean_first: float
    mean_second: float
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int
    p: float
    p_holm: float = float("nan")


def load_models(folders: Mapping[str, Path], common: bool = False) -> tuple[dict[str, Evaluation], list[str]]:
    """Load results that are to be compared.

    Args:
        folders: Result folder of ``nnunet-ext evaluate`` by model name, at least two.
        common: Compare on the common cases where the models were not evaluated on the same ones.

    Returns:
        The models and notes for the reader.

    Raises:
        UserError: If conventions, classes or cases differ.
    """
    if len(folders) < 2:
        raise UserError("name at least two results to compare, as NAME=RESULT_DIR")
    models = {name: Evaluation.load(folder) for name, folder in folders.items()}
    (first_name, first), *others = models.items()
    for name, other in others:
        ours, theirs = first.conventions.to_dict(), other.conventions.to_dict()
        differing = [key for key in ours if key != "preset" and ours[key] != theirs[key]]
        if differing:
            key = differing[0]
            raise UserError(
                f"{first_name} and {name} were evaluated under different conventions "
                f"({key}: {ours[key]} and {theirs[key]}); evaluate them again with the same options"
            )
        if set(first.targets) != set(other.targets):
            raise UserError(f"{first_name} and {name} were evaluated on different classes")
    return _on_same_cases(models, common)


def _on_same_cases(models: dict[str, Evaluation], common: bool) -> tuple[dict[str, Evaluation], list[str]]:
    cases = {name: {str(case["case"]) for case in e.cases} for name, e in models.items()}
    shared = set.intersection(*cases.values())
    every = set.union(*cases.values())
    if shared == every:
        return models, []
    if not common:
        odd = sorted(every - shared)
        owner = next(name for name, own in cases.items() if odd[0] not in own)
        names = ", ".join(odd[:_SHOWN]) + (f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else "")
        raise UserError(
            f"the models were not evaluated on the same cases ({names}; {owner} lacks {odd[0]}); evaluate the rest or "
            "choose --common to compare on the cases they share"
        )
    if not shared:
        raise UserError("the models have no case in common")
    kept = {
        name: replace(
            e,
            table=e.table[e.table["case"].isin(shared)].reset_index(drop=True),
            cases=tuple(case for case in e.cases if case["case"] in shared),
        )
        for name, e in models.items()
    }
    return kept, [f"Compared on the {len(shared)} cases that all models share, of {len(every)}."]


def compare(
    models: Mapping[str, Evaluation],
    metrics: Sequence[str] = ("Dice", "ASSD", "HD95"),
    all_pairs: bool = False,
    seed: int = 0,
) -> list[PairedResult]:
    """Compare every model with the first one, or every pair, case by case.

    Where a class is in neither label map for one model but the other model predicts it, the first is right and gets the
    ideal value, so that a false positive counts against its model. Holm's correction runs over all rows returned.

    Args:
        models: Evaluations by model name, on the same cases.
        metrics: Metrics to compare.
        all_pairs: Every pair in place of all against the first.
        seed: Seed of the bootstrap.

    Raises:
        UserError: If a metric is unknown.
    """
    first = next(iter(models.values()))
    unknown = [name for name in metrics if name not in first.metrics]
    if unknown:
        raise UserError(f"no metric {', '.join(unknown)}; choose among {', '.join(first.metrics)}")
    names = list(models)
    pairs = list(combinations(names, 2)) if all_pairs else [(names[0], name) for name in names[1:]]
    classes: list[tuple[str | None, str]] = [(t.name, t.key) for t in first.targets]
    classes += [(None, MEAN_KEY)] if len(first.targets) > 1 else []
    rng = np.random.default_rng(seed)
    results = [
        _compare_pair(a, b, models[a].per_case(label), models[b].per_case(label), (label, key), metric(name), rng)
        for a, b in pairs
        for name in metrics
        for label, key in classes
    ]
    corrected = holm([r.p for r in results])
    return [replace(r, p_holm=float(p)) for r, p in zip(results, corrected, strict=True)]


def _compare_pair(
    first: str,
    second: str,
    first_values: pd.DataFrame,
    second_values: pd.DataFrame,
    classified: tuple[str | None, str],
    described: Metric,
    rng: np.random.Generator,
) -> PairedResult:
    both = scored_by_either(first_values[described.name], second_values[described.name], described)
    a, b = both["first"].to_numpy(float), both["second"].to_numpy(float)
    difference, gain = differences_and_gains(a, b, described)
    with np.errstate(invalid="ignore"):
        low, high = bootstrap_interval(difference, rng)
        means = [float(v.mean()) if v.size else float("nan") for v in (a, b, difference)]
    return PairedResult(
        first=first,
        second=second,
        label=classified[0],
        key=classified[1],
        metric=described.name,
        n=a.size,
        mean_first=means[0],
        mean_second=means[1],
        difference=means[2],
        low=low,
        high=high,
        wins=int((gain > 0).sum()),
        losses=int((gain < 0).sum()),
        ties=int((gain == 0).sum()),
        # Signed metrics are compared by their distance from 0: a model is not better for erring to one side.
        p=signed_rank(gain if described.direction == "zero" else difference),
    )


def scored_by_either(first: pd.Series, second: pd.Series, described: Metric) -> pd.DataFrame:
    """Values of two models side by side, columns ``first`` and ``second``.

    A row in which neither has a value is left out. Where one has none, the class is in neither label map for it: it is
    right and gets the ideal value.

    Args:
        first: Values of the first model, indexed by case.
        second: Values of the second model.
        described: The metric.
    """
    return pd.DataFrame({"first": first, "second": second}).dropna(how="all").fillna(described.ideal)


def differences_and_gains(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], described: Metric
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Second minus first, and by how much the second is better; two infinite distances are a tie.

    Args:
        first: Values of the first model.
        second: Values of the second model, of the same shape.
        described: The metric; decides what is better.
    """
    equal = first == second  # asked first: the difference of two infinite distances is not a number
    difference = np.where(equal, 0.0, np.subtract(second, first, where=~equal, out=np.zeros_like(first)))
    with np.errstate(invalid="ignore"):
        gain = np.where(equal, 0.0, described.loss(first) - described.loss(second))
    return difference, gain


def bootstrap_interval(
    differences: npt.NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of paired differences, cases resampled with replacement.

    Args:
        differences: One value per case.
        rng: Random generator.
        resamples: Number of resamples.

    Returns:
        Ends of the 95 % interval; NaN for fewer than two cases.
    """
    if differences.size < 2:
        return float("nan"), float("nan")
    made = bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // differences.size),  # bounds the memory
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    )
    return float(made.confidence_interval.low), float(made.confidence_interval.high)


def signed_rank(differences: npt.NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where all differences are 0, NaN without any."""
    if differences.size == 0:
        return float("nan")
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Holm's step-down correction; NaN stays NaN and does not count as a test.

    Args:
        p_values: Raw p-values.

    Returns:
        Adjusted p-values in the same order.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def as_frame(results: Sequence[PairedResult]) -> pd.DataFrame:
    """A row per comparison, stored units; ``key`` tells the mean over classes from a class of any name."""
    return pd.DataFrame([vars(r) | {"label": MEAN_NAME if r.label is None else r.label} for r in results])
