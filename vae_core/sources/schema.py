"""One table from many files: the columns they share, with types that all of them (and the model) can agree
on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vae_core.arrow import TYPES, vector_type, vector_width
from vae_core.errors import InputError, columns_here, nearest
from vae_core.sources.cells import convertible, may_be_longer, natural, typed
from vae_core.sources.csv_reader import CsvReader
from vae_core.sources.inference import Evidence
from vae_core.sources.parquet_reader import PANDAS_INDEX, ParquetReader
from vae_core.sources.records import EMPTY_ONLY
from vae_core.sources.vectors import most_common_length

Reader = CsvReader | ParquetReader
EXACT = 2**53  # below it a double holds every whole number
SPOKEN = {
    "double": "numbers",
    "int64": "whole numbers",
    "bool": "true/false",
    "string": "text",
    "timestamp": "times",
    "vector": "vectors",
}


def spoken(kind: str) -> str:
    """What a column of this type holds, in a person's words."""
    return SPOKEN["vector" if vector_width(kind) else kind]


def same_columns(readers: Sequence[Reader]) -> list[str]:
    """The columns of the first file, if all files have them (in any order). Raises InputError naming both
    files."""
    first = readers[0]
    for other in readers[1:]:
        missing = [name for name in first.names if name not in other.types]
        added = [name for name in other.names if name not in first.types]
        if missing or added:
            having, lacking = (first, other) if missing else (other, first)
            name = (missing or added)[0]
            raise InputError(
                f"{having.source.path} has this column and {lacking.source.path} does not"
                f"{nearest(name, added if missing else [])}",
                column=name,
                fix="Give files with the same columns, or choose some by a glob",
            )
    return first.names


def check_there(readers: Sequence[Reader], names: Sequence[str], *, of_a_model: bool = False) -> None:
    """Raises InputError for a column that a file lacks, with the nearest name that it has."""
    for reader in readers:
        for name in names:
            if name not in reader.types:
                hint = nearest(name, [other for other in reader.names if other not in names])
                fix = columns_here(reader.names)
                if of_a_model:
                    fix = "Rename the column, or score with a model that was trained without it"
                raise InputError(
                    f"the column is missing{hint}", file=reader.source.path, column=name, fix=fix
                )


def model_columns(
    readers: Sequence[Reader], wanted: Mapping[str, str], also: Sequence[str], on_schema: str
) -> tuple[list[str], list[str]]:
    """The columns that a model asks for, then the others needed (`also`); and a warning for each other one:
    it is new, or of a type that training leaves out as well."""
    names = list(dict.fromkeys([*wanted, *also]))
    check_there(readers, names, of_a_model=True)
    others = dict.fromkeys(name for reader in readers for name in reader.names if name not in names)
    warnings = []
    for name in others:
        having = [reader for reader in readers if name in reader.types]
        if name.startswith(PANDAS_INDEX):
            continue
        if unfit := _left_out(having, name):
            warnings.append(f'column "{name}" {unfit}')
            continue
        warnings.append(f'column "{name}" is new: the model does not know it, and it is left out')
        if on_schema == "stop":
            raise InputError(
                "the column is new: the model does not know it",
                file=having[0].source.path,
                column=name,
                fix="Take it out, or say --on-schema warn",
            )
    return names, warnings


