import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keeper.answer import (
    MAX_ARGUMENTS,
    BadRequestError,
    Program,
    Request,
    answer_of,
    cgi_variables,
    invocation_of,
    parse_cgi,
    refusal,
)
from keeper.call import Outcome
from schemas.specs import Interface

ARGS = Program("args", [b"sort.wasm", b"-n"], {})
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def request(body: bytes = b"", target: bytes = b"/", **headers: str) -> Request:
    pairs = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    return Request("POST", target, pairs, body, "10.0.0.9")


def outcome(stdout: bytes = b"", error: str | None = None, **more: object) -> Outcome:
    code = more.pop("exit_code", 0 if error is None else None)
    return Outcome(code, error, stdout, b"", 1.0, **more)  # type: ignore[arg-type]


def answer(interface: Interface, given: Outcome, accept: bytes = b"") -> tuple[int, bytes]:
    it = answer_of(interface, accept, given)
    return it.status, it.body


@pytest.mark.parametrize("body", [b"", b"{}", b'{"args": []}'])
def test_no_body_and_empty_objects_mean_no_arguments(body: bytes) -> None:
    assert invocation_of(ARGS, request(body)).argv == [b"sort.wasm", b"-n"]


@given(st.lists(TEXT, max_size=20), TEXT)
def test_arguments_and_stdin_arrive_exactly(args: list[str], stdin: str) -> None:
    body = json.dumps({"args": args, "stdin": stdin}).encode()
    invocation = invocation_of(ARGS, request(body))
    assert invocation.argv == [b"sort.wasm", b"-n", *(a.encode() for a in args)]
    assert invocation.stdin == stdin.encode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "not JSON"),
        (b"args=1", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"args": [1]}', "args[0]"),
        (b'{"args": "1"}', "args"),
        (b'{"args": null}', "args"),
        (b'{"argz": []}', "argz"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"args": ["a\\u0000b"]}', "NUL"),
        (b'{"args": ["\\ud800"]}', ""),
        (json.dumps({"args": ["x"] * (MAX_ARGUMENTS + 1)}).encode(), "4096"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_body_that_is_no_argument_list_is_refused_and_says_why(body: bytes, why: str) -> None:
    with pytest.raises(BadRequestError, match=r".") as caught:
        invocation_of(ARGS, request(body))
    assert why in str(caught.value)


@given(st.binary(max_size=200))
def test_any_body_is_a_call_or_a_refusal(body: bytes) -> None:
    try:
        argv = invocation_of(ARGS, request(body)).argv
    except BadRequestError:
        return
    assert all(b"\0" not in a for a in argv)


def test_success_is_upstreams_json_with_fields_added() -> None:
    status, body = answer("args", outcome(b"1\n2\n"))
    assert status == 200
    assert json.loads(body) == {"status": 0, "output": ["1", "2"], "exit_code": 0, "stderr": ""}


@pytest.mark.parametrize(
    ("stdout", "lines"),
    [(b"", []), (b"\n", [""]), (b"a", ["a"]), (b"a\n\n", ["a", ""]), (b"\r\n", ["\r"])],
)
def test_output_is_split_at_newlines_and_the_last_one_dropped(
    stdout: bytes, lines: list[str]
) -> None:
    assert json.loads(answer("args", outcome(stdout))[1])["output"] == lines


def test_a_failure_reports_reason_exit_code_and_partial_output() -> None:
    failed = Outcome(3, "exited with code 3", b"half\n", b"oh\n", 1.0)
    status, body = answer("args", failed)
    assert status == 200
    assert json.loads(body) == {
        "status": 1,
        "output": ["half"],
        "exit_code": 3,
        "stderr": "oh\n",
        "error": "exited with code 3",
    }


def test_a_timeout_is_504_with_the_same_shape() -> None:
    status, body = answer("args", outcome(b"half", "timed out after 1 s", timed_out=True))
    assert status == 504
    assert json.loads(body)["exit_code"] is None


@given(st.binary(max_size=200))
def test_output_of_any_bytes_is_valid_json_and_loses_nothing(stdout: bytes) -> None:
    result = json.loads(answer("args", outcome(stdout))[1])
    if "output_base64" in result:
        assert base64.b64decode(result["output_base64"]) == stdout
    else:
        text = "\n".join(result["output"]).encode()
        assert stdout in (text, text + b"\n")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"text/plain", b"text/plain; charset=utf-8"),
        (b"Text/Plain;q=0.5, image/png", b"text/plain; charset=utf-8"),
        (b"application/octet-stream", b"application/octet-stream"),
        (b"text/plain, application/json", b"application/json"),
        (b"*/*", b"application/json"),
        (b"text/html", b"application/json"),
        (b"", b"application/json"),
    ],
)
def test_raw_output_is_given_to_who_asks_for_it_and_not_for_json(
    accept: bytes, kind: bytes
) -> None:
    assert dict(answer_of("args", accept, outcome(b"x")).headers)[b"content-type"] == kind


