"""Evidence bundle: all numbers of a benchmark with the report made of them, from which anyone can make it again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from importlib.metadata import version
from pathlib import Path

from nnunet_ext import __version__
from nnunet_ext.benchmark.report.collect import Results, collect
from nnunet_ext.benchmark.report.page import report_files
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, replaced_when_complete

VERSION = 1
SUMS = "SHA256SUMS"
MADE_WITH = "made_with.json"
_DATA, _REPORT = "data/", "report/"
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "Jinja2")
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold: the same bytes every time
_SHOWN = 160  # characters of a line


def write_bundle(work: Path, path: Path) -> None:
    """Write the evidence of a work folder as one zip file, the same bytes every time.

    ``data/`` holds the specification, the environment and a CSV file each of all cells, values, curves and attempts;
    ``report/`` what :func:`~nnunet_ext.benchmark.report.page.write_report` writes; ``SHA256SUMS`` the checksums of
    both, in the form of ``sha256sum``; ``made_with.json`` the versions that the report was made with.

    Raises:
        UserError: As :func:`~nnunet_ext.benchmark.report.page.write_report`.
    """
    results = collect(work)
    files = {f"{_DATA}{name}": text for name, text in results.to_files().items()}
    files |= {f"{_REPORT}{name}": text for name, text in report_files(results).items()}
    files[MADE_WITH] = json.dumps({"version": VERSION} | _versions(), indent=2) + "\n"
    contents = {name: text.encode() for name, text in sorted(files.items())}
    sums = "".join(f"{_sum(content)}  {name}\n" for name, content in contents.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {SUMS: sums.encode(), **contents}.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content, compresslevel=9)
    make_folder(path.parent)
    try:
        with replaced_when_complete(path) as temporary:
            temporary.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another file") from error


def verify_bundle(path: Path) -> int:
    """Make the report of a bundle again, from its data alone, and compare it byte for byte.

    Args:
        path: Zip file of :func:`write_bundle`, or the folder it was unpacked into.

    Returns:
        Number of files of the report that were made again and are the same.

    Raises:
        UserError: It is no bundle, a file is not what its checksum says, or the report comes out otherwise; names the
            first file and line that differ.
    """
    contents = _contents(path)
    made_with = _made_with(contents, path)
    _check_sums(contents, path)
    data = {
        name.removeprefix(_DATA): _text(content, name) for name, content in contents.items() if name.startswith(_DATA)
    }
    expected = {name: content for name, content in contents.items() if name.startswith(_REPORT)}
    made = {f"{_REPORT}{name}": text.encode() for name, text in report_files(Results.from_files(data)).items()}
    versions = [
        f"{name} {made_with.get(name)} there and {own} here"
        for name, own in _versions().items()
        if made_with.get(name) != own
    ]
    why = f"; versions differ: {', '.join(versions)}" if versions else ""
    for name in sorted(expected.keys() | made.keys()):
        if name not in made:
            raise UserError(f"{path} holds {name}, which its data do not give{why}")
        if name not in expected:
            raise UserError(f"{path} lacks {name}, which its data give{why}")
        if made[name] != expected[name]:
            raise UserError(
                f"{path}: {name} comes out otherwise, first in {_first_difference(expected[name], made[name])}{why}"
            )
    return len(made)


def _versions() -> dict[str, str]:
    return {"nnunet_ext": __version__} | {name: version(name) for name in _LIBRARIES}


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _contents(path: Path) -> dict[str, bytes]:
    try:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file())
            return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read the bundle {path} ({error}); name a file of nnunet-ext benchmark bundle"
        ) from error


def _made_with(contents: dict[str, bytes], path: Path) -> dict[str, str]:
    try:
        content = json.loads(contents[MADE_WITH])
        found = content["version"]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no bundle of a benchmark ({MADE_WITH} is absent or damaged)") from error
    if found != VERSION:
        raise UserError(
            f"{path} was written by another version of the benchmark (bundle version {found}, this one reads "
            f"{VERSION}); verify it with that version"
        )
    return content


def _check_sums(contents: dict[str, bytes], path: Path) -> None:
    if SUMS not in contents:
        raise UserError(f"{path} lacks {SUMS}; name a whole bundle")
    lines = (line.partition("  ") for line in _text(contents[SUMS], SUMS).splitlines())
    sums = {name: found for found, _, name in lines}
    for name in sorted(sums.keys() | (contents.keys() - {SUMS})):
        if name not in contents:
            raise UserError(f"{path} lacks {name}, which {SUMS} names")
        if name not in sums:
            raise UserError(f"{path} holds {name}, which {SUMS} does not name")
        if _sum(contents[name]) != sums[name]:
            raise UserError(f"{path}: {name} was changed after the bundle was made (its checksum is another)")


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} of the bundle is no text ({error})") from error


def _first_difference(expected: bytes, made: bytes) -> str:
    old, new = (content.decode(errors="replace").split("\n") for content in (expected, made))
    number = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    there, here = (lines[number] if number < len(lines) else "" for lines in (old, new))
    start = max(0, next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), 0) - _SHOWN // 2)
    return f"line {number + 1} ({there[start : start + _SHOWN]!r}, now {here[start : start + _SHOWN]!r})"