def usable(
    readers: Sequence[Reader], names: Sequence[str], needed: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The columns that can become one of the six types; and a warning for each that cannot."""
    kept, warnings = [], []
    for name in names:
        bad = next((reader for reader in readers if natural(reader.types[name]) is None), None)
        if bad is not None and name in needed:
            raise InputError(
                f"holds {bad.types[name]}, which is no number, truth value, text or time",
                file=bad.source.path,
                column=name,
            )
        if name not in needed and (unfit := _left_out(readers, name)):
            warnings.append(f'column "{name}" {unfit}')
        elif name.startswith(PANDAS_INDEX) and name not in needed:
            warnings.append(f'column "{name}" is left out: it is the row index of a pandas table')
        else:
            kept.append(name)
    if not kept:
        raise InputError("no column can be used", file=readers[0].source.path)
    return kept, warnings


def _left_out(readers: Sequence[Reader], name: str) -> str:
    """Why a column can become none of the six types; empty if it can."""
    kinds = [reader.types[name] for reader in readers]
    if bad := [kind for kind in kinds if natural(kind) is None]:
        return f"is left out: it holds {bad[0]}"
    if any(natural(kind) != "vector" for kind in kinds):
        return ""
    if any(pa.types.is_fixed_size_list(kind) and kind.list_size for kind in kinds):
        return ""  # not read: pyarrow 25 cannot read a null among them
    full = any(most_common_length([lists]) for lists in _lists(readers, name))
    return "" if full else "is left out: all its lists are empty or missing"


def check_types(readers: Sequence[Reader], wanted: Mapping[str, str]) -> None:
    """Raises InputError where a column as a whole has another type than the model's."""
    for name, target in wanted.items():
        if target not in TYPES and not vector_width(target):
            fix = f"Take one of {', '.join(TYPES)}"
            raise InputError(f'"{target}" is no type of a column', column=name, fix=fix)
        for reader in readers:
            kind = reader.types[name]
            if not convertible(kind, target):
                found = SPOKEN.get(natural(kind) or "", str(kind))
                problem = f"holds {found} ({kind}) where {spoken(target)} ({target}) are asked for"
                fix = "Convert the column, or train a model on the new type"
                raise InputError(problem, file=reader.source.path, column=name, fix=fix)


def found_types(
    readers: Sequence[Reader], names: Sequence[str], ids: Sequence[str], nulls: pa.Array
) -> dict[str, str]:
    """The types of columns that nobody prescribes: as Parquet declares, or as all cells of CSV say."""
    if not names:
        return {}
    csv = [reader for reader in readers if isinstance(reader, CsvReader)]
    if csv:
        return _inferred(csv, names, ids, nulls)
    return {name: _agreed(readers, name, is_id=name in ids) for name in names}


def key_types(readers: Sequence[Reader], trained: Mapping[str, str]) -> dict[str, str]:
    """The types of key columns that are no features of a model: those of training (`trained`) where every key
    stays as it stands, else those that the files have."""
    texts = []
    for name, wanted in trained.items():
        kinds = [reader.types[name] for reader in readers]
        mixed = {natural(kind) for kind in kinds} >= {"int64", "string"}
        if (wanted == "string" or mixed) and all(convertible(kind, "string") for kind in kinds):
            texts.append(name)
    rest = [name for name in trained if name not in texts]
    found = dict.fromkeys(texts, "string") | found_types(readers, rest, rest, EMPTY_ONLY)
    for name in rest:
        if {found[name], trained[name]} == {"int64", "double"} and _are_whole(readers, name):
            found[name] = trained[name]
        elif (found[name], trained[name]) == ("string", "int64") and _as_pandas_writes(readers, name):
            found[name] = "int64"
    return found


def _as_pandas_writes(readers: Sequence[Reader], name: str) -> bool:
    """Whether all keys are whole numbers with `.0`: pandas writes them so where one was missing."""
    for reader in readers:
        for block in reader.blocks([name]):
            texts = pc.drop_null(block.table.column(0).cast(pa.string()))
            fits = pc.match_substring_regex(texts, r"^(-?[1-9][0-9]{0,14}\.0|0\.0|)$")
            if not pc.all(fits, min_count=0).as_py():
                return False
    return True


def _are_whole(readers: Sequence[Reader], name: str) -> bool:
    """Whether all cells of a column of numbers are whole numbers that a double holds exactly."""
    for reader in readers:
        for block in reader.blocks([name]):
            numbers = typed(block.table.column(0), "int64", EMPTY_ONLY)
            sizes = pc.abs(numbers.values.cast(pa.float64(), safe=False))
            if numbers.faults or (pc.max(sizes).as_py() or 0) >= EXACT:
                return False
    return True


def _agreed(readers: Sequence[Reader], name: str, *, is_id: bool) -> str:
    """One type for all files: whole numbers here and real ones there are real; no values at all fit any."""
    agreed, witness = "null", readers[0]
    for reader in readers:
        kind = natural(reader.types[name]) or "null"
        if agreed == "null":
            agreed, witness = kind, reader
        elif {agreed, kind} == {"int64", "double"}:
            agreed = "double"
        elif kind not in (agreed, "null"):
            raise InputError(
                f"{witness.source.path} holds {spoken(agreed)} and {reader.source.path} holds {spoken(kind)}",
                column=name,
                fix="Give files whose columns have the same types, or choose some by a glob",
            )
    if agreed == "int64" and any(may_be_longer(reader.types[name]) for reader in readers):
        return _of_long_numbers(readers, name, is_id=is_id)
    if agreed == "vector":
        return vector_type(_length(readers, name))
    return "string" if agreed == "null" else agreed


def _of_long_numbers(readers: Sequence[Reader], name: str, *, is_id: bool) -> str:
    """What whole numbers are that 64 bits may not hold: text, where cells of CSV with the same digits are."""
    evidence = Evidence(is_id)
    for reader in readers:
        for block in reader.blocks([name]):
            evidence.see(block.table.column(0).cast(pa.string()), EMPTY_ONLY)
    return "string" if evidence.cells and evidence.kind() == "string" else "int64"


def _length(readers: Sequence[Reader], name: str) -> int:
    """The length that most vectors of a column have in all files; 0 if there are none."""
    return most_common_length(_lists(readers, name))


def _lists(readers: Sequence[Reader], name: str) -> Iterator[pa.Array]:
    """The column, block by block, of the files in which it holds vectors."""
    for reader in readers:
        if isinstance(reader, ParquetReader) and natural(reader.types[name]) == "vector":
            yield from (block.table.column(0) for block in reader.blocks([name]))


def _inferred(
    readers: Sequence[CsvReader], names: Sequence[str], ids: Sequence[str], nulls: pa.Array
) -> dict[str, str]:
    evidence = {name: Evidence(is_id=name in ids) for name in names}
    for reader in readers:
        for block in reader.blocks(list(names)):
            for name, column in zip(names, block.table.columns, strict=True):
                evidence[name].see(column, EMPTY_ONLY if name in ids else nulls)
    for name, seen in evidence.items():
        if seen.numbers_with_commas:
            problem = f'numbers with a comma, such as "{seen.example}", would be read as text'
            told = f"{name}=string"
            fix = f"Write a decimal point and no other separator, or: elborank ingest --type {told!r}"
            raise InputError(problem, file=readers[0].source.path, column=name, fix=fix)
    return {name: evidence[name].kind() for name in names}