def test_a_failure_is_no_success_for_a_client_that_reads_only_raw_output() -> None:
    assert answer("args", outcome(b"x", "trap"), b"text/plain")[0] == 500
    assert answer("args", outcome(b"x"), b"text/plain") == (200, b"x")


def test_the_stdin_interface_passes_bytes_both_ways() -> None:
    invocation = invocation_of(Program("stdin", [b"echo.wasm"], {}), request(b"\x00\xff"))
    assert (invocation.argv, invocation.stdin) == ([b"echo.wasm"], b"\x00\xff")
    assert answer("stdin", outcome(b"\x00\xff")) == (200, b"\x00\xff")
    assert answer("stdin", outcome(b"", "trap"))[0] == 500
    assert answer("stdin", outcome(b"", "late", timed_out=True))[0] == 504


def test_cgi_variables_describe_the_request() -> None:
    variables = cgi_variables(
        request(b"abc", b"/a%20b?x=1", host="h.example:81", content_type="text/x", x_y="1")
    )
    assert variables[b"PATH_INFO"] == b"/a b"
    assert variables[b"QUERY_STRING"] == b"x=1"
    assert variables[b"CONTENT_LENGTH"] == b"3"
    assert variables[b"CONTENT_TYPE"] == b"text/x"
    assert variables[b"SERVER_NAME"] == b"h.example"
    assert variables[b"SERVER_PORT"] == b"81"
    assert variables[b"REMOTE_ADDR"] == b"10.0.0.9"
    assert variables[b"HTTP_X_Y"] == b"1"


def test_platform_headers_the_proxy_header_and_ambiguous_names_do_not_reach_the_function() -> None:
    it = Request(
        "GET",
        b"/",
        [
            (b"x-wasmfn-instance", b"secret"),
            (b"x-wasmfn-param-id", b"7"),
            (b"x-wasmfn-client", b"ann%20b"),
            (b"proxy", b"http://evil"),
            (b"x_forwarded_for", b"forged"),
        ],
        b"",
    )
    variables = cgi_variables(it)
    assert b"secret" not in variables.values()
    assert variables[b"HTTP_X_WASMFN_PARAM_ID"] == b"7"
    assert variables[b"REMOTE_USER"] == b"ann b"
    assert b"HTTP_PROXY" not in variables
    assert b"HTTP_X_FORWARDED_FOR" not in variables


def test_a_request_never_overrides_the_functions_own_variables() -> None:
    program = Program("wagi", [b"page.wasm"], {b"HTTP_HOST": b"mine"})
    invocation = invocation_of(program, request(host="theirs"))
    assert invocation.variables is not None
    assert invocation.variables[b"HTTP_HOST"] == b"mine"


@given(
    st.binary(max_size=50),
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9))),
)
def test_cgi_variables_of_any_request_are_what_wasi_takes(
    target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    for value in cgi_variables(Request("GET", target, headers, b"")).values():
        assert b"\0" not in value
        value.decode()


def test_a_cgi_response_has_status_headers_and_body() -> None:
    it = answer_of("wagi", b"", outcome(b"Status: 404 Not Found\r\nX-A: b\r\n\r\nbody\n\n"))
    assert (it.status, it.headers, it.body) == (404, [(b"x-a", b"b")], b"body\n\n")


def test_a_cgi_redirect_needs_no_status() -> None:
    assert parse_cgi(b"Location: /x\n\n")[0] == 302
    assert parse_cgi(b"Content-Type: text/plain\n\nx")[0] == 200


def test_a_cgi_response_cannot_speak_for_the_connection() -> None:
    output = (
        b"Content-Type: a/b\nContent-Length: 5\nTransfer-Encoding: chunked\nx-wasmfn-run-ms: 0\n\n"
    )
    assert parse_cgi(output)[1] == [(b"content-type", b"a/b")]


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"hello\n",
        b"\nbody",
        b"no colon\n\n",
        b"Bad Name: x\n\n",
        b"A: b\x01\n\n",
        b"A: b\rC: d\n\n",
        b"Status: 99\n\n",
        b"Status: abc\n\n",
        b"Status: 2000\n\n",
        b"A: b\n",
    ],
)
def test_output_without_cgi_headers_is_a_failure_that_says_so(output: bytes) -> None:
    status, body = answer("wagi", outcome(output))
    assert status == 500
    assert "CGI headers" in json.loads(body)["error"]


@given(st.binary(max_size=100))
@example(b"x: a\rset-cookie: b\n\n")
@example(b"x: a\x00b\r\n\r\n")
@example(b"x\r: a\n\n")
def test_any_cgi_output_gives_headers_that_cannot_split_a_response(output: bytes) -> None:
    for name, value in answer_of("wagi", b"", outcome(output)).headers:
        assert not set(name + value) & set(b"\r\n\0")


def test_a_refusal_has_the_shape_of_a_failure() -> None:
    assert json.loads(refusal(413, "too large").body) == {
        "status": 1,
        "error": "too large",
        "output": [],
    }
