"""What a user sees of an error."""

import sys

import pytest

from nnunet_ext.errors import UserError, print_without_traceback


@pytest.fixture
def shown_otherwise(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
    return shown


def test_a_user_error_is_its_sentence_alone(shown_otherwise, capsys):
    print_without_traceback()
    print_without_traceback()
    sys.excepthook(UserError, UserError("no such file: make it."), None)
    assert capsys.readouterr().err == "error: no such file: make it.\n"
    assert not shown_otherwise


def test_any_other_error_is_shown_as_before(shown_otherwise):
    print_without_traceback()
    error = (ValueError, ValueError("a fault"), None)
    sys.excepthook(*error)
    assert shown_otherwise == [error]
