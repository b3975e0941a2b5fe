"""Ranks of arms over datasets, and how stable they are (Wiesenfarth et al. 2021, challengeR, in spirit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import kendalltau, rankdata

from nnunet_ext.benchmark.report.collect import Results
from nnunet_ext.benchmark.report.scores import classes, per_case
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.evaluation.metrics import metric

RESAMPLES = 1000


@dataclass(frozen=True)
class Ranking:
    """Ranks of arms in one setting, or over settings.

    Attributes:
        title: Dataset, or ``all datasets``.
        metric: Metric, of the mean over classes or the only class.
        arms: Arms, in the order of the specification.
        cases: Cases that every arm has been scored on, in the same folds and seeds.
        ranks: Rank of each arm, 1 the best, equal arms share the mean of theirs; over datasets: the mean of the ranks.
        bootstrap: The same for each resample of the cases, (resamples, arms).
        tau: Mean of Kendall's tau between ``ranks`` and the ranks of a resample; 1 is a ranking that never changes.
        tau_low: 2.5th percentile.
        tau_high: 97.5th percentile.
    """

    title: str
    metric: str
    arms: tuple[str, ...]
    cases: int
    ranks: npt.NDArray[np.float64]
    bootstrap: npt.NDArray[np.float64]
    tau: float
    tau_low: float
    tau_high: float

    def share(self, arm: int) -> dict[float, float]:
        """Share of the resamples in which an arm (by number) has each rank, best rank first.

        Over datasets, the rank of the arm's mean rank among those of the others.
        """
        places = rankdata(self.bootstrap, axis=1)[:, arm]
        found, counts = np.unique(places, return_counts=True)
        return dict(zip(found.tolist(), (counts / places.size).tolist(), strict=True))

    def first(self, arm: int) -> float:
        """Share of the resamples in which an arm is best, alone or together with others."""
        return float((self.bootstrap[:, arm] == self.bootstrap.min(axis=1)).mean())


def losses(results: Results, setting: Setting, name: str) -> pd.DataFrame:
    """Losses (smaller is better) of the arms on the cases that all of them have.

    An arm without finished cells is left out. A value that is undefined for some arms is ideal for them; for all arms,
    the case is left out.

    Returns:
        A row per case, the mean over its folds and seeds; a column per arm.
    """
    table = per_case(results, setting, name)
    arms = [arm for arm in results.specification.arm_names if arm in table.index.get_level_values("arm")]
    if not arms:
        return pd.DataFrame()
    labels = classes(results, setting)
    values = table[len(labels) - 1 if None in labels else 0]
    own = [values.loc[arm] for arm in arms]
    shared = own[0].index
    for other in own[1:]:
        shared = shared.intersection(other.index)
    described = metric(name)
    wide = pd.concat([v.loc[shared] for v in own], axis=1, keys=arms).dropna(how="all").fillna(described.ideal)
    lost = pd.DataFrame(described.loss(wide.to_numpy(float)), wide.index, wide.columns)
    return lost.groupby(level="case").mean()


def rank(title: str, name: str, lost: pd.DataFrame, rng: np.random.Generator, resamples: int = RESAMPLES) -> Ranking:
    """Rank arms by their mean loss, and again for resamples of the cases.

    Args:
        title: Dataset.
        name: Metric.
        lost: A row per case, a column per arm, smaller is better; at least one case.
        rng: Random generator.
        resamples: Number of resamples.
    """
    values = lost.to_numpy(float)
    cases = len(values)
    means = np.stack([values[rng.integers(cases, size=cases)].mean(axis=0) for _ in range(resamples)])
    arms = tuple(map(str, lost.columns))
    return _ranking(title, name, arms, cases, rankdata(values.mean(axis=0)), rankdata(means, axis=1))


def rank_over(title: str, rankings: Sequence[Ranking]) -> Ranking:
    """Mean rank over datasets, cases resampled within each of them.

    Args:
        title: What they are together.
        rankings: Of the same arms and number of resamples.
    """
    first = rankings[0]
    ranks = np.mean([r.ranks for r in rankings], axis=0)
    resampled = np.mean([r.bootstrap for r in rankings], axis=0)
    return _ranking(title, first.metric, first.arms, sum(r.cases for r in rankings), ranks, resampled)


def agreement(rankings: Sequence[Ranking]) -> dict[tuple[str, str], float]:
    """Kendall's tau between the rankings of each pair of datasets; NaN where one ranks all arms equal."""
    return {(a.title, b.title): _tau(a.ranks, b.ranks) for a, b in combinations(rankings, 2)}


def rankings(results: Results, name: str) -> Mapping[str, list[Ranking]]:
    """Rankings by configuration and plans (no name where there is one of each).

    One for each dataset and, last, over datasets where there are several.

    Datasets on which an arm that others have is not finished do not enter the ranking over datasets, which would
    otherwise be over different arms; they keep their own. Fewer than two arms rank nothing.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[Ranking]] = {}
    specification = results.specification
    several = len(specification.configurations) * len(specification.plans) > 1
    for setting in specification.settings:
        lost = losses(results, setting, name)
        if lost.shape[0] and lost.shape[1] > 1:
            group = f"{setting.configuration} · {setting.plans}" if several else ""
            found.setdefault(group, []).append(rank(setting.dataset, name, lost, rng))
    for own in found.values():
        every = tuple(a for a in specification.arm_names if any(a in r.arms for r in own))
        whole = [r for r in own if r.arms == every]
        if len(whole) > 1:
            own.append(rank_over(f"{len(whole)} datasets", whole))
    return found


def _ranking(
    title: str,
    name: str,
    arms: tuple[str, ...],
    cases: int,
    ranks: npt.NDArray[np.float64],
    resampled: npt.NDArray[np.float64],
) -> Ranking:
    # Resamples repeat few rankings: each is compared once.
    unique, counts = np.unique(resampled, axis=0, return_counts=True)
    taus = np.repeat([_tau(ranks, one) for one in unique], counts)
    taus = taus[~np.isnan(taus)]
    low, high = np.percentile(taus, (2.5, 97.5)) if taus.size else (np.nan, np.nan)
    mean = float(taus.mean()) if taus.size else float("nan")
    return Ranking(title, name, arms, cases, ranks, resampled, mean, float(low), float(high))


def _tau(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(kendalltau(first, second).statistic)
