"""What a user sees of an error."""

import sys

import pytest

from nnunet_ext.core.console import print_without_traceback
from nnunet_ext.core.errors import UserError


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
