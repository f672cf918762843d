"""wasmfn.apply: documents to specs to a plan."""

import contextlib
import json
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import ApiKey, ApiKeys, Jwt
from schemas.specs import (
    AnySpec,
    EnvironmentSpec,
    FunctionSpec,
    Limits,
    Module,
    RouteSpec,
    Scaling,
    SecretRef,
)
from wasmfn.apply import (
    Change,
    DocumentError,
    desired,
    difference,
    module_file,
    plan,
    read_documents,
    to_yaml,
)
from wasmfn.objects import Key

DIGEST = "ab" * 32
SORT = FunctionSpec(module=Module(DIGEST, "sort.wasm"))
SORT_KEY = Key("function", "default", "sort")
ROUTE = RouteSpec(function="sort", path="/sort")
ROUTE_KEY = Key("route", "default", "sort")


def specs(text: str, **modules: Module) -> dict[Key, AnySpec]:
    files = {PurePath("dir") / name.replace("_", "."): module for name, module in modules.items()}
    return desired(read_documents(text, "dir/x.yaml"), "default", files)


def refused(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        specs(text, sort_wasm=Module(DIGEST, "sort.wasm"))
    return str(caught.value)


def test_fields_may_stand_inline_or_below_spec() -> None:
    inline = f"kind: function\nname: sort\nmodule: {{sha256: {DIGEST}, file_name: sort.wasm}}"
    below = (
        f"kind: function\nname: sort\nspec:\n  module: {{sha256: {DIGEST}, file_name: sort.wasm}}"
    )
    assert specs(inline) == specs(below) == {SORT_KEY: SORT}


def test_a_module_file_is_seen_from_the_document_and_becomes_its_digest() -> None:
    text = "kind: function\nname: sort\nmodule: {file: sort.wasm}"
    (document,) = read_documents(text, "dir/x.yaml")
    assert module_file(document) == Path("dir/sort.wasm")
    assert specs(text, sort_wasm=Module(DIGEST, "sort.wasm")) == {SORT_KEY: SORT}


def test_documents_come_out_in_the_order_of_their_references() -> None:
    text = """
kind: route
name: a
function: f
path: /
---
kind: function
name: f
environment: e
---
kind: environment
name: e
namespace: default
"""
    assert [key.kind for key in specs(text)] == ["environment", "function", "route"]


F = "kind: function\nname: f\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (F + "image: x\nlimits: {timeout: 3}", "at limits: there is no field `timeout`"),
        (F + "image: x\nmemory: 3", "document 1: there is no field `memory`"),
        (F + "image: x\nlimits: {timeout_s: soon}", "at limits.timeout_s: Expected `float`"),
        ("kind: function\nname: f", "needs a `module`, an `image` or an `environment`"),
        ("kind: function\nimage: x", "at name: a function needs a `name`"),
        ("kind: function\nname: My.Fn\nimage: x", "at name: 'My.Fn' cannot be a name"),
        ("kind: function\nname: 7\nimage: x", "put it in quotes"),
        (F + "namespace: a/b\nimage: x", "at namespace: 'a/b' cannot be a name"),
        ("kind: pod\nname: f", "at kind: there is no kind 'pod';"),
        ("name: f", "at kind: a document needs a `kind`"),
        (F + "image: x\nspec: {image: y}", "at image: fields stand below `spec:`"),
        (F + "spec: x", "at spec: a spec is a mapping"),
        (F + "module: {file: sort.wasm, digest: x}", "at module.digest"),
        (F + "module: {file: 3}", "at module.file"),
        ("- a\n- b", "document 1: a document is a mapping"),
        ("kind: [", "dir/x.yaml, at line 1: this is not YAML"),
        ("kind: function\nname: a\nname: b\nimage: x", "at line 3: this is not YAML: key"),
        ("kind: !!python/object:os.system x", "this is not YAML"),
        ("kind: \x00", "this is not YAML"),
        ("when: 2024-99-99", "this YAML cannot be read"),
        ("[" * 5000, "this YAML cannot be read"),
        (F + "image: x\n---\n" + F + "image: y", "2, at name: function default/f is given"),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_its_place(text: str, sentence: str) -> None:
    said = refused(text)
    assert sentence in said
    assert said.startswith("dir/x.yaml")
    assert "\n" not in said


def test_a_plan_creates_updates_and_leaves_alone() -> None:
    other = RouteSpec(function="sort", path="/other")
    changes = plan({SORT_KEY: SORT, ROUTE_KEY: ROUTE}, {ROUTE_KEY: other})
    assert [(c.action, c.key) for c in changes] == [("create", SORT_KEY), ("update", ROUTE_KEY)]
    assert [c.action for c in plan({SORT_KEY: SORT}, {SORT_KEY: SORT})] == ["unchanged"]
    assert [c.action for c in plan({SORT_KEY: SORT}, {SORT_KEY: None})] == ["update"]


def test_prune_deletes_users_first_and_only_in_the_namespaces_of_the_documents() -> None:
    wanted: dict[Key, AnySpec] = {Key("route", "default", "keep"): ROUTE}
    elsewhere = Key("function", "other", "sort")
    present: dict[Key, AnySpec | None] = {SORT_KEY: SORT, ROUTE_KEY: ROUTE, elsewhere: SORT}
    changes = plan(wanted, present, prune=True)
    assert [(c.action, c.key) for c in changes[1:]] == [
        ("delete", ROUTE_KEY),
        ("delete", SORT_KEY),
    ]
    assert all(c.action != "delete" for c in plan(wanted, present))


def test_a_difference_shows_only_what_changes() -> None:
    slower = FunctionSpec(module=SORT.module, limits=Limits(timeout_s=5.0))
    lines = difference(Change("update", SORT_KEY, SORT, slower))
    assert [line for line in lines if line[0] in "+-"] == ["+limits:", "+  timeout_s: 5.0"]


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
variable_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
values = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
modules = st.builds(
    Module,
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    file_name=st.from_regex(r"[A-Za-z0-9_][-A-Za-z0-9_.+]{0,20}", fullmatch=True),
)
limits = st.builds(
    Limits,
    timeout_s=st.floats(0, 3600, exclude_min=True),
    memory_mib=st.integers(1, 4096),
    output_bytes=st.integers(0, 1 << 28),
)
scalings = st.builds(Scaling, min_instances=st.integers(0, 9), max_instances=st.integers(9, 99))
API_KEYS = ApiKeys((ApiKey("ann", "0" * 64),))
TOKENS = Jwt("https://login.example", "shop", keys=({"kty": "OKP"},))
secret_refs = st.builds(SecretRef, name=names, key=st.just("key.txt"))
functions = st.builds(
    FunctionSpec,
    module=modules,
    arguments=st.lists(values, max_size=4).map(tuple),
    variables=st.dictionaries(variable_names.map("v_{}".format), values, max_size=4),
    secrets=st.dictionaries(variable_names.map("s_{}".format), secret_refs, max_size=2),
    limits=limits,
    scaling=scalings,
)
environments = st.builds(EnvironmentSpec, variables=st.dictionaries(variable_names, values))
routes = st.builds(
    RouteSpec,
    function=names,
    path=names.map("/{}/{{id}}".format),
    methods=st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, unique=True).map(tuple),
    authentication=st.sampled_from([None, API_KEYS, TOKENS]),
)


