"""What a child remembers of heads, and that remembering changes nothing that anybody sees."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.exchange import Exchange
from keeper.heads import Heads
from keeper.server import refusal

ID = b"0123456789abcdef0123456789abcdef"
HEAD = (
    b"POST /f?x=1 HTTP/1.1\r\nhost: a\r\naccept: text/plain\r\ncontent-length: 3\r\n"
    b"x-request-id: %b\r\nx-wasmfn-instance: secret\r\n\r\n"
)


class Reader:
    """Reads one request as a connection does."""

    def __init__(self, data: bytes) -> None:
        self.exchange = Exchange()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.exchange.target += url
        self.exchange.head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.take(name.lower(), value)

    def on_body(self, body: bytes) -> None:
        self.exchange.body.append(body)

    def on_message_complete(self) -> None:
        exchange, parser = self.exchange, self._parser
        exchange.complete = True
        exchange.version = parser.get_http_version()
        exchange.method = parser.get_method().decode()
        exchange.keep_alive = parser.should_keep_alive() and exchange.version == "1.1"


def read(data: bytes) -> Exchange:
    return Reader(data).exchange


def said(exchange: Exchange | None) -> object:
    assert exchange is not None
    fields = {name: getattr(exchange, name) for name in Exchange.__slots__}
    return fields | {"body": b"".join(exchange.body), "size": 0}


def knowing(data: bytes) -> Heads:
    heads = Heads()
    heads.learn(data, read(data))
    return heads


@given(
    ids=st.lists(
        st.text("0123456789abcdefXYZ", min_size=32, max_size=32).map(str.encode), min_size=2
    ),
    bodies=st.lists(st.binary(min_size=3, max_size=3), min_size=2),
)
def test_what_is_found_is_what_would_be_read(ids: list[bytes], bodies: list[bytes]) -> None:
    heads = knowing(HEAD % ids[0] + bodies[0])
    for request_id in ids:
        for body in bodies:
            data = HEAD % request_id + body
            assert said(heads.find(data)) == said(read(data))


def test_a_head_without_an_id_is_known_as_a_whole() -> None:
    head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    heads = knowing(head)
    assert said(heads.find(head)) == said(read(head))
    assert heads.find(head.replace(b"a", b"b")) is None


def test_no_request_learns_of_another_one_s_id() -> None:
    heads = knowing(HEAD % ID + b"one")
    other = ID[::-1]
    first, second = heads.find(HEAD % ID + b"one"), heads.find(HEAD % other + b"two")
    assert first is not None
    assert second is not None
    assert (b"x-request-id", ID) in first.headers
    assert (b"x-request-id", other) in second.headers
    assert (first.request_id, second.request_id) == (ID, other)


@pytest.mark.parametrize(
    "data",
    [
        HEAD % (ID[:-1] + b"\r") + b"one",
        HEAD % b"x\r\ncontent-length: 0\r\nexpect: aa" + b"one",
        HEAD % (ID[:-1] + b" ") + b"one",
        HEAD % ID[:-1] + b"one",
        HEAD % ID + b"four",
        HEAD % ID + b"on",
        HEAD.replace(b"secret", b"public") % ID + b"one",
        HEAD.replace(b"/f", b"/g") % ID + b"one",
        b"\r\n" + HEAD % ID + b"one",
        b"\r\n\r\n",
        b"",
    ],
)
def test_what_differs_in_more_than_its_id_is_not_known(data: bytes) -> None:
    heads = knowing(HEAD % ID + b"one")
    assert heads.find(HEAD % ID + b"two") is not None
    assert heads.find(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nX-Request-Id: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: 1\r\nx-request-id: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: 1 \r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 3000 + b"\r\n\r\n",
    ],
)
def test_a_head_that_needs_another_look_each_time_is_not_remembered(data: bytes) -> None:
    assert knowing(data).find(data) is None


def test_a_refused_head_is_not_remembered() -> None:
    data = HEAD % ID + b"one"
    exchange = read(data)
    exchange.refused = refusal(417, "no")
    heads = Heads()
    heads.learn(data, exchange)
    assert heads.find(data) is None


def test_what_is_remembered_is_bounded_in_number() -> None:
    heads = Heads()
    for number in range(500):
        data = b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number
        heads.learn(data, read(data))
        assert heads.find(data) is not None
    assert len(heads._known) <= 64
