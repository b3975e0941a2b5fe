"""Folds are those of nnU-Net, of given blocks, or drawn once and for all."""

from nnunetv2.utilities.crossval_split import generate_crossval_split

from dataset_conversion.splits import from_blocks, hold_out, k_folds


def test_k_folds_are_those_that_nnunet_draws():
    names = [f"case_{i}" for i in (3, 1, 12, 7, 5, 9, 4)]
    assert list(k_folds(names).folds) == generate_crossval_split(sorted(names), seed=12345, n_splits=5)
    assert k_folds(names[:4]) is None


def test_each_block_is_validated_on_once():
    split = from_blocks([["a", "b"], [], ["c"]], "rule")
    assert split.folds == ({"train": ["c"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c"]})
    assert split.rule == "rule"
    assert from_blocks([["a", "b"], []], "rule") is None


def test_cases_held_out_are_always_the_same_and_in_their_order():
    names = [f"case_{i:02d}" for i in range(20)]
    drawn = hold_out(names, 6)
    assert drawn == hold_out(names, 6) == sorted(drawn)
    assert len(set(drawn)) == 6
    assert set(drawn) < set(names)
