"""Several errors as one."""

from dataset_conversion.remarks import together
from nnunet_ext.core.errors import UserError


def test_one_problem_stays_as_it_is_and_several_become_a_list():
    assert str(together([UserError("a is wrong.")])) == "a is wrong."
    assert (
        str(together(["a is wrong.", UserError("b is wrong.")])) == "2 things are wrong:\n  a is wrong.\n  b is wrong."
    )


def test_each_is_said_once_also_where_lists_are_joined():
    first = together(["a is wrong.", "b is wrong."])
    assert str(together([first, "b is wrong.", "c is wrong."])).splitlines() == [
        "3 things are wrong:",
        "  a is wrong.",
        "  b is wrong.",
        "  c is wrong.",
    ]
