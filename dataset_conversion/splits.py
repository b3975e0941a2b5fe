"""Cross-validation folds, in the form nnU-Net reads from ``splits_final.json``.

The file goes beside dataset.json; ``nnUNetv2_plan_and_preprocess`` copies it to the preprocessed folder by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The seed nnU-Net itself splits with.
SEED = 12345


@dataclass(frozen=True)
class Split:
    """Folds of a dataset.

    Attributes:
        rule: how they were made and after whom, for the report.
        folds: cases to train and to validate on.
    """

    rule: str
    folds: tuple[dict[str, list[str]], ...]


def from_blocks(blocks: Sequence[Sequence[str]], rule: str) -> Split | None:
    """One fold per block of cases, which it validates on; empty blocks are left out, and None if all but one are."""
    filled = [list(block) for block in blocks if block]
    if len(filled) < 2:
        return None
    folds = tuple(
        {"train": [name for other in filled if other is not block for name in other], "val": block} for block in filled
    )
    return Split(rule, folds)


def k_folds(names: Sequence[str], folds: int = 5) -> Split | None:
    """The folds that nnU-Net would draw for the sorted names; None for fewer cases than folds."""
    from sklearn.model_selection import KFold

    ordered = sorted(names)
    if len(ordered) < folds:
        return None
    parts = KFold(folds, shuffle=True, random_state=SEED).split(ordered)
    return Split(
        f"{folds} folds of the sorted case names, shuffled with seed {SEED} (those nnU-Net draws by default; "
        "no list was published)",
        tuple({"train": [ordered[i] for i in train], "val": [ordered[i] for i in val]} for train, val in parts),
    )


def hold_out(names: Sequence[str], count: int, draw: int = 0) -> list[str]:
    """``count`` of the names, drawn without replacement with the fixed seed, in the order given.

    Args:
        names: to draw from.
        count: how many.
        draw: 0, or another draw of the same number.
    """
    import numpy as np

    chosen = np.random.default_rng(SEED + draw).choice(len(names), count, replace=False)
    return [names[i] for i in sorted(chosen.tolist())]