def keys(kind: str) -> st.SearchStrategy[Key]:
    return st.builds(Key, st.just(kind), names, names)


platforms = st.tuples(
    st.dictionaries(keys("function"), functions, max_size=3),
    st.dictionaries(keys("environment"), environments, max_size=2),
    st.dictionaries(keys("route"), routes, max_size=3),
).map(lambda parts: {**parts[0], **parts[1], **parts[2]})


@given(platforms)
def test_what_is_exported_applies_to_the_same_specs(platform: dict[Key, AnySpec]) -> None:
    documents = read_documents(to_yaml(platform), "export.yaml")
    again = desired(documents, "other", {})
    assert again == platform
    assert all(change.action == "unchanged" for change in plan(again, platform, prune=True))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["kind", "name", "spec", "module", "limits"]), json_values))
def test_any_document_is_taken_or_refused_in_words(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(value)))
    with contextlib.suppress(DocumentError):
        specs(text)


def test_timers_and_subscriptions_are_applied_after_functions_and_come_back_the_same() -> None:
    text = """
kind: subscription
name: orders
function: f
subject: shop.orders
---
kind: timer
name: nightly
function: f
schedule: '0 3 * * *'
timezone: Europe/Berlin
---
kind: function
name: f
image: docker.io/you/f:1
asynchronous: {retry: {attempts: 2}, on_failure: {subject: shop.failed}}
"""
    wanted = desired(read_documents(text, "f.yaml"), "default", {})
    assert [key.kind for key in wanted] == ["function", "timer", "subscription"]
    assert desired(read_documents(to_yaml(wanted), "f.yaml"), "other", {}) == wanted
