"""What an intermediary passes on and what it refuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.framing import (
    BadRequest,
    Forwarding,
    Incoming,
    chunk,
    is_trusted,
    networks,
    parameter_headers,
    read_answer,
    read_request,
    request_head,
    with_token,
)

HOST = (b"host", b"example.org")


def forwarding(**fields: Any) -> Forwarding:
    return Forwarding(
        **{
            "request_id": "id", "traceparent": "tp", "client": "10.0.0.9", "scheme": "http",
            "trusted": False,
        } | fields
    )  # fmt: skip


def head_of(*headers: tuple[bytes, bytes], method: str = "POST", **fields: Any) -> dict[str, str]:
    all_headers = [HOST, *headers]
    head = request_head(
        method, b"/x", read_request("1.1", all_headers), all_headers, forwarding(**fields), ()
    )
    lines = with_token(head, "tok").decode("latin-1").split("\r\n")
    assert lines[0] == f"{method} /x HTTP/1.1"
    assert lines[-2:] == ["", ""]
    pairs = [line.split(": ", 1) for line in lines[1:-2]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)  # type: ignore[arg-type]  # each line splits in two


@pytest.mark.parametrize(
    ("status", "version", "headers"),
    [
        (400, "1.1", []),
        (400, "1.1", [HOST, HOST]),
        (400, "1.1", [(b"host", b"a b")]),
        (400, "1.1", [(b"host", b"a/b")]),
        (400, "1.1", [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        (400, "1.1", [HOST, (b"content-length", b"1"), (b"content-length", b"1")]),
        (400, "1.1", [HOST, (b"content-length", b"1, 1")]),
        (400, "1.1", [HOST, (b"content-length", b"-1")]),
        (400, "1.1", [HOST, (b"content-length", b"+1")]),
        (400, "1.1", [HOST, (b"content-length", b"0x1")]),
        (400, "1.1", [HOST, (b"content-length", b"")]),
        (400, "1.0", [HOST, (b"transfer-encoding", b"chunked")]),
        (501, "1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        (501, "1.1", [HOST, (b"transfer-encoding", b"identity")]),
        (501, "1.1", [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"x")]),
        (417, "1.1", [HOST, (b"expect", b"everything")]),
        (505, "2.0", [HOST]),
        (505, "0.9", [HOST]),
    ],
)
def test_a_request_whose_end_is_not_certain_is_refused(
    status: int, version: str, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(BadRequest) as refusal:
        read_request(version, headers)
    assert refusal.value.status == status


def test_a_request_says_how_its_body_ends() -> None:
    assert read_request("1.1", [HOST]) == Incoming(b"example.org", 0, False)
    assert read_request("1.1", [HOST, (b"content-length", b"007")]).length == 7
    assert read_request("1.1", [HOST, (b"transfer-encoding", b"Chunked")]).length == "chunked"
    assert read_request("1.0", []).host == b""


def test_headers_for_this_hop_stay_on_this_hop() -> None:
    head = head_of(
        (b"connection", b"X-Hop, close, Host, Content-Length"), (b"x-hop", b"1"),
        (b"te", b"trailers"), (b"keep-alive", b"1"), (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"x"),
        (b"trailer", b"x"), (b"http2-settings", b"x"), (b"proxy", b"http://evil"),
        (b"content-length", b"3"), (b"accept", b"*/*"),
    )  # fmt: skip
    assert head == {
        "host": "example.org", "accept": "*/*", "content-length": "3", "via": "1.1 wasmfn",
        "x-forwarded-for": "10.0.0.9", "x-forwarded-proto": "http",
        "x-forwarded-host": "example.org", "x-request-id": "id", "traceparent": "tp",
        "x-wasmfn-instance": "tok",
    }  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                (b"x-wasmfn-instance", b"x_wasmfn_instance", b"x-wasmfn_param-id",
                 b"x-wasmfn-param-id", b"x-forwarded-for", b"x-request-id", b"forwarded")
            ),
            st.just(b"evil"),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_nothing_that_only_the_platform_says_comes_from_a_client(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert "evil" not in head_of(*headers).values()


def test_a_trusted_proxy_is_believed_and_added_to() -> None:
    sent = [(b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"public.example"), (b"via", b"1.1 edge")]  # fmt: skip
    head = head_of(*sent, trusted=True)
    assert head["x-forwarded-for"] == "1.2.3.4, 10.0.0.9"
    assert head["x-forwarded-proto"] == "https"
    assert head["x-forwarded-host"] == "public.example"
    assert head["via"] == "1.1 edge, 1.1 wasmfn"
    trusted = networks(["10.0.0.0/8", "::1/128"])
    assert is_trusted("10.0.0.9", trusted)
    assert is_trusted("::1", trusted)
    assert not is_trusted("11.0.0.9", trusted)
    assert not is_trusted("unknown", trusted)


def test_a_body_is_announced_as_it_will_be_sent() -> None:
    assert head_of()["content-length"] == "0"
    assert "content-length" not in head_of(method="GET")
    assert head_of((b"transfer-encoding", b"chunked"))["transfer-encoding"] == "chunked"
    assert chunk(b"abc") == b"3\r\nabc\r\n"
    assert chunk(b"") == b"0\r\n\r\n"


def test_parameters_are_headers_in_percent_encoding() -> None:
    assert parameter_headers(("id", "né"), ("a b/é", "x")) == [
        (b"x-wasmfn-param-id", b"a%20b%2F%C3%A9"),
        (b"x-wasmfn-param-n%C3%A9", b"x"),
    ]


def test_an_answer_loses_what_was_meant_for_the_router() -> None:
    answer = read_answer(
        421,
        [(b"content-length", b"2"), (b"connection", b"close, x-hop"), (b"x-hop", b"1"),
         (b"x-wasmfn-reason", b"busy"), (b"keep-alive", b"5"), (b"x-wasmfn-run-ms", b"1"),
         (b"set-cookie", b"a"), (b"set-cookie", b"b")],
    )  # fmt: skip
    assert answer.reason == b"busy"
    assert answer.length == 2
    assert answer.headers == [
        (b"content-length", b"2"), (b"x-wasmfn-run-ms", b"1"), (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]  # fmt: skip
    assert read_answer(200, [(b"x-wasmfn-reason", b"busy")]).reason == b""


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (101, []), (600, []), (200, [(b"content-length", b"1"), (b"content-length", b"2")]),
        (200, [(b"transfer-encoding", b"gzip, chunked")]),
        (200, [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")]),
        (200, [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")]),
    ],
)  # fmt: skip
def test_an_answer_that_must_not_be_passed_on_is_refused(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(ValueError, match=r"status|Content-Length|chunked"):
        read_answer(status, headers)
