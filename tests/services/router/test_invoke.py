"""One invocation: what the client and the instance see, also when either misbehaves."""

import asyncio
import contextlib
import gzip

import pytest

from tests.services.router.clients import eventually
from tests.services.router.gate import Gate, MakeGate
from tests.services.router.instances import Call

POST = b"POST /f HTTP/1.1\r\nhost: a\r\n"


async def test_a_request_reaches_its_function_and_its_answer_the_client(gate: Gate) -> None:
    instance = await gate.instance()
    response = await gate.request("POST", "/f/a%20b?x=1&y", b"hello", {"x-custom": "1"})
    assert (response.status, response.body) == (200, b"hello")
    call = instance.calls[0]
    assert (call.method, call.target) == ("POST", "/f/a%20b?x=1&y")
    assert call.header["x-wasmfn-instance"] == instance.endpoint.token
    assert call.header["x-request-id"] == response.headers["x-request-id"]
    assert call.header["x-forwarded-for"] == "127.0.0.1"
    assert call.header["host"] == "example.org"
    assert call.header["x-custom"] == "1"
    assert gate.quiet()


async def test_ids_of_the_client_go_all_the_way_and_come_back(gate: Gate) -> None:
    instance = await gate.instance()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await gate.request(
        "GET", "/f", None, {"x-request-id": "my-id", "traceparent": parent}
    )
    assert response.headers["x-request-id"] == "my-id"
    assert instance.calls[0].header["x-request-id"] == "my-id"
    assert instance.calls[0].header["traceparent"] == parent


async def test_path_parameters_are_headers_that_no_client_can_send(gate: Gate) -> None:
    gate.route("f", "/users/{id}")
    instance = await gate.instance()
    sent = {"x-wasmfn-param-id": "evil", "x-wasmfn-instance": "evil", "x_wasmfn_param_id": "evil"}
    assert (await gate.request("GET", "/users/a%20b", None, sent)).status == 200
    assert instance.calls[0].header["x-wasmfn-param-id"] == "a%20b"
    assert "evil" not in [value for _, value in instance.calls[0].headers]


