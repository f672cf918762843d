"""What the options that describe a function make of its spec."""

from typing import Any

import click
import pytest

from schemas.specs import Container, FunctionSpec, SubscriptionSpec
from wasmfn.cli.deploy import deploy
from wasmfn.cli.flags import changed_fields, checked, with_flags


def flags(**given: Any) -> dict[str, Any]:
    """Every option as if it was not given, but these."""
    empty = {
        p.name: () if p.multiple else None for p in deploy.params if isinstance(p, click.Option)
    }
    return {**empty, **given}


def test_how_an_image_of_its_own_runs_is_kept_when_only_a_part_is_told() -> None:
    first = with_flags(
        None, flags(executor="deployment", port=8080, runtime_class="wasm"), image="web:1"
    )
    assert first.container == Container(port=8080, runtime_class="wasm")
    second = with_flags(first, flags(cpu=0.5), image="web:2")
    assert (second.image, second.executor) == ("web:2", "deployment")
    assert second.container == Container(port=8080, runtime_class="wasm", cpu=0.5)


def test_a_function_that_goes_back_to_keepers_has_no_container() -> None:
    before = FunctionSpec(image="web:1", executor="deployment", container=Container(port=1))
    after = with_flags(before, flags(executor="keeper"))
    assert (after.executor, after.container) == ("keeper", None)


def test_a_port_without_an_image_of_its_own_is_refused() -> None:
    with pytest.raises(click.UsageError, match="executor `deployment`"):
        with_flags(None, flags(port=8080), image="web:1")


def test_a_field_that_is_not_given_stays_as_it_was() -> None:
    before = SubscriptionSpec(subject="a.>", function="f", queue="q", reply=True)
    given = {"subject": None, "function": "g", "stream": None, "queue": None, "reply": False}
    after = checked(changed_fields(before, given), SubscriptionSpec)
    assert after == SubscriptionSpec(subject="a.>", function="g", queue="q", reply=False)
