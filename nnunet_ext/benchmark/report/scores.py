"""Scores of arms, paired differences to the reference arm, and what a dataset can tell apart.

A case is scored once by each cell that has it in its validation. What is undefined, and what it is compared with, is
ruled by :mod:`nnunet_ext.evaluation.statistics`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import f as f_distribution

from nnunet_ext.benchmark.report.collect import Results
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.benchmark.scores import columns_of
from nnunet_ext.evaluation.metrics import POOLED_COUNTS, Metric, metric, pooled_metrics
from nnunet_ext.evaluation.statistics import (
    bootstrap_interval,
    differences_and_gains,
    holm,
    scored_by_either,
    signed_rank,
)

KEYS = ["arm", "fold", "seed", "case"]


@dataclass(frozen=True)
class Score:
    """An arm's score in one setting, class and metric, in stored units.

    Attributes:
        setting: Where.
        arm: Arm.
        label: Class, ``None`` for the mean over classes of each case.
        metric: Metric.
        folds: Folds with at least one finished cell.
        cells: Finished cells.
        values: Values of cases, over all cells.
        undefined: Those without a value (class in neither label map).
        mean: Mean over folds of the mean over the cells of the fold; a cell is that of :func:`per_cell`.
        fold_std: Standard deviation over folds (n - 1); NaN for a single fold.
        seed_std: Standard deviation over seeds within a fold, pooled over folds; NaN for a single seed.
    """

    setting: Setting
    arm: str
    label: str | None
    metric: str
    folds: int
    cells: int
    values: int
    undefined: int
    mean: float
    fold_std: float
    seed_std: float


@dataclass(frozen=True)
class Difference:
    """An arm against the reference arm, over the cases that both have in the same fold and seed.

    Attributes:
        setting: Where.
        reference: Reference arm.
        arm: Arm.
        label: Class, ``None`` for the mean over classes of each case.
        metric: Metric.
        pairs: Pairs of values of a case in the same fold and seed.
        cases: Cases; a case in several seeds is one.
        left_out: Values of either arm that have no partner, as a cell is missing or has failed.
        mean_reference: Mean of the reference over cases.
        mean_arm: Mean of the arm over cases.
        difference: Arm minus reference, mean over cases, each the mean over its seeds.
        low: Lower end of the 95 % bootstrap interval, cases resampled with all their seeds.
        high: Upper end.
        wins: Cases in which the arm is better.
        losses: Cases in which it is worse.
        ties: Cases in which both are equal.
        p: Two-sided Wilcoxon signed-rank p-value over cases.
        p_holm: After Holm's correction, over arms and metrics for the mean over classes (or the only class), over
            arms, metrics and classes for the others.
        per_case: Difference of each case, cases in alphabetical order.
    """

    setting: Setting
    reference: str
    arm: str
    label: str | None
    metric: str
    pairs: int
    cases: int
    left_out: int
    mean_reference: float
    mean_arm: float
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int
    p: float
    p_holm: float
    per_case: pd.Series


@dataclass(frozen=True)
class Spread:
    """Spread between arms against spread within an arm, over the cells that all arms have.

    Attributes:
        setting: Where.
        metric: Metric, of the mean over classes or the only class.
        arms: Arms that have finished cells.
        folds: Folds, seeds of them that every one of these arms has finished.
        cells: Cells of each arm that enter.
        between: Standard deviation of the arms' means.
        over_folds: Standard deviation over folds within an arm, pooled over arms: how unlike the folds are.
        over_seeds: Standard deviation over seeds within an arm and fold, pooled; NaN without a second seed.
        within: What ``between`` is compared with: ``over_seeds`` where there are several seeds, else what is left of
            the scores after the effects of arms and folds are taken out.
        by: ``seeds`` or ``folds``, whichever ``within`` is from; empty where there is neither.
        f: Ratio of variances, analysis of variance.
        p: Its p-value, the chance of such a ratio if the arms were equal.
    """

    setting: Setting
    metric: str
    arms: tuple[str, ...]
    folds: int
    cells: int
    between: float
    over_folds: float
    over_seeds: float
    within: float
    by: str
    f: float
    p: float

    @property
    def tells_apart(self) -> bool | None:
        """Whether the dataset tells the arms apart; ``None`` where there is too little to say."""
        return None if np.isnan(self.p) else bool(self.p < 0.05)


def classes(results: Results, setting: Setting) -> list[str | None]:
    """Classes in the order of the files, merged ones last, and ``None`` for their mean where there are several."""
    values = _of(results.values, setting)
    found = list(dict.fromkeys(values["label"]))
    merged = results.specification.merged
    plain = [label for label in found if label not in merged]
    return [*plain, *(label for label in found if label in merged), *([None] if len(plain) > 1 else [])]


def per_case(results: Results, setting: Setting, name: str) -> pd.DataFrame:
    """Values of a metric in a setting.

    Returns:
        Index (arm, fold, seed, case), a column for each of :func:`classes`, called by its position there; the last one
        holds the mean over classes of each case, without merged ones. A value that is not defined is NaN; a case that
        is not scored has no row.
    """
    labels = classes(results, setting)
    values = _of(results.values, setting)
    values = values[values["metric"] == name]
    codes = values["label"].map({label: i for i, label in enumerate(labels) if label is not None})
    table = values.assign(label=codes).set_index([*KEYS, "label"])["value"].unstack("label")
    table = table.reindex(columns=range(len(labels)))
    return _with_mean(table, labels, results).sort_index()


def per_cell(results: Results, setting: Setting, name: str) -> pd.DataFrame:
    """Values of a metric in a setting: the mean over cases, or what the metric is of all cases taken as one.

    Returns:
        Index (arm, fold, seed), columns as of :func:`per_case`; the mean over classes of a metric of all cases
        together is that of the values of the classes.
    """
    if not metric(name).pooled:
        # Infinite values are kept: a mean over a missed organ that was given an infinite distance is infinite.
        with np.errstate(invalid="ignore"):
            return per_case(results, setting, name).groupby(level=KEYS[:-1]).mean()
    sums = [per_case(results, setting, count).groupby(level=KEYS[:-1]).sum() for count in POOLED_COUNTS]
    table = pd.DataFrame(index=sums[0].index)
    for column in sums[0]:
        counts = zip(*(one[column] for one in sums), strict=True)
        table[column] = [pooled_metrics(*own)[name] for own in counts]
    return _with_mean(table, classes(results, setting), results)


def _with_mean(table: pd.DataFrame, labels: Sequence[str | None], results: Results) -> pd.DataFrame:
    """With the mean over classes, without merged ones, in the last column where there are several."""
    if None in labels:
        merged = results.specification.merged
        plain = [i for i, label in enumerate(labels) if label is not None and label not in merged]
        with np.errstate(invalid="ignore"):
            table[len(labels) - 1] = table[plain].mean(axis=1)
    return table


def _of(values: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    chosen = np.ones(len(values), dtype=bool)
    for name, wanted in setting._asdict().items():
        chosen &= (values[name] == wanted).to_numpy()
    return values[chosen]


def scores(results: Results, setting: Setting, name: str) -> list[Score]:
    """Scores of all arms in one metric, classes within arms; an arm without finished cells has none."""
    table = per_case(results, setting, columns_of([name])[0])
    by_cell = per_cell(results, setting, name)
    labels = classes(results, setting)
    found = []
    for arm in results.specification.arm_names:
        if arm not in table.index.get_level_values("arm"):
            continue
        for position, label in enumerate(labels):
            values, cells = table.loc[arm][position], by_cell.loc[arm][position]
            with np.errstate(invalid="ignore"):
                folds = cells.groupby("fold").mean()
                fold_std = float(folds.std(ddof=1))
                variances = cells.groupby("fold").var(ddof=1).dropna()
            found.append(
                Score(
                    setting,
                    arm,
                    label,
                    name,
                    folds=len(folds),
                    cells=len(cells),
                    values=len(values),
                    undefined=int(values.isna().sum()),
                    mean=float(folds.mean()),
                    fold_std=fold_std,
                    seed_std=float(np.sqrt(variances.mean())) if len(variances) else float("nan"),
                )
            )
    return found


def differences(results: Results, setting: Setting, names: Sequence[str]) -> list[Difference]:
    """Every arm against the reference arm, paired by case, fold and seed, in metrics of single cases.

    Empty where the reference or every other arm has no finished cell.
    """
    reference, *others = results.specification.arm_names
    labels = classes(results, setting)
    found = []
    for name in names:
        table = per_case(results, setting, name)
        present = set(table.index.get_level_values("arm"))
        if reference not in present:
            continue
        first = table.loc[reference]
        for arm in others:
            if arm not in present:
                continue
            second = table.loc[arm]
            shared = first.index.intersection(second.index)
            left_out = len(first) + len(second) - 2 * len(shared)
            for position, label in enumerate(labels):
                pair = first.loc[shared, position], second.loc[shared, position]
                # Random numbers of its own: an arm that joins later leaves the intervals of the others as they are.
                rng = np.random.default_rng(zlib.crc32(f"{arm}/{label}/{name}".encode()))
                found.append(_difference((setting, reference, arm, label, name), *pair, left_out, rng))
    overall = labels[-1] if None in labels else next(iter(labels), None)
    main = [d.label == overall for d in found]
    for family in (True, False):
        chosen = [i for i, is_main in enumerate(main) if is_main == family]
        for i, p in zip(chosen, holm([found[i].p for i in chosen]), strict=True):
            found[i] = replace(found[i], p_holm=float(p))
    return found


def _difference(
    what: tuple[Setting, str, str, str | None, str],
    first: pd.Series,
    second: pd.Series,
    left_out: int,
    rng: np.random.Generator,
) -> Difference:
    described = metric(what[-1])
    both = scored_by_either(first, second, described)
    by_case = paired_by_case(both, described)
    with np.errstate(invalid="ignore"):
        low, high = bootstrap_interval(by_case["difference"].to_numpy(float), rng)
        means = by_case.mean() if len(by_case) else by_case.sum() * np.nan
    gain = by_case["gain"].to_numpy(float)
    tested = by_case["gain" if described.direction == "zero" else "difference"].to_numpy(float)
    return Difference(
        *what,
        pairs=len(both),
        cases=len(by_case),
        left_out=left_out,
        mean_reference=float(means["first"]),
        mean_arm=float(means["second"]),
        difference=float(means["difference"]),
        low=low,
        high=high,
        wins=int((gain > 0).sum()),
        losses=int((gain < 0).sum()),
        ties=int((gain == 0).sum()),
        # Two infinite distances of opposite sign in two seeds have no mean, hence no rank.
        p=float("nan") if np.isnan(tested).any() else signed_rank(tested),
        p_holm=float("nan"),
        per_case=by_case["difference"],
    )


def paired_by_case(both: pd.DataFrame, described: Metric) -> pd.DataFrame:
    """Pairs of values averaged over the seeds (and folds) of each case.

    Args:
        both: Columns ``first`` and ``second``, an index level ``case``.
        described: The metric.

    Returns:
        Columns ``first``, ``second``, ``difference``, ``gain`` (how much better the second is), a row per case.
    """
    difference, gain = differences_and_gains(both["first"].to_numpy(float), both["second"].to_numpy(float), described)
    with np.errstate(invalid="ignore"):
        return both.assign(difference=difference, gain=gain).groupby(level="case").mean()


def spread(results: Results, setting: Setting, name: str) -> Spread:
    """Spread between arms against spread within an arm.

    A two-way analysis of variance of the cells' scores, arms and folds: with several seeds the error is the spread over
    seeds within arm and fold, that is, another training; with one seed it is the interaction of arms and folds.
    """
    labels = classes(results, setting)
    table = per_cell(results, setting, name)
    present = table.index.get_level_values("arm")
    arms = [arm for arm in results.specification.arm_names if arm in present]
    if not arms:
        return spread_of_cells(pd.DataFrame(), setting, name)
    overall = table[len(labels) - 1 if None in labels else 0]
    return spread_of_cells(overall.unstack("arm")[arms], setting, name)


def spread_of_cells(cells: pd.DataFrame, setting: Setting, name: str) -> Spread:
    """The same for scores of cells.

    Args:
        cells: Index (fold, seed), a column per arm; a row that is not whole is left out.
        setting: Where.
        name: Metric.
    """
    arms = tuple(map(str, cells.columns))
    cells = cells.loc[np.isfinite(cells.to_numpy(float)).all(axis=1)]
    nan = float("nan")
    if cells.empty:
        return Spread(setting, name, arms, 0, 0, nan, nan, nan, nan, "", nan, nan)
    by_fold = cells.groupby(level="fold").mean()
    means = cells.mean()
    groups = [own.to_numpy() for arm in arms for _, own in cells[arm].groupby(level="fold")]
    over_seeds = _pooled(groups)
    within, degrees, by = over_seeds, sum(g.size - 1 for g in groups), "seeds"
    if not degrees:
        table = cells.to_numpy()
        residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        degrees, by = (len(table) - 1) * (len(arms) - 1), "folds"
        within = float(np.sqrt((residual**2).sum() / degrees)) if degrees else nan
    between = float(means.std(ddof=1))
    ratio = p = nan
    if degrees and len(arms) > 1:
        # Equal arms, equal cells: nothing to tell apart, and no ratio.
        if within > 0:
            ratio = len(cells) * between**2 / within**2
            p = float(f_distribution.sf(ratio, len(arms) - 1, degrees))
        elif between > 0:
            ratio, p = float("inf"), 0.0
    return Spread(
        setting,
        name,
        arms,
        folds=len(by_fold),
        cells=len(cells),
        between=between,
        over_folds=_pooled([by_fold[arm].to_numpy() for arm in arms]),
        over_seeds=over_seeds,
        within=within,
        by=by if degrees else "",
        f=ratio,
        p=p,
    )


def _pooled(groups: Sequence[npt.NDArray[np.float64]]) -> float:
    """Standard deviation within groups, each by its degrees of freedom; NaN without any."""
    degrees = sum(g.size - 1 for g in groups)
    if not degrees:
        return float("nan")
    return float(np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / degrees))
