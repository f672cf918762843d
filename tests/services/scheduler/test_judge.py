import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.active import ActiveEnvironment
from schemas.builds import ImageSource, UploadSource
from schemas.specs import KINDS, EnvironmentSpec, FunctionSpec, Module, SecretRef
from services.scheduler.judge import Rejected, Resolved, Waiting, judge, resolve

SHA = "a" * 64
KIND = st.sampled_from([*KINDS, "timer", "", "x.y"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["kind", "module", "image", "environment", "variables", "secrets", "limits", "scaling",
         "interface", "arguments", "function", "path", "prefix", "methods", "host", "isolation"]
    ),
    JSON,
)  # fmt: skip


@given(KIND, st.text(max_size=70), st.text(max_size=70), st.binary())
def test_no_bytes_make_it_raise(kind: str, namespace: str, name: str, payload: bytes) -> None:
    verdict = judge(kind, namespace, name, payload)
    assert not isinstance(verdict, Rejected) or verdict.message


@given(KIND, FIELDS)
def test_no_json_makes_it_raise_and_every_refusal_says_something(
    kind: str, fields: dict[str, object]
) -> None:
    verdict = judge(kind, "default", "f", msgspec.json.encode(fields))
    if isinstance(verdict, Rejected):
        assert verdict.message
        assert "matching regex" not in verdict.message
        assert verdict.field is None or verdict.field.startswith("$")


def test_a_wrong_field_before_bytes_that_are_no_text_is_a_refusal_too() -> None:
    payload = b'{"module": {"sha256": "zz"}, "x": "\xff"}'
    assert isinstance(judge("function", "default", "f", payload), Rejected)


def test_what_is_said_of_a_spec_does_nothing_to_a_terminal() -> None:
    refused = judge("function", "default", "f", b'{"\\u001b[2J\\n": 1}')
    assert isinstance(refused, Rejected)
    assert refused.message.isprintable()
    assert (refused.field or "").isprintable()


def test_json_nested_without_end_is_refused() -> None:
    for payload in (b"[" * 100_000, b'{"module":' * 100_000):
        assert isinstance(judge("function", "default", "f", payload), Rejected)


