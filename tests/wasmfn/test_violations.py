"""A wrong field is named by its path, with what would be right."""

from typing import Any

import msgspec
import pytest

from schemas.specs import FunctionSpec, RouteSpec
from wasmfn.violations import violation

MODULE = {"module": {"sha256": "0" * 64, "file_name": "f.wasm"}}


@pytest.mark.parametrize(
    ("fields", "spec", "path", "words"),
    [
        (
            {"limits": {"memory_mib": 9999}}, FunctionSpec, "limits.memory_mib",
            "must be at most 4096",
        ),
        ({"limits": {"memory_mib": 0}}, FunctionSpec, "limits.memory_mib", "must be at least 1"),
        ({"limts": {}}, FunctionSpec, "", "there is no field `limts`; did you mean `limits`?"),
        (
            {"memory": 64}, FunctionSpec, "",
            "there is no field `memory`; did you mean `limits.memory_mib`?",
        ),
        (
            {"limits": {"timeout": 1}}, FunctionSpec, "limits",
            "there is no field `timeout`; did you mean `timeout_s`?",
        ),
        (
            {"asynchronous": {"retry": {"attempt": 1}}}, FunctionSpec, "asynchronous.retry",
            "there is no field `attempt`; did you mean `attempts`?",
        ),
        ({"limits": {"timeout_s": "soon"}}, FunctionSpec, "limits.timeout_s",
         "Expected `float`, got `str`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_would_be_right(
    fields: dict[str, Any], spec: type[msgspec.Struct], path: str, words: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({**MODULE, **fields}, spec)
    assert violation(refused.value, spec) == (path, words)


def test_a_field_like_no_other_is_answered_with_those_there_are() -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({"zzz": 1}, RouteSpec)
    path, words = violation(refused.value, RouteSpec)
    assert path == ""
    assert words.startswith("there is no field `zzz`; the fields are ")
    assert {"function", "path", "methods"} <= set(words.rpartition(" are ")[2].split(", "))
