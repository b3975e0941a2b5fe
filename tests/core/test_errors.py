"""What a user sees of an error."""

import importlib
import sys

import pytest

import nnunet_ext.trainers
from nnunet_ext.core.console import print_without_traceback
from nnunet_ext.core.errors import UserError, together


@pytest.fixture
def shown_otherwise(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
    return shown


def test_a_user_error_is_its_sentence_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    print_without_traceback()
    hook = sys.excepthook
    print_without_traceback()
    assert sys.excepthook is hook
    sys.excepthook(UserError, UserError("no such file: make it."), None)
    assert capsys.readouterr().err == "error: no such file: make it.\n"


def test_importing_a_trainer_is_enough(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    importlib.reload(nnunet_ext.trainers)
    assert sys.excepthook is not sys.__excepthook__


def test_a_hook_of_somebody_else_is_called_too(shown_otherwise, capsys):
    print_without_traceback()
    error = (UserError, UserError("no such file: make it."), None)
    sys.excepthook(*error)
    assert shown_otherwise == [error]
    assert capsys.readouterr().err == "error: no such file: make it.\n"


def test_any_other_error_is_shown_as_before(shown_otherwise):
    print_without_traceback()
    error = (ValueError, ValueError("a fault"), None)
    sys.excepthook(*error)
    assert shown_otherwise == [error]


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
