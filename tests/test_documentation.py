"""What the documentation names is there: files, headings, commands with their options, trainers, measured numbers."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from nnunet_ext.cli.app import app
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.run_length import strip_run_length

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MOST_LINES, LONGEST_LINE = 120, 200
STOCK = {"nnUNetTrainer"}

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:^|[;&|(]\s*)(?:\w+=\S*\s+)*(?:nnunet-ext|python -m nnunet_ext) (.*)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page):
    """The text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """What a link to a heading of the page is called on GitHub."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(page):
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("bash", "sh", "console"):
            yield from block.replace("\\\n", " ").splitlines()


def commands(page):
    """Arguments of each command line of ours, in blocks and between single backticks."""
    inline = re.findall(r"`([^`\n]+)`", prose(page))
    for line in [*shell_lines(page), *inline]:
        if found := _COMMAND.search(line):
            yield shlex.split(re.split(r"[;&|)]", found[1])[0], comments=True)


def parse(arguments):
    """Parse a command line by the real application; names in capitals stand for what the user puts there.

    Raises:
        LookupError: there is no such command.
        Exception: click's, for options that the command does not have.
    """
    command, rest = typer.main.get_command(app), list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name.isupper():
            command = next(iter(command.commands.values()))
        elif name in command.commands:
            command = command.commands[name]
        else:
            raise LookupError(f"no command {name}")
    context = command.context_class(command, info_name="nnunet-ext")
    context.help_option_names = ["-h", "--help"]
    _, left, _ = command.make_parser(context).parse_args(rest)
    assert not left, f"arguments too many: {left}"


def test_the_readme_is_a_front_page():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE


@pages
def test_links_lead_somewhere(page):
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pages
def test_commands_are_those_of_the_application(page):
    for arguments in commands(page):
        try:
            parse(arguments)
        except Exception as error:
            pytest.fail(f"nnunet-ext {' '.join(arguments)}: {error}")


@pytest.mark.parametrize("wrong", ["evalute a b", "convert mds x", "options --sett a=1", "evaluate a b c"])
def test_a_wrong_command_is_noticed(wrong):
    with pytest.raises(Exception, match=r"no command|No such option|too many"):
        parse(shlex.split(wrong))


def test_commands_are_found():
    found = [arguments[0] for page in PAGES for arguments in commands(page) if arguments]
    assert {"convert", "evaluate", "compare", "options", "preprocess-unlabelled", "doctor", "path"} <= set(found)


@pages
def test_trainers_exist(page):
    text = page.read_text(encoding="utf-8")
    here = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks" / "trainers").glob("*.py")) + text
    made = set(re.findall(r"^class (nnUNetTrainer\w*)\(", here, re.MULTILINE))
    named = {strip_run_length(name) for name in re.findall(r"nnUNetTrainer\w*", text)}
    assert named <= {*TRAINERS, *STOCK, *made}


def rows():
    """Cells of the rows of the README's table of trainers, by trainer."""
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1 and cells[1].strip("`") in TRAINERS:
            yield cells[1].strip("`"), cells


def test_predicted_memory_is_that_of_pytorchs_allocator_for_every_trainer():
    result = json.loads((ROOT / "benchmarks/results/tensor_memory.json").read_text())
    compared = result["compared with CPU allocations"]
    assert {name for each in compared.values() for name in each["trainers"]} == {"nnUNetTrainer", *TRAINERS}
    for configuration in compared.values():
        for name, peak in configuration["trainers"].items():
            assert 0.9 < peak["predicted GB"] / peak["allocated GB"] < 1.1, name


def test_every_trainer_is_in_the_readme_with_its_measured_cost_and_gain():
    table = dict(rows())
    assert set(table) == set(TRAINERS)
    predicted = json.loads((ROOT / "benchmarks/results/tensor_memory.json").read_text())["predicted"]
    memory = {
        name: f"{cost['ratio']:.{2 if cost['ratio'] < 10 else 1}f}{note}"
        for configuration, note in (("2d", " (2d)"), ("3d_fullres", ""))
        for name, cost in predicted[configuration]["trainers"].items()
    }
    for name, (_, _, time, peak, gain, page) in table.items():
        assert time.partition(" ")[0] == TRAINERS[name].time, name
        assert gain == TRAINERS[name].gain, name
        assert peak == memory[name], name
        assert name.removeprefix("nnUNetTrainer") in (ROOT / _LINK.findall(page)[0]).read_text(encoding="utf-8")
