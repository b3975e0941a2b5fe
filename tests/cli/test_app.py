"""The command line as a whole."""

from typer.testing import CliRunner

from nnunet_ext.cli.app import app


def test_the_help_lists_every_command_in_a_group():
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    titles = [title for title in ("Data", "Train", "Evaluate", "Help") if f"─ {title} ─" in output]
    assert titles == ["Data", "Train", "Evaluate", "Help"]
    assert "─ Commands ─" not in output
    assert (
        output.index("─ Data ─") < output.index("─ Train ─") < output.index("─ Evaluate ─") < output.index("─ Help ─")
    )
