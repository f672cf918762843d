"""A call is waited for as long as its function may take."""

from datetime import UTC, datetime

from schemas.specs import FunctionSpec, Limits, Module
from wasmfn.invoke import patience_s
from wasmfn.objects import Key, Object


def test_a_call_is_waited_for_longer_than_its_function_may_take() -> None:
    spec = FunctionSpec(
        module=Module(sha256="0" * 64, file_name="f.wasm"), limits=Limits(timeout_s=900.0)
    )
    found = Object(
        key=Key("function", "default", "f"), revision=1, published_at=datetime.now(UTC), spec=spec
    )
    assert patience_s(found) > 900.0
