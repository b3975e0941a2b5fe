"""Every command line in the pages and in --help, ours and stock nnU-Net's, parses by the real parsers. Nothing runs."""

import argparse
import re
import shlex
from functools import cache
from importlib.metadata import entry_points

import pytest
import typer

from nnunet_ext.cli.app import app
from tests.test_documentation import _FENCE, PAGES, pages, prose

_OURS, _STOCK = ("nnunet-ext", "python -m nnunet_ext"), "nnUNetv2_"
_START = re.compile(rf"(?:do\s+)?(?:\w+=\S*\s+)*({'|'.join(_OURS)}|{_STOCK}\w+)(?=\s|$)(.*)", re.DOTALL)
_STOCK_COMMANDS = {point.name: point for point in entry_points(group="console_scripts") if _STOCK in point.name}


def command_lines(text):
    """Name and arguments of each command in a line of shell."""
    line = re.sub(r"(^|\s)#.*$", "", text)
    for part in re.split(r"[;&|()]", line):
        if found := _START.match(part.strip()):
            yield found[1], shlex.split(found[2])


def in_blocks(page):
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("bash", "sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from command_lines(line)


def in_sentences(page):
    for code in re.findall(r"`([^`]+)`", prose(page)):
        yield from command_lines(" ".join(code.split()))


def walk(command, path=()):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


def parse_ours(arguments, whole=True):
    """Parse by the application; names in capitals stand for what the user puts there.

    Args:
        arguments: after ``nnunet-ext``.
        whole: whether nothing may lack, and values must be of their types; else options are looked up alone.

    Raises:
        LookupError: there is no such command.
        Exception: click's, for what the command does not take.
    """
    command, rest, context = typer.main.get_command(app), list(arguments), None
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands and not name.isupper():
            raise LookupError(f"no command {name}")
        context = command.context_class(command, parent=context, info_name="nnunet-ext")
        command = command.commands.get(name) or next(iter(command.commands.values()))
    context = command.context_class(command, parent=context, info_name="nnunet-ext")
    context.help_option_names = ["-h", "--help"]
    if whole and "--help" not in rest and rest:
        command.parse_args(context, rest)
        left = context.args
    else:
        _, left, _ = command.make_parser(context).parse_args(rest)
    assert not left, f"arguments too many: {left}"


class _CaughtError(Exception):
    """The parser of a stock command, on its way out."""


@cache
def stock_parser(name):
    """The parser that a stock command builds in its function."""

    def catch(parser, *_, **__):
        raise _CaughtError(parser)

    with pytest.MonkeyPatch.context() as patch:
        for method in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, method, catch)
        with pytest.raises(_CaughtError) as caught:
            _STOCK_COMMANDS[name].load()()
    return caught.value.args[0]


def parse_stock(name, arguments, whole=True):
    """Parse by the stock command's own parser; ``whole`` as of :func:`parse_ours`.

    Raises:
        LookupError: there is no such command, or no such option.
        SystemExit: the parser's, for what it does not take.
    """
    if name not in _STOCK_COMMANDS:
        raise LookupError(f"no command {name}")
    if whole and "..." not in arguments:
        stock_parser(name).parse_args(arguments)
        return
    for argument in arguments:
        if argument.startswith("-") and argument not in stock_parser(name)._option_string_actions:
            raise LookupError(f"no option {argument} of {name}")


def problems(lines, whole):
    found = []
    for name, arguments in lines:
        try:
            if name in _OURS:
                parse_ours(arguments, whole)
            else:
                parse_stock(name, arguments, whole)
        except (Exception, SystemExit) as error:
            found.append(f"{name} {shlex.join(arguments)}: {error}")
    return found


@pages
def test_commands_of_a_page_parse(page):
    assert problems(in_blocks(page), True) + problems(in_sentences(page), False) == []


def test_examples_in_the_help_parse():
    helps = [command.help or "" for _, command in walk(typer.main.get_command(app))]
    examples = [line for text in helps for line in re.findall(r"Example: (.*(?:\n.+)*)", text)]
    lines = [line for example in examples for line in command_lines(" ".join(example.split()))]
    assert len(lines) > 10
    assert problems(lines, True) == []


def test_commands_are_found():
    lines = [line for page in PAGES for line in in_blocks(page)]
    ours = {arguments[0] for name, arguments in lines if name in _OURS and arguments}
    assert {"convert", "evaluate", "compare", "options", "preprocess-unlabelled", "preview", "plan-for"} <= ours
    stock = {name for name, _ in lines} - set(_OURS)
    assert {f"{_STOCK}{name}" for name in ("train", "predict", "plan_and_preprocess", "preprocess")} <= stock
    assert sum(name == f"{_STOCK}train" and "$fold" in arguments for name, arguments in lines) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "evalute a b",
        "convert mds x",
        "options --sett a=1",
        "evaluate a b c",
        "evaluate a",
        "evaluate a b -np many",
        "cost -d 4",
    ],
)
def test_a_wrong_command_of_ours_is_noticed(wrong):
    (problem,) = problems(command_lines(f"nnunet-ext {wrong}"), True)
    assert re.search("no command|No such option|too many|Missing|unexpected|valid integer", problem)


@pytest.mark.parametrize(
    ("wrong", "whole"),
    [
        ("nnUNetv2_trian 4 2d 0", True),
        ("nnUNetv2_train 4 2d", True),
        ("nnUNetv2_train 4 2d 0 --trainer X", True),
        ("nnUNetv2_preprocess -d four -c 2d", True),
        ("nnUNetv2_train ... --cc", False),
    ],
)
def test_a_wrong_stock_command_is_noticed(wrong, whole):
    assert len(problems(command_lines(wrong), whole)) == 1
