"""Say which field of a spec is wrong, and why, in words for whoever wrote it.

msgspec names the field by its path and the reason in its own terms. Pure.
"""

import difflib
import re
from typing import Final

import msgspec

_BOUNDS: Final = (
    (re.compile(r"Expected `(?:int|float)` <= (\S+)"), r"must be at most \1"),
    (re.compile(r"Expected `(?:int|float)` >= (\S+)"), r"must be at least \1"),
    (re.compile(r"Expected `(?:int|float)` > (\S+)"), r"must be more than \1"),
    (re.compile(r"Expected `(?:int|float)` < (\S+)"), r"must be less than \1"),
)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")


def violation(error: msgspec.ValidationError, spec: type[msgspec.Struct]) -> tuple[str, str]:
    """Return the path of the field of a `spec` that is wrong, "" for the spec itself, and why."""
    problem, _, where = str(error).partition(" - at `")
    path = where.rstrip("`").removeprefix("$").lstrip(".")
    for pattern, words in _BOUNDS:
        if match := pattern.fullmatch(problem):
            return path, match.expand(words)
    if unknown := _UNKNOWN.fullmatch(problem):
        return path, _unknown(unknown[1], _at(spec, path))
    return path, problem


def _unknown(field: str, structs: list[msgspec.inspect.StructType]) -> str:
    fields = {each.encode_name: each.encode_name for s in structs for each in s.fields}
    # What stands one level too high is known by its last word.
    deeper = {
        below.encode_name: f"{each.encode_name}.{below.encode_name}"
        for s in structs
        for each in s.fields
        for part in _structs(each.type)
        for below in part.fields
    }
    said = f"there is no field `{field}`"
    known = deeper | fields
    if close := difflib.get_close_matches(field, known, 1):
        return f"{said}; did you mean `{known[close[0]]}`?"
    return f"{said}; the fields are {', '.join(sorted(fields))}" if fields else said


def _at(spec: type[msgspec.Struct], path: str) -> list[msgspec.inspect.StructType]:
    """Return what stands at `path`; nothing where it leads through a list or a mapping."""
    found = _structs(msgspec.inspect.type_info(spec))
    for step in path.split(".") if path else ():
        found = [
            part
            for struct in found
            for field in struct.fields
            if field.encode_name == step
            for part in _structs(field.type)
        ]
    return found


def _structs(kind: msgspec.inspect.Type) -> list[msgspec.inspect.StructType]:
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return [each for each in kinds if isinstance(each, msgspec.inspect.StructType)]
