"""Specs: what one message can get wrong is refused, with the field's path in the sentence."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.specs import (
    KINDS,
    Container,
    Destination,
    FunctionSpec,
    RouteSpec,
    UnknownKindError,
    check_path_pattern,
    check_subject,
    decode_spec,
)

DIGEST = "a" * 64


def function(**fields: object) -> bytes:
    return json.dumps({"module": {"sha256": DIGEST}, **fields}).encode()


def route(**fields: object) -> bytes:
    return json.dumps({"function": "sort", **fields}).encode()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{}", "needs a `module`"),
        (b"[]", "Expected `object`"),
        (function(modul=1), "unknown field `modul`"),
        (function(image="a/b:1"), "not both"),
        (function(module={"sha256": "xyz"}), "$.module.sha256"),
        (function(module={"sha256": DIGEST, "file_name": "../x"}), "$.module.file_name"),
        (function(environment="a.b"), "$.environment"),
        (function(environment="a/b"), "$.environment"),
        (function(environment="sort\n"), "$.environment"),
        (function(limits={"timeout_s": 0}), "$.limits.timeout_s"),
        (function(limits={"timeout_s": "1"}), "$.limits.timeout_s"),
        (function(limits={"memory_mib": 1 << 20}), "$.limits.memory_mib"),
        (function(scaling={"min_instances": 3, "max_instances": 2}), "min_instances (3)"),
        (function(variables={"A=B": "1"}), "$.variables"),
        (function(variables={"A": "x\0"}), "$.variables"),
        (function(variables={"A": "1"}, secrets={"A": {"name": "s", "key": "k"}}), "variable A"),
        (function(interface="http"), "not supported yet"),
        (function(kind="route"), "$.kind"),
    ],
)
def test_a_bad_function_names_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        decode_spec("function", payload)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (route(), "either `path` or `prefix`"),
        (route(path="/a", prefix="/a"), "either `path` or `prefix`"),
        (route(path="a"), "begin with a slash"),
        (route(path="/a//b"), "empty"),
        (route(path="/a/../b"), "`..` segment"),
        (route(path="/a?b"), "holds '?', which no route can"),
        (route(path="/a%2fb"), "holds '%', which no route can"),
        (route(prefix="/a b"), "holds ' ', which no route can"),
        (route(path="/{id}x"), "whole segment"),
        (route(path="/{id}/{id}"), "twice"),
        (route(prefix="/{id}"), "cannot have parameters"),
        (route(path="/a", methods=[]), "$.methods"),
        (route(path="/a", methods=["get"]), "$.methods[0]"),
        (route(path="/a", methods=["GET", "GET"]), "twice"),
        (route(path="/a", host="EXAMPLE.org"), "$.host"),
    ],
)
def test_a_bad_route_names_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        decode_spec("route", payload)
    assert says in str(caught.value)


def test_the_payload_may_say_its_kind_or_leave_it_to_the_subject() -> None:
    assert decode_spec("function", function()) == decode_spec("function", function(kind="function"))


def test_an_unknown_kind_is_told_which_kinds_there_are() -> None:
    with pytest.raises(UnknownKindError, match="environment, function, route"):
        decode_spec("functoin", b"{}")


@given(st.binary(max_size=200), st.sampled_from(sorted(KINDS)))
def test_no_payload_raises_anything_but_a_message_for_its_author(payload: bytes, kind: str) -> None:
    # ValidationError is a DecodeError; anything else would pass through and fail the test.
    with contextlib.suppress(msgspec.DecodeError):
        decode_spec(kind, payload)


@given(st.text(max_size=30))
def test_every_accepted_pattern_is_one_that_a_request_can_match(pattern: str) -> None:
    try:
        check_path_pattern(pattern, parameters=True)
    except ValueError:
        return
    assert pattern.startswith("/")
    segments = pattern[1:].removesuffix("/").split("/") if len(pattern) > 1 else []
    assert all(s and s not in (".", "..") for s in segments)


def test_specs_survive_the_wire_unchanged() -> None:
    for spec in (
        FunctionSpec(environment="e", arguments=("-c",), variables={"A": "1"}),
        RouteSpec(function="f", path="/a/{b}", methods=("PUT",), host="example.org"),
    ):
        assert decode_spec(spec.__struct_config__.tag, msgspec.json.encode(spec)) == spec


@pytest.mark.parametrize("path", ["/.wasmfn", "/.wasmfn/", "/.wasmfn/invocations"])
def test_no_route_can_be_made_where_the_platform_answers(path: str) -> None:
    for field in ("path", "prefix"):
        with pytest.raises(ValueError, match="the platform's own"):
            RouteSpec(function="f", **{field: path})
    RouteSpec(function="f", path="/.wasmfn-shop")


@pytest.mark.parametrize(
    "subject",
    ["wasmfn.specs.function.default.f", "$JS.API.INFO", "_INBOX.x", "_INBOX_router.x", "*.a", ">"],
)
def test_no_spec_reaches_subjects_of_the_platform(subject: str) -> None:
    for wildcards in (True, False):
        with pytest.raises(ValueError, match="not a user's"):
            check_subject(subject, wildcards=wildcards)


def test_an_outcome_goes_to_one_place_that_can_take_it() -> None:
    Destination(subject="shop.orders")
    Destination(function="mail")
    for wrong in ({}, {"function": "f", "subject": "s"}, {"subject": "a.*"}, {"subject": "a..b"}):
        with pytest.raises(ValueError, match=r"either|wildcard|empty token"):
            Destination(**wrong)


def test_an_image_of_its_own_needs_an_image_and_no_more() -> None:
    spec = decode_spec("function", b'{"image": "you/web:1", "executor": "deployment"}')
    assert isinstance(spec, FunctionSpec)
    assert (spec.executor, spec.container) == ("deployment", None)
    container = b'{"port": 8080, "runtime_class": "wasm", "command": ["/a"], "cpu": 0.5}'
    text = b'{"environment": "web", "executor": "deployment", "container": %b}' % container
    spec = decode_spec("function", text)
    assert isinstance(spec, FunctionSpec)
    assert spec.container == Container(port=8080, runtime_class="wasm", command=("/a",), cpu=0.5)
    assert Container().port == 10086


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('"module": {"sha256": "%s"}, "executor": "deployment"' % ("a" * 64), "give `image`"),
        ('"image": "a", "executor": "deployment", "interface": "wagi"', "`interface` is"),
        ('"image": "a", "executor": "deployment", "scaling": {"processes": 2}', "`scaling.proc"),
        ('"image": "a", "executor": "deployment", "limits": {"output_bytes": 1}', "`limits.out"),
        ('"image": "a", "container": {}', "`container` is for the executor `deployment`"),
        ('"image": "a", "executor": "deployment", "container": {"port": 0}', "port"),
        ('"image": "a", "executor": "deployment", "container": {"user": 0}', "user"),
        ('"image": "a", "executor": "deployment", "container": {"privileged": true}', "privil"),
        ('"image": "a", "executor": "pod"', "pod"),
    ],
)
def test_what_an_image_of_its_own_could_only_ignore_is_refused(fields: str, sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=sentence):
        decode_spec("function", f"{{{fields}}}".encode())
