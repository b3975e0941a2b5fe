"""The result of an evaluation: one row per case and class, its conventions, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_ext import __version__
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_together
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.metrics import POOLED_COUNTS, metric, metric_names, pooled_metrics
from nnunet_ext.evaluation.targets import Target

COUNTS = ("TP", "FP", "FN", "TN", "n_ref", "n_pred")
PRESENCES = ("both", "missed", "false_positive", "absent", "unannotated")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of all cases and classes.

    Attributes:
        table: A row per case and class. Columns: ``case``, ``fold``, ``label`` (name), ``key`` (nnU-Net's key),
            ``presence`` (``both``, ``missed``, ``false_positive``, ``absent``, ``unannotated``), ``note``, voxel
            counts, volumes, and a column per metric (fractions, mm, ml, %).
        targets: The classes.
        conventions: How the metrics were computed.
        notes: What the reader must know about the choice of cases.
        cases: Files, spacing and shape per case.
        reference_dir: Where the references came from.
        prediction_dir: Where the predictions came from.
    """

    table: pd.DataFrame
    targets: tuple[Target, ...]
    conventions: Conventions
    notes: tuple[str, ...]
    cases: tuple[Mapping[str, Any], ...]
    reference_dir: str
    prediction_dir: str

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        targets: Sequence[Target],
        conventions: Conventions,
        notes: Sequence[str],
        reference_dir: str,
        prediction_dir: str,
    ) -> Evaluation:
        """Build the table from per-case records, in any order."""
        ordered = sorted(records, key=lambda record: record["case"])
        rows = [
            {
                "case": record["case"],
                "fold": record["fold"],
                "label": target.name,
                "key": target.key,
                "note": record["note"],
                **record["classes"][target.name],
            }
            for record in ordered
            for target in targets
        ]
        cases = tuple({k: v for k, v in record.items() if k != "classes"} for record in ordered)
        table = pd.DataFrame(rows)
        return cls(table, tuple(targets), conventions, tuple(notes), cases, reference_dir, prediction_dir)

    @property
    def metrics(self) -> list[str]:
        """Names of the metric columns."""
        return metric_names(self.conventions)

    def per_case(self, label: str | None) -> pd.DataFrame:
        """Metrics of one class, or of the mean over classes (``None``), with the case as index."""
        if label is None:
            return self.table.groupby("case")[self.metrics].mean()
        return self.table[self.table["label"] == label].set_index("case")[self.metrics]

    def counts(self) -> pd.DataFrame:
        """Number of cases per class (index) and presence (columns), and ``scored``: those that enter a mean."""
        found = pd.crosstab(self.table["label"], self.table["presence"])
        names = [t.name for t in self.targets]
        found = found.reindex(index=names, columns=list(PRESENCES), fill_value=0)
        found["scored"] = found["both"] + found["missed"] + found["false_positive"]
        return found

    def statistics(self) -> dict[str, pd.DataFrame]:
        """``mean``, ``std`` (n - 1), ``median``, ``min``, ``max`` per class (index) and metric, scored cases only."""
        groups = self.table.groupby("label", sort=False)[self.metrics]
        # Infinite values are kept: a mean over a missed organ that was given an infinite distance is infinite.
        with np.errstate(invalid="ignore"):
            return {name: groups.agg(name) for name in ("mean", "std", "median", "min", "max")}

    def foreground_mean(self) -> dict[str, float]:
        """Mean over classes of the mean over cases, as in nnU-Net; classes that no case holds are left out."""
        means = self.statistics()["mean"].mean(axis=0, skipna=True)
        return {str(name): float(value) for name, value in means.items()}

    def dataset_level(self) -> dict[str, dict[str, float]]:
        """Metrics of all cases taken as one, per class."""
        kept = self.table[self.table["presence"] != "unannotated"]
        sums = kept.groupby("label", sort=False)[list(POOLED_COUNTS)].sum()
        return {str(name): pooled_metrics(*map(int, row)) for name, row in sums.iterrows()}

    def worst(self, name: str = "Dice", n: int = 3) -> pd.DataFrame:
        """The ``n`` rows with the worst value of a metric, worst first."""
        scored = self.table[self.table[name].notna()]
        order = np.argsort(-metric(name).loss(scored[name]), kind="stable")
        return scored.iloc[order[:n]]

    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``: nnU-Net's own keys, more metrics in them, and ``nnunet_ext`` with the rest."""
        numbers = [*COUNTS, *self.metrics]
        rows = dict(tuple(self.table.groupby("case", sort=False)))
        per_case = []
        for case in self.cases:
            own = rows[case["case"]].set_index("key")
            per_case.append(
                {
                    "reference_file": case["reference_file"],
                    "prediction_file": case["prediction_file"],
                    "metrics": {t.key: _plain(own.loc[t.key, numbers].to_dict()) for t in self.targets},
                    "presence": {t.key: str(own.loc[t.key, "presence"]) for t in self.targets},
                    **{key: case[key] for key in ("case", "fold", "note", "spacing", "shape")},
                }
            )
        kept = self.table[self.table["presence"] != "unannotated"]
        count_means = kept.groupby("label", sort=False)[list(COUNTS)].mean()
        statistics = self.statistics()
        means = {
            t.key: _plain(
                {name: count_means.loc[t.name, name] if t.name in count_means.index else np.nan for name in COUNTS}
            )
            | _plain(statistics["mean"].loc[t.name].to_dict())
            for t in self.targets
        }
        counts = self.counts()
        keys = {t.name: t.key for t in self.targets}
        by_key = {
            name: {keys[str(label)]: _plain(row.to_dict()) for label, row in frame.iterrows()}
            for name, frame in statistics.items()
            if name != "mean"
        }
        foreground = {name: float(np.mean([means[t.key][name] for t in self.targets])) for name in COUNTS}
        return {
            "metric_per_case": per_case,
            "mean": means,
            "foreground_mean": foreground | self.foreground_mean(),
            "nnunet_ext": {
                "version": __version__,
                "conventions": self.conventions.to_dict(),
                "conventions_in_words": dict(self.conventions.describe()),
                "units": {"rates": "fraction", "VOE, RVD, RAVD": "%", "distances": "mm", "volumes": "ml"},
                "labels": {t.key: {"name": t.name, "members": list(t.members)} for t in self.targets},
                "cases": {keys[str(label)]: _plain(row.to_dict()) for label, row in counts.iterrows()},
                "global": {keys[name]: values for name, values in self.dataset_level().items()},
                "notes": list(self.notes),
                "reference_dir": self.reference_dir,
                "prediction_dir": self.prediction_dir,
                **by_key,
            },
        }

    def save(self, folder: Path) -> None:
        """Write ``summary.json`` and ``metrics.csv``, both or none, into a folder, which is made where needed.

        Raises:
            UserError: If there is no room or no permission; an earlier result stays as it was.
        """
        text = json.dumps(self.summary(), indent=4, sort_keys=True)
        write_together(folder, {"summary.json": text + "\n", "metrics.csv": self.table.to_csv(index=False)})

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: If a file is absent or was not written by ``nnunet-ext evaluate``.
        """
        if not folder.is_dir():
            raise UserError(f"result folder {folder} does not exist")
        for inner in (folder, folder / "evaluation"):
            if (inner / "summary.json").is_file() and (inner / "metrics.csv").is_file():
                folder = inner
                break
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            text_columns = dict.fromkeys(("case", "fold", "label", "key", "note", "presence"), str)
            table = pd.read_csv(folder / "metrics.csv", dtype=text_columns, keep_default_na=False, na_values=[""])
            table[["fold", "note"]] = table[["fold", "note"]].fillna("")
            own = summary["nnunet_ext"]
            targets = tuple(Target(v["name"], key, tuple(v["members"])) for key, v in own["labels"].items())
            order = list(dict.fromkeys(table["key"]))
            # Any text can be a name, also one that a CSV file would give back as something else.
            table["label"] = table["key"].map({t.key: t.name for t in targets})
            cases = tuple(
                {k: v for k, v in case.items() if k not in {"metrics", "presence"}}
                for case in summary["metric_per_case"]
            )
            return cls(
                table,
                tuple(sorted(targets, key=lambda t: order.index(t.key))),
                Conventions.from_dict(own["conventions"]),
                tuple(own["notes"]),
                cases,
                own["reference_dir"],
                own["prediction_dir"],
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{folder} holds no result of nnunet-ext evaluate ({error!r})") from error


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Numpy scalars turned into what JSON can hold."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
