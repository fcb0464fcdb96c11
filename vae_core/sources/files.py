"""Which files a path means, what they are called in reports, and the digest of their contents."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from vae_core.errors import InputError

FORMATS: dict[str, str] = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv"}
LONGEST_NAME = 100
OURS = {
    "_dataset.json",
    "_manifest.json",
}  # a folder with one of these is a dataset or a report, not raw data


@dataclass(frozen=True)
class Source:
    """One raw file: its name in reports (relative, with `/`), where it is, its format (a key of READERS)."""

    name: str
    path: Path
    format: str


def find(path: str | Path) -> list[Source]:
    """The data files that a file, a folder (with its sub-folders) or a glob means, sorted by name.

    Skipped are hidden files, those whose name (or folder) begins with `_`, and in a folder files of other
    kinds, datasets and reports. Raises InputError when nothing is left, when formats are mixed, and for an
    empty file.
    """
    text = os.fspath(path)
    if is_glob(text):
        root = _glob_root(text)
        found = glob.glob(text, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        files = [file for file in dict.fromkeys(map(Path, found)) if file.is_file()]
    elif Path(text).is_dir():
        root, files = Path(text), _walk(Path(text))
    elif Path(text).exists():
        root, files = Path(text).parent, [Path(text)]
        if _format(files[0]) is None:
            raise InputError(
                "is neither Parquet nor CSV by its name", file=text, fix="Give it the ending .parquet or .csv"
            )
    else:
        raise InputError("there is no such file or folder", file=text)
    named = files if len(files) == 1 and files[0] == Path(text) else _visible(files, root)
    sources = [Source(_relative(file, root), file, kind) for file in named if (kind := _format(file))]
    _check(text, sources, files)
    return sorted(sources, key=lambda source: source.name)


def is_glob(text: str) -> bool:
    """Whether a path is a pattern: it has a wildcard, and no file has just that name."""
    return any(c in text for c in "*?[") and not Path(text).exists()


def dataset_name(path: str | Path, name: str | None) -> str:
    """The dataset's name: always a plain folder name, so that nothing is ever written outside the store.

    A given name is taken as it is or refused, never silently altered; without one the path gives it.

    >>> dataset_name("data/2013 weather 🌦.parquet", None)
    '2013-weather'
    >>> dataset_name("data/", "../elsewhere")
    Traceback (most recent call last):
    vae_core.errors.InputError: "../elsewhere" cannot be the name of a dataset. Take letters, digits, ...
    """
    if name is not None:
        if plain_name(name) != name:
            raise InputError(
                f'"{name[:LONGEST_NAME]}" cannot be the name of a dataset',
                fix=f'Take letters, digits, "-", "_" and ".", for example "{plain_name(name)}"',
            )
        return name
    return plain_name(named_by(path).name)


def named_by(path: str | Path) -> Path:
    """The absolute path whose last part names the dataset: a folder, or a file without its ending.

    >>> from pathlib import Path
    >>> here = Path.cwd()
    >>> [named_by(p) == here / "x" for p in ("x.csv", "./x.parquet", here / "y" / ".." / "x.csv.gz")]
    [True, True, True]
    """
    text = os.fspath(path)
    root = Path(os.path.normpath((_glob_root(text) if is_glob(text) else Path(text)).absolute()))
    return root if root.is_dir() else root.parent / _without_ending(root.name)


def plain_name(name: str) -> str:
    """Letters, digits, `-`, `_`, `.`, anything else becomes `-`; never hidden, empty, `..` or too long.

    >>> [plain_name(name) for name in ("../a/b", "..", "NYC weather", "_x", "wetter_für.alle")]
    ['a-b', 'dataset', 'NYC-weather', 'x', 'wetter_für.alle']
    """
    plain = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name))
    plain = plain.lstrip("._-").rstrip("-.")
    while len(plain.encode()) > LONGEST_NAME:
        plain = plain[:-1]
    return plain.rstrip("-.") or "dataset"


def content_digest(source: Source) -> str:
    """The sha256 of a file's bytes. Nothing else, no size and no date, says that two files are the same."""
    with open_binary(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_binary(source: Source):  # type: ignore[no-untyped-def]  # the concrete type of open() is private
    """The raw bytes of a source. Raises InputError when it cannot be opened."""
    try:
        return source.path.open("rb")
    except OSError as cause:
        raise InputError(f"cannot be opened: {cause.strerror}", file=source.path) from cause


def _format(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    kind = FORMATS.get(Path(name).suffix)
    return kind if kind == "csv" or name == path.name.lower() else None


def _without_ending(name: str) -> str:
    return re.sub(r"\.(parquet|pq|csv|tsv|npz|npy|idx)(\.gz)?$", "", name, flags=re.IGNORECASE)


def _walk(folder: Path) -> list[Path]:
    def refuse(cause: OSError) -> None:
        raise InputError(f"cannot be listed: {cause.strerror}", file=cause.filename) from cause

    walked = os.walk(folder, onerror=refuse)
    return [Path(root, name) for root, _, names in walked if OURS.isdisjoint(names) for name in names]


def _visible(files: list[Path], root: Path) -> list[Path]:
    def hidden(file: Path) -> bool:
        return any(part.startswith((".", "_")) for part in Path(os.path.relpath(file, root)).parts)

    return [file for file in files if not hidden(file)]


def _glob_root(pattern: str) -> Path:
    """The folder before the first part with a wildcard: names in reports are relative to it."""
    parts = Path(pattern).parts
    first = next((n for n, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    return Path(*parts[:first])


def _relative(file: Path, root: Path) -> str:
    """The name as UTF-8 text, with `/`: bytes of a file name that are not UTF-8 are written as escapes."""
    return os.fsencode(os.path.relpath(file, root)).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def _check(text: str, sources: list[Source], files: list[Path]) -> None:
    if not sources:
        seen = ", ".join(sorted({file.name for file in files})[:3])
        found = f" (only {seen}{', ...' if len(files) > 3 else ''})" if seen else ""
        raise InputError(
            f"there is no data file here{found}",
            file=text,
            fix="Give .parquet or .csv files that are not hidden",
        )
    if len({source.format for source in sources}) > 1:
        raise InputError(
            "both Parquet and CSV files are here",
            file=text,
            fix=f'Choose by a glob, such as "{Path(text) / "*.csv"}"',
        )
    for source in sources:
        if source.path.stat().st_size == 0:
            raise InputError("the file is empty", file=source.path, fix="Export it again, or take it away")