async def test_bodies_stream_in_chunks_both_ways(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.read_body()
        await call.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await call.send(b"4\r\ndefg\r\n0\r\nx-trailer: 1\r\n\r\n")

    instance = await gate.instance(handler)
    peer = await gate.client()
    head = POST + b"transfer-encoding: chunked\r\n\r\n"
    body = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nauthorization: evil\r\n\r\n"
    await peer.send(head + body)
    response = await peer.response()
    assert response.body == b"abcdefg"
    assert instance.calls[0].body == b"hello world"
    assert "evil" not in [value for _, value in instance.calls[0].headers]
    peer.close()


async def test_connections_are_kept_alive_on_both_sides(gate: Gate) -> None:
    instance = await gate.instance()
    peer = await gate.client()
    for i in range(5):
        await peer.send(POST + b"content-length: 1\r\n\r\n%d" % i)
        assert (await peer.response()).body == b"%d" % i
    assert instance.connections == 1
    peer.close()


async def test_pipelined_requests_are_answered_in_order(gate: Gate) -> None:
    await gate.instance()
    peer = await gate.client()
    await peer.send(b"".join(POST + b"content-length: 1\r\n\r\n%d" % i for i in range(8)))
    assert [(await peer.response()).body for _ in range(8)] == [b"%d" % i for i in range(8)]
    peer.close()


async def test_head_204_and_304_have_no_body_and_keep_the_connection(gate: Gate) -> None:
    statuses = iter(("200 OK", "204 No Content", "304 Not Modified", "200 OK"))

    async def handler(call: Call) -> None:
        status = next(statuses)
        length = "" if status.startswith("204") else "content-length: 5\r\n"
        body = "hello" if call.method == "GET" and status.startswith("200") else ""
        await call.send(f"HTTP/1.1 {status}\r\n{length}\r\n{body}".encode())

    instance = await gate.instance(handler)
    peer = await gate.client()
    for method, status, body in (
        ("HEAD", 200, b""), ("GET", 204, b""), ("GET", 304, b""), ("GET", 200, b"hello"),
    ):  # fmt: skip
        await peer.send(f"{method} /f HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        response = await peer.response(method)
        assert (response.status, response.body) == (status, body)
    assert instance.connections == 1
    peer.close()


async def test_interim_answers_stay_behind_and_100_continue_comes_from_the_router(
    gate: Gate,
) -> None:
    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await call.answer(await call.read_body())

    instance = await gate.instance(handler)
    peer = await gate.client()
    await peer.send(POST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
    assert (await peer.head())[0] == 100
    await peer.send(b"hi")
    response = await peer.response()
    assert (response.status, response.body) == (200, b"hi")
    assert "link" not in response.headers
    assert "expect" not in instance.calls[0].header
    peer.close()


async def test_an_answer_that_only_the_end_of_the_connection_ends_is_passed_on(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        call.peer.writer.write_eof()

    await gate.instance(handler)
    assert (await gate.request("GET", "/f")).body == b"hello"


async def test_a_client_of_http_1_0_gets_a_length(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )

    await gate.instance(handler)
    answer = await gate.raw(b"GET /f HTTP/1.0\r\n\r\n")
    assert b"content-length: 3\r\n" in answer
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("GET", "/nothing", 404, {}),
        ("DELETE", "/f", 405, {"allow": "GET, HEAD, POST, PUT"}),
        ("GET", "/f/%2e%2e/x", 400, {}),
        ("GET", "/orphan", 503, {"retry-after": "5"}),
    ],
)
async def test_each_refusal_is_a_problem_document(
    gate: Gate, method: str, path: str, status: int, header: dict[str, str]
) -> None:
    gate.route("nobody", "/orphan")
    response = await gate.request(method, path)
    assert response.status == status
    assert response.problem["status"] == status
    assert response.problem["request_id"] == response.headers["x-request-id"]
    assert header.items() <= response.headers.items()
    assert not gate.demands


async def test_a_body_above_the_limit_is_413_and_never_reaches_the_function(gate: Gate) -> None:
    gate.function(body_bytes=100)
    instance = await gate.instance()
    announced = await gate.request("POST", "/f", b"x" * 101)
    assert announced.status == 413
    peer = await gate.client()
    await peer.send(
        POST + b"transfer-encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"
    )
    assert (await peer.response()).status == 413
    peer.close()
    expecting = await gate.client()
    await expecting.send(POST + b"content-length: 101\r\nexpect: 100-continue\r\n\r\n")
    assert (await expecting.head())[0] == 413
    expecting.close()
    assert instance.calls == []
    assert (await gate.request("POST", "/f", b"x" * 100)).status == 200


async def test_a_streamed_body_that_grows_too_large_is_413_and_cuts_the_call(gate: Gate) -> None:
    gate.function(body_bytes=300_000)
    broken = asyncio.Event()

    async def handler(call: Call) -> None:
        try:
            await call.read_body()
        finally:
            broken.set()

    await gate.instance(handler)
    peer = await gate.client()
    await peer.send(POST + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(4):
        await peer.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
    assert (await peer.response()).status == 413
    async with asyncio.timeout(30):
        await broken.wait()
    peer.close()
    await eventually(gate.quiet)


async def test_a_refused_connection_is_ejected_and_another_endpoint_serves_any_method(
    gate: Gate,
) -> None:
    dead = await gate.instance()
    await dead.stop()
    live = await gate.instance()
    for _ in range(4):
        assert (await gate.request("POST", "/f", b"once")).body == b"once"
    assert len(live.calls) == 4
    assert gate.metrics.retries == 1
    assert gate.metrics.ejections == {"refused": 1}
    assert [(e.what, e.fields["instance"]) for e in gate.events] == [
        ("ejected", dead.endpoint.instance)
    ]


@pytest.mark.parametrize("reason", ["wrong-instance", "draining"])
async def test_421_for_good_is_retried_elsewhere_and_the_instance_never_asked_again(
    gate: Gate, reason: str
) -> None:
    async def handler(call: Call) -> None:
        await call.misdirected(reason)

    wrong = await gate.instance(handler)
    right = await gate.instance()
    for _ in range(4):
        assert (await gate.request("POST", "/f", b"x")).body == b"x"
    assert len(wrong.calls) == 1
    assert len(right.calls) == 4
    assert gate.pool.take(wrong.endpoint) is None
    gate.put(wrong.endpoint)
    assert [c.endpoint.instance for c in gate.state.candidates(("default", "f"))] == [
        right.endpoint.instance
    ]


async def test_busy_is_tried_elsewhere_and_then_again(gate: Gate) -> None:
    answers = 0

    async def handler(call: Call) -> None:
        nonlocal answers
        answers += 1
        await (call.misdirected("busy") if answers < 4 else call.answer(await call.read_body()))

    await gate.instance(handler)
    assert (await gate.request("POST", "/f", b"x")).body == b"x"
    assert answers == 4
    assert gate.metrics.ejections == {}
    assert [d.reason for d in gate.demands] == ["saturated"]


async def test_an_image_of_its_own_gets_no_token_and_its_421_is_its_own_answer(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        head = "421 Misdirected Request\r\nx-wasmfn-reason: wrong-instance"
        await call.answer(b"mine", head)

    instance = await gate.instance(handler, token="")
    for _ in range(2):
        response = await gate.request("GET", "/f", None, {"x-wasmfn-instance": "evil"})
        assert (response.status, response.body) == (421, b"mine")
    assert "x-wasmfn-instance" not in instance.calls[0].header
    assert gate.metrics.retries == 0
    assert not gate.events


async def test_what_an_image_of_its_own_may_have_run_is_not_sent_again(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        call.peer.close()

    instances = [await gate.instance(handler, token="") for _ in range(2)]
    assert (await gate.request("GET", "/f")).status == 502
    assert sum(len(instance.calls) for instance in instances) == 1


async def test_a_421_of_the_function_itself_is_an_ordinary_answer(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"mine", "421 Misdirected Request")

    await gate.instance(handler)
    response = await gate.request("GET", "/f")
    assert (response.status, response.body) == (421, b"mine")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_what_was_sent_without_an_answer_is_502_and_not_repeated(
    gate: Gate, method: str
) -> None:
    async def handler(call: Call) -> None:
        await call.read_body()
        call.reset()

    one, two = await gate.instance(handler), await gate.instance(handler)
    response = await gate.request(method, "/f", b"x")
    assert response.status == 502
    assert response.problem["request_id"]
    assert len(one.calls) + len(two.calls) == 1


async def test_on_a_stale_connection_a_safe_request_is_repeated_and_another_is_not(
    gate: Gate,
) -> None:
    async def handler(call: Call) -> None:
        if len(call.instance.calls) % 2:
            await call.answer(b"ok")
        else:
            call.reset()

    instance = await gate.instance(handler)
    assert (await gate.request("GET", "/f")).status == 200
    assert (await gate.request("GET", "/f")).status == 200
    assert len(instance.calls) == 3
    assert (await gate.request("POST", "/f", b"x")).status == 502
    assert len(instance.calls) == 4
    assert gate.metrics.ejections == {}


async def test_a_connection_that_the_instance_closed_while_idle_is_not_used(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"ok")
        call.peer.writer.close()

    instance = await gate.instance(handler)
    for _ in range(3):
        assert (await gate.request("POST", "/f", b"x")).status == 200
        await eventually(lambda: gate.pool.idle() == 0)
    assert instance.connections == 3


async def test_an_instance_that_does_not_answer_in_time_is_504_and_left_alone(gate: Gate) -> None:
    gate.function(timeout_s=0.1)

    async def handler(call: Call) -> None:
        await asyncio.Event().wait()

    await gate.instance(handler)
    response = await gate.request("POST", "/f", b"x")
    assert response.status == 504
    assert gate.metrics.ejections == {"timeout": 1}
    assert gate.quiet()


async def test_what_is_no_http_is_502(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.send(b"SSH-2.0-OpenSSH\r\n\r\n")

    await gate.instance(handler)
    assert (await gate.request("POST", "/f", b"x")).status == 502


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_with_two_readings_or_without_bounds_is_502(
    gate: Gate, answer: bytes
) -> None:
    async def handler(call: Call) -> None:
        await call.send(answer)
        await call.peer.at_end()

    await gate.instance(handler)
    assert (await gate.request("GET", "/f")).status == 502


async def test_bytes_after_an_answer_never_become_the_next_one(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"ok", "200 OK", "")
        if len(call.instance.calls) == 1:
            await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")

    await gate.instance(handler)
    for _ in range(3):
        assert (await gate.request("POST", "/f", b"x")).body == b"ok"
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_an_answer_that_breaks_off_never_passes_for_a_complete_one(
    gate: Gate, begun: bytes
) -> None:
    async def handler(call: Call) -> None:
        await call.send(begun)
        await asyncio.sleep(0.05)
        call.reset()

    await gate.instance(handler)
    answer = await gate.raw(b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert not answer.endswith(b"0\r\n\r\n")
    assert gate.metrics.truncated == 1
    assert gate.quiet()


async def test_an_instance_that_falls_silent_in_mid_answer_is_cut(gate: Gate) -> None:
    gate.function(timeout_s=0.1)

    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await asyncio.Event().wait()

    await gate.instance(handler)
    assert (await gate.raw(b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n")).endswith(b"half")
    assert gate.metrics.truncated == 1


async def test_when_the_client_leaves_the_call_is_dropped_and_its_slot_free(gate: Gate) -> None:
    reached, dropped = asyncio.Event(), asyncio.Event()

    async def handler(call: Call) -> None:
        await call.read_body()
        reached.set()
        await call.peer.at_end()
        dropped.set()

    await gate.instance(handler)
    peer = await gate.client()
    await peer.send(POST + b"content-length: 1\r\n\r\nx")
    async with asyncio.timeout(30):
        await reached.wait()
        assert not gate.quiet()
        peer.close()
        await dropped.wait()
    await eventually(gate.quiet)
    assert gate.metrics.clients_gone == 1


async def test_an_early_answer_is_passed_on_while_the_body_still_comes(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"early", "403 Forbidden")

    instance = await gate.instance(handler)
    peer = await gate.client()
    await peer.send(POST + b"content-length: 1000000\r\n\r\n" + b"x" * 200_000)
    response = await peer.response()
    assert (response.status, response.body) == (403, b"early")
    # The rest is read, and the connection serves on.
    await peer.send(b"x" * 800_000 + b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await peer.response()).status == 404
    peer.close()
    await eventually(gate.quiet)
    # The instance's connection still waits for a body: it is not used again.
    assert (await gate.request("GET", "/f")).status == 403
    assert instance.connections == 2


async def test_a_slow_body_holds_no_slot_and_is_408_in_the_end(make_gate: MakeGate) -> None:
    gate = await make_gate(stall_s=0.2)
    gate.function()
    instance = await gate.instance()
    peer = await gate.client()
    await peer.send(POST + b"content-length: 10\r\n\r\nx")
    response = await peer.response()
    assert response.status == 408
    assert response.headers["connection"] == "close"
    assert instance.connections == 0
    peer.close()


async def test_a_client_that_does_not_read_is_cut_and_its_slot_free(make_gate: MakeGate) -> None:
    gate = await make_gate(stall_s=0.3)
    gate.function()

    async def handler(call: Call) -> None:
        await call.answer(b"x" * 30_000_000)

    await gate.instance(handler)
    peer = await gate.client()
    peer.writer.transport.pause_reading()
    await peer.send(b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n")
    await eventually(lambda: gate.metrics.truncated == 1)
    await eventually(gate.quiet)
    await eventually(lambda: not gate.server_state.connections)
    peer.close()


async def test_an_endpoint_never_gets_more_than_its_concurrency(gate: Gate) -> None:
    flying = peak = 0

    async def handler(call: Call) -> None:
        nonlocal flying, peak
        flying += 1
        peak = max(peak, flying)
        await call.read_body()
        await asyncio.sleep(0.005)
        flying -= 1
        await call.answer(b"ok")

    instance = await gate.instance(handler, concurrency=3)
    responses = await asyncio.gather(*(gate.request("POST", "/f", b"x") for _ in range(15)))
    assert [r.status for r in responses] == [200] * 15
    assert peak == 3
    assert instance.connections == 3


async def test_content_goes_through_untouched(gate: Gate) -> None:
    body = gzip.compress(bytes(range(256)) * 100)

    async def handler(call: Call) -> None:
        await call.answer(
            await call.read_body(), "299 Odd", "content-encoding: gzip\r\nset-cookie: a\r\n"
        )

    await gate.instance(handler)
    response = await gate.request("POST", "/f", body, {"content-encoding": "gzip"})
    assert (response.status, response.body) == (299, body)
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_too_large_to_be_held_is_sent_only_where_it_is_taken(
    gate: Gate, chunked: bool
) -> None:
    async def taking(call: Call) -> None:
        assert call.header["expect"] == "100-continue"
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.answer(b"%d" % len(await call.read_body()))

    async def refusing(call: Call) -> None:
        await call.misdirected("draining")
        await call.peer.at_end()

    wrong, right = await gate.instance(refusing), await gate.instance(taking)
    for _ in range(2):
        peer = await gate.client()
        if chunked:
            await peer.send(POST + b"transfer-encoding: chunked\r\n\r\n")
            for _ in range(5):
                await peer.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            await peer.send(b"0\r\n\r\n")
        else:
            await peer.send(POST + b"content-length: 500000\r\n\r\n" + b"x" * 500_000)
        response = await peer.response()
        assert (response.status, response.body) == (200, b"500000")
        peer.close()
    assert (len(wrong.calls), len(right.calls)) == (1, 2)


async def test_an_instance_that_stops_reading_a_body_is_504(gate: Gate) -> None:
    gate.function(timeout_s=0.1, body_bytes=100_000_000)

    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        call.peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    await gate.instance(handler)
    peer = await gate.client()
    head = POST + b"content-length: 50000000\r\n\r\n"
    sending = asyncio.create_task(peer.send(head + b"x" * 50_000_000))
    assert (await peer.response()).status == 504
    peer.close()
    with contextlib.suppress(ConnectionError):
        await sending
    await eventually(gate.quiet)


async def test_a_client_that_stops_in_the_middle_of_a_long_body_is_408(make_gate: MakeGate) -> None:
    gate = await make_gate(stall_s=0.2)
    gate.function()
    dropped = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.peer.at_end()
        dropped.set()

    await gate.instance(handler)
    peer = await gate.client()
    await peer.send(POST + b"content-length: 500000\r\n\r\n" + b"x" * 200_000)
    assert (await peer.response()).status == 408
    async with asyncio.timeout(30):
        await dropped.wait()
    peer.close()
    assert gate.metrics.ejections == {}


async def test_a_body_that_was_partly_sent_and_let_go_is_not_sent_again(gate: Gate) -> None:
    async def handler(call: Call) -> None:
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.read_body()
        await call.misdirected("draining")

    one, two = await gate.instance(handler), await gate.instance(handler)
    response = await gate.request("POST", "/f", b"x" * 500_000)
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert len(one.calls) + len(two.calls) == 1
