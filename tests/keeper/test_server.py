"""A loaded function's HTTP server, spoken to byte by byte."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.specs import Limits


@pytest.fixture(scope="module")
def echo(keeper: Any) -> Any:
    return keeper.load("echo", interface="stdin", limits=Limits(timeout_s=5, body_bytes=1 << 20))


@pytest.fixture(scope="module")
def sort(keeper: Any) -> Any:
    return keeper.load("sort")


class Raw:
    """A plain socket to a function process."""

    def __init__(self, loaded: Any) -> None:
        self.socket = socket.create_connection((loaded.reply.ip, loaded.reply.port), 10)
        self.file = self.socket.makefile("rb")
        self.token = loaded.token

    def head(self, *lines: str, start: str = "POST / HTTP/1.1") -> bytes:
        head = [start, "Host: x", f"x-wasmfn-instance: {self.token}", *lines, "", ""]
        return "\r\n".join(head).encode()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        length = int(headers.get("content-length", "0")) if body else 0
        return status, headers, self.file.read(length)

    def ended(self) -> bool:
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def raw(loaded: Any) -> Iterator[Raw]:
    connection = Raw(loaded)
    try:
        yield connection
    finally:
        connection.close()


def test_a_wrong_or_missing_token_is_421_and_the_connection_lives_on(echo: Any) -> None:
    with raw(echo) as it:
        for token in ("", "x-wasmfn-instance: 00000000000000000000000000000000"):
            it.send(
                f"POST / HTTP/1.1\r\nHost: x\r\n{token}\r\nContent-Length: 2\r\n\r\nhi".replace(
                    "\r\n\r\nC", "\r\nC"
                ).encode()
            )
            status, headers, body = it.answer()
            assert (status, headers["x-wasmfn-reason"]) == (421, "wrong-instance")
            assert json.loads(body)["status"] == 1
        it.send(it.head("Content-Length: 2") + b"ok")
        assert it.answer()[2] == b"ok"


def test_421_comes_before_the_body_is_read(echo: Any) -> None:
    with raw(echo) as it:
        it.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin")
        status, headers, _ = it.answer()
        assert (status, headers["connection"]) == (421, "close")
        assert it.ended()


def test_requests_on_one_connection_are_answered_in_order(echo: Any) -> None:
    with raw(echo) as it:
        bodies = [f"request {n}".encode() for n in range(50)]
        it.send(b"".join(it.head(f"Content-Length: {len(b)}") + b for b in bodies))
        assert [it.answer()[2] for _ in bodies] == bodies


def test_a_head_that_came_before_is_asked_for_its_token_and_takes_its_own_body(echo: Any) -> None:
    with raw(echo) as it:
        for number in range(20):
            body = b"request %03d" % number
            lines = f"x-request-id: {number:032x}", f"Content-Length: {len(body)}"
            it.send(it.head(*lines) + body)
            status, _, echoed = it.answer()
            assert (status, echoed) == (200, body)
            stolen = it.head(*lines).replace(it.token.encode(), it.token[::-1].encode())
            it.send(stolen + body)
            status, headers, _ = it.answer()
            assert (status, headers["x-wasmfn-reason"]) == (421, "wrong-instance")
            it.send(b"\r\n\r\n")


def test_a_pipelined_request_waits_for_a_slow_one(keeper: Any) -> None:
    burn = keeper.load("burn", limits=Limits(timeout_s=30))
    with raw(burn) as it:
        slow, fast = b'{"args":["50000000"]}', b'{"args":["1"]}'
        it.send(it.head(f"Content-Length: {len(slow)}") + slow)
        for _ in range(3):
            it.send(it.head(f"Content-Length: {len(fast)}") + fast)
        answers = [json.loads(it.answer()[2])["output"] for _ in range(4)]
        assert answers[1] == answers[2] == answers[3] != answers[0]


def test_a_client_that_sends_on_while_its_call_runs_is_held_back(keeper: Any) -> None:
    burn = keeper.load("burn", limits=Limits(timeout_s=30))
    with raw(burn) as it:
        body = b'{"args":["1000000000"]}'
        it.send(it.head(f"Content-Length: {len(body)}") + body)
        while not keeper.in_flight(burn.instance):
            pass
        it.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            it.send(it.head("Content-Length: 0") * (32 << 10) * 16)


def test_a_chunked_body_is_put_together(echo: Any) -> None:
    with raw(echo) as it:
        it.send(it.head("Transfer-Encoding: chunked"))
        it.send(b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n")
        assert it.answer()[2] == b"hello world"


def test_a_body_byte_by_byte_arrives(echo: Any) -> None:
    with raw(echo) as it:
        it.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in it.head("Content-Length: 5") + b"hello":
            it.send(bytes([byte]))
        assert it.answer()[2] == b"hello"


def test_a_client_that_expects_100_continue_gets_it_before_it_sends(echo: Any) -> None:
    with raw(echo) as it:
        it.send(it.head("Content-Length: 2", "Expect: 100-continue"))
        assert it.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert it.file.readline() == b"\r\n"
        it.send(b"ok")
        assert it.answer()[2] == b"ok"


def test_a_refused_client_does_not_get_100_continue(echo: Any) -> None:
    with raw(echo) as it:
        it.send(it.head("Content-Length: 2000000", "Expect: 100-continue"))
        assert it.answer()[0] == 413
    with raw(echo) as it:
        it.send(it.head("Content-Length: 2", "Expect: miracles"))
        assert it.answer()[0] == 417


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_413(echo: Any, chunked: bool) -> None:
    with raw(echo) as it:
        if chunked:
            it.send(it.head("Transfer-Encoding: chunked"))
            with contextlib.suppress(OSError):
                it.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                for _ in range(16):
                    it.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        else:
            it.send(it.head("Content-Length: 1048577"))
        status, headers, _ = it.answer()
        assert (status, headers["connection"]) == (413, "close")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_not_http_is_400_and_the_connection_ends(echo: Any, request_: bytes) -> None:
    with raw(echo) as it:
        it.send(request_)
        status, headers, _ = it.answer()
        assert status in (400, 421)
        assert headers["connection"] == "close" or status == 421


@pytest.mark.parametrize(
    "lines",
    [["A: " + "b" * 70_000], ["A: b"] * 200, ["x" * 70_000 + ": y"]],
    ids=["long value", "many", "long name"],
)
def test_a_large_head_is_431(echo: Any, lines: list[str]) -> None:
    with raw(echo) as it:
        with contextlib.suppress(OSError):
            it.send(it.head(*lines))
        assert it.answer()[0] == 431


def test_an_endless_header_is_cut_off(echo: Any) -> None:
    with raw(echo) as it:
        it.send(b"GET / HTTP/1.1\r\nA: ")
        with contextlib.suppress(OSError):
            for _ in range(100):
                it.send(b"b" * 10_000)
        # Nothing, if it is cut off while we still send.
        with contextlib.suppress(ConnectionResetError, IndexError):
            assert it.answer()[0] == 431


def test_an_endless_trailer_is_cut_off(echo: Any) -> None:
    with raw(echo) as it:
        it.send(it.head("Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nA: ")
        for _ in range(100):
            it.send(b"b" * 10_000)
        assert it.answer()[0] == 431


def test_a_trailer_is_no_header(keeper: Any) -> None:
    with raw(keeper.load("page", interface="wagi")) as it:
        body = b"0\r\nUser-Agent: from a trailer\r\n\r\n"
        it.send(it.head("Transfer-Encoding: chunked") + body)
        status, _, answer = it.answer()
    assert status == 200
    assert b"from a trailer" not in answer


def test_connection_close_and_http_1_0_end_the_connection(sort: Any) -> None:
    with raw(sort) as it:
        it.send(it.head("Connection: close", "Content-Length: 0"))
        assert it.answer()[1]["connection"] == "close"
        assert it.ended()
    with raw(sort) as it:
        it.send(it.head("Connection: keep-alive", start="GET / HTTP/1.0"))
        assert it.answer()[0] == 200
        assert it.ended()


def test_head_has_the_length_and_no_body(sort: Any) -> None:
    with raw(sort) as it:
        it.send(it.head(start="HEAD / HTTP/1.1"))
        status, headers, _ = it.answer(body=False)
        assert (status, int(headers["content-length"])) > (200, 0)
        it.send(it.head(start="GET / HTTP/1.1"))
        assert json.loads(it.answer()[2])["status"] == 0


def test_another_protocol_is_not_spoken(sort: Any) -> None:
    with raw(sort) as it:
        it.send(it.head("Connection: Upgrade", "Upgrade: h2c", start="GET / HTTP/1.1"))
        assert it.answer()[0] == 200
        assert it.ended()
    with raw(sort) as it:
        it.send(it.head(start="CONNECT x:1 HTTP/1.1"))
        assert it.answer()[0] == 405


def test_the_time_it_ran_is_in_the_answer(sort: Any) -> None:
    _, _, headers = sort.call()
    assert 0 < float(headers["x-wasmfn-run-ms"]) < 5000


def test_malformed_json_is_400_and_runs_nothing(sort: Any) -> None:
    status, body, headers = sort.call(b'{"args": [1')
    assert status == 400
    assert json.loads(body)["status"] == 1
    assert "x-wasmfn-run-ms" not in headers


def test_a_call_above_the_concurrency_is_told_busy(keeper: Any) -> None:
    burn = keeper.load("burn", concurrency=1, limits=Limits(timeout_s=30))
    running = threading.Thread(target=burn.run, args=("300000000",))
    running.start()
    while not keeper.in_flight(burn.instance):
        pass
    status, _, headers = burn.call(b'{"args":["1"]}')
    assert (status, headers["x-wasmfn-reason"]) == (421, "busy")
    running.join()
    assert burn.run("1")["status"] == 0


def test_a_call_whose_client_leaves_is_ended_and_its_place_is_free(keeper: Any) -> None:
    burn = keeper.load("burn", concurrency=1, limits=Limits(timeout_s=300))
    with raw(burn) as it:
        body = b'{"args":["999999999999"]}'
        it.send(it.head("X-Request-Id: left", f"Content-Length: {len(body)}") + body)
        while not keeper.in_flight(burn.instance):
            pass
    line = keeper.log_until(lambda line: line.get("request_id") == "left")
    assert "its client left before it ended" in line["text"]
    assert keeper.in_flight(burn.instance) == 0
    assert burn.run("1")["status"] == 0


def test_bytes_that_are_not_utf8_are_valid_json_and_lose_nothing(keeper: Any) -> None:
    result = keeper.load("badutf8").run()
    assert "\ufffd" in result["output"][0]
    assert result["output_base64"] == "b2sggCDDKCDtoIAg/wo="


def test_200_traps_leave_the_descriptors_of_the_child_as_they_were(keeper: Any) -> None:
    trap = keeper.load("trap")
    directory = f"/proc/{trap.reply.pid}/fd"
    if os.geteuid() != 0:
        pytest.skip("only root can look into a process that is not dumpable")
    with raw(trap) as it:
        counts = []
        for _ in range(2):
            for _ in range(200):
                it.send(it.head("Content-Length: 0"))
                assert json.loads(it.answer()[2])["output"] == ["before the trap"]
            counts.append(len(list(Path(directory).iterdir())))
        assert counts[0] == counts[1]


def test_wagi_serves_a_page(keeper: Any) -> None:
    page = keeper.load("page", interface="wagi")
    status, body, headers = page.call(
        b"abc", method="PUT", path="/a%20b?q=<x>", headers={"content-type": "text/x"}
    )
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["x-example"] == "page"
    for part in (b"PUT", b"/a b", b"q=&lt;x&gt;", b"text/x", b"had 3 bytes"):
        assert part in body


def test_a_client_that_vanishes_does_no_harm(keeper: Any) -> None:
    burn = keeper.load("burn", concurrency=1, limits=Limits(timeout_s=30))
    with raw(burn) as it:
        body = b'{"args":["100000000"]}'
        it.send(it.head(f"Content-Length: {len(body)}") + body)
        while not keeper.in_flight(burn.instance):
            pass
    while keeper.in_flight(burn.instance):
        pass
    assert burn.run("1")["status"] == 0
