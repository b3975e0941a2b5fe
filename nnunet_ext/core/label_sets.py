"""Which labels were annotated in which case: ``annotated_labels`` of dataset.json.

``{case: [names]}``; without that key every case is fully annotated. In a partially annotated case the background of the
label map says no more than that none of its annotated labels is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_ext.core.errors import UserError

KEY = "annotated_labels"

#: A label stored as float may miss its integer by this much through resampling or scaling tools.
LABEL_ROUNDING = 1e-3


def foreground_names(labels: Mapping[str, Any]) -> list[str]:
    """Names of the foreground labels or regions of a dataset.json, in the order of the network's outputs."""
    names = [name for name, value in labels.items() if name != "ignore" and set(label_values(value)) != {0}]
    if any(isinstance(value, (list, tuple)) for value in labels.values()):
        return names  # nnU-Net keeps regions in the order of the file
    return sorted(names, key=lambda name: label_values(labels[name]))


def label_values(value: Any) -> tuple[int, ...]:
    """Values in the label map of one entry of ``labels``: that of a label, an integer, or those of a region, a list."""
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)


def annotated_labels(
    dataset_json: Mapping[str, Any], cases: Iterable[str], source: str = "dataset.json"
) -> dict[str, frozenset[str]]:
    """Names of the foreground labels that were annotated, by case.

    Args:
        dataset_json: its content.
        cases: the cases that are asked for.
        source: what to call the file in messages.

    Raises:
        UserError: a case has no entry while others have one, or an entry is not a list of the dataset's labels.
    """
    known = frozenset(foreground_names(dataset_json["labels"]))
    if KEY not in dataset_json:
        return dict.fromkeys(cases, known)
    entries = dataset_json[KEY]
    if not isinstance(entries, Mapping):
        raise UserError(
            f'{KEY} of {source} must be a table {{"case": ["label", ...], ...}} with an entry for each case.'
        )
    found = {}
    for case in cases:
        if case not in entries:
            raise UserError(
                f"{KEY} of {source} has no entry for case {case}: list the labels that were annotated in it, all of "
                "them for a fully labelled case."
            )
        names = entries[case]
        if not isinstance(names, (list, tuple)):
            raise UserError(f"{KEY} of {source} must give a list of labels for case {case}, not {names!r}.")
        unknown = [str(name) for name in names if name not in known]
        if unknown:
            raise UserError(
                f"{KEY} of {source} names {', '.join(unknown)} for case {case}, but the labels are "
                f"{', '.join(foreground_names(dataset_json['labels']))}: mend the name."
            )
        found[case] = frozenset(names)
    return found