@pytest.mark.parametrize(
    ("kind", "payload", "field", "words"),
    [
        ("function", {"environment": "a.b"}, "$.environment", ("'a.b'", "lower-case letters")),
        ("function", {"module": {"sha256": "zz"}}, "$.module.sha256", ("'zz'", "SHA-256")),
        ("function", {"module": {"sha256": SHA, "file_name": "a/b"}}, "$.module.file_name",
         ("bare",)),
        ("function", {"environment": "e", "limits": {"timeout_s": 0}}, "$.limits.timeout_s",
         ("> 0",)),
        ("function", {"environment": "e", "limit": 1}, "$.limit", ("`limit`",)),
        ("function", {"environment": "e", "scaling": {"min": 1}}, "$.scaling.min", ("`min`",)),
        ("function", {"environment": "e", "interface": "http"}, None, ("wasi:http", "args")),
        ("function", {"environment": "e", "interface": "grpc"}, "$.interface", ("grpc",)),
        ("function", {"environment": "e", "variables": {"A-B": "x"}}, "$.variables", ("digits",)),
        ("function", {}, None, ("module", "image", "environment")),
        ("function", {"kind": "route"}, "$.kind", ("route",)),
        ("route", {"function": "f"}, None, ("path", "prefix")),
        ("route", {"path": "/"}, "$.function", ("missing",)),
        ("route", {"function": "f", "path": "/", "host": "A_B"}, "$.host",
         ("'A_B'", "host name")),
        ("route", {"function": "f", "path": "a"}, None, ("slash",)),
        ("route", {"function": "f", "path": "/", "methods": ["BREW"]}, "$.methods[0]", ("BREW",)),
        ("environment", {"module": {"sha256": SHA}, "image": "x"}, None, ("not both",)),
        ("widget", {}, None, ("'widget'", "function")),
        ("timer", {"function": "f", "schedule": "often"}, "$.schedule", ("'often'", "cron")),
        ("timer", {"function": "f", "schedule": "* * * * *", "timezone": "Mars"}, "$.timezone",
         ("'Mars'", "Europe/Berlin")),
        ("subscription", {"function": "f", "subject": "wasmfn.>"}, None, ("not a user's",)),
        ("subscription", {"function": "f", "subject": "a", "stream": "S", "reply": True}, None,
         ("`reply`",)),
        ("function", {"environment": "e", "asynchronous": {"retry": {"attempts": 0}}},
         "$.asynchronous.retry.attempts", (">= 1",)),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_says_what_is_right(
    kind: str, payload: object, field: str | None, words: tuple[str, ...]
) -> None:
    verdict = judge(kind, "default", "f", msgspec.json.encode(payload))
    assert isinstance(verdict, Rejected)
    assert verdict.field == field
    for word in words:
        assert word in verdict.message


@pytest.mark.parametrize("payload", [{"x" * 1_000_000: 1}, {"kind": "x" * 1_000_000}])
def test_what_is_said_of_a_huge_spec_is_small_enough_for_a_message(payload: object) -> None:
    verdict = judge("function", "default", "f", msgspec.json.encode(payload))
    assert isinstance(verdict, Rejected)
    assert len(msgspec.json.encode(verdict)) < 10_000


def test_what_no_message_could_put_in_force_is_refused() -> None:
    large = {f"V{i}": "x" * 30_000 for i in range(15)}
    spec = {"environment": "e", "variables": large}
    taken = judge("function", "default", "f", msgspec.json.encode(spec))
    assert isinstance(taken, FunctionSpec)
    environment_too = environment(variables={name + "_": value for name, value in large.items()})
    for verdict in (
        judge(
            "function", "default", "f", msgspec.json.encode(spec | {"arguments": ["x" * 99_000]})
        ),
        resolve(taken, 2, environment_too),
    ):
        assert isinstance(verdict, Rejected)
        assert "512" in verdict.message


def test_a_value_that_may_be_private_is_not_repeated() -> None:
    payload = {"environment": "e", "variables": {"A": "hush\0hush"}}
    verdict = judge("function", "default", "f", msgspec.json.encode(payload))
    assert isinstance(verdict, Rejected)
    assert "hush" not in verdict.message


@pytest.mark.parametrize("name", ["a.b", "A", "-", "", "a" * 64, "a/b", "ä", "a\n"])
def test_a_name_in_the_subject_must_be_a_dns_label(name: str) -> None:
    assert isinstance(judge("environment", "default", name, b"{}"), Rejected)
    assert isinstance(judge("environment", name, "f", b"{}"), Rejected)
    assert not isinstance(judge("environment", "default", "f", b"{}"), Rejected)


def environment(revision: int = 3, **fields: object) -> ActiveEnvironment:
    return ActiveEnvironment("default", "e", revision, EnvironmentSpec(**fields))  # type: ignore[arg-type]


def test_a_function_without_its_environment_waits() -> None:
    verdict = resolve(FunctionSpec(environment="e"), 1, None)
    assert isinstance(verdict, Waiting)
    assert "'e'" in verdict.message


def test_an_environment_without_code_is_no_source_of_code() -> None:
    verdict = resolve(FunctionSpec(environment="e"), 1, environment())
    assert isinstance(verdict, Rejected)
    assert verdict.field == "$.environment"


def test_what_a_function_says_itself_wins_over_its_environment() -> None:
    spec = FunctionSpec(
        environment="e",
        module=Module(SHA, "own.wasm"),
        variables={"A": "own"},
        secrets={"S": SecretRef("s", "k")},
    )
    inherited = environment(image="registry/x", variables={"A": "e", "B": "e", "S": "e"})
    verdict = resolve(spec, 1, inherited)
    assert isinstance(verdict, Resolved)
    assert verdict.source == UploadSource(SHA, "own.wasm")
    assert verdict.spec.variables == {"A": "own", "B": "e"}


@given(st.integers(1), st.integers(1))
def test_a_changed_environment_makes_a_new_revision(function: int, env: int) -> None:
    verdict = resolve(FunctionSpec(environment="e"), function, environment(env, image="x"))
    assert isinstance(verdict, Resolved)
    assert verdict.revision == max(function, env)
    # The image is resolved again when, and only when, the spec that names it was published.
    assert verdict.source == ImageSource("x", env)


def test_an_image_runs_by_itself_only_where_the_platform_can_run_it() -> None:
    spec = FunctionSpec(image="web:1", executor="deployment")
    verdict = resolve(spec, 1, None)
    assert isinstance(verdict, Rejected)
    assert verdict.field == "$.executor"
    assert "without Kubernetes" in verdict.message
    assert resolve(spec, 1, None, runs_images=True) == Resolved(1, spec, None)


def test_an_image_of_an_environment_runs_by_itself_and_a_module_does_not() -> None:
    spec = FunctionSpec(environment="e", executor="deployment")
    verdict = resolve(spec, 1, environment(image="web:1"), runs_images=True)
    assert isinstance(verdict, Resolved)
    assert (verdict.spec.image, verdict.source) == ("web:1", None)
    verdict = resolve(spec, 1, environment(module=Module(SHA)), runs_images=True)
    assert isinstance(verdict, Rejected)
    assert verdict.field == "$.environment"
