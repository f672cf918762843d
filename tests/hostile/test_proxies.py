"""The same corpus with other people's proxies before a router, and behind it."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.hostile.attacks import ATTACKS
from tests.hostile.haproxy import Haproxy
from tests.hostile.nginx import Nginx
from tests.hostile.test_requests import statuses
from tests.services.router.clients import connect, eventually, request
from tests.services.router.gate import Gate
from tests.services.router.instances import Call, Instance, echo

Proxy = Nginx | Haproxy
Start = Callable[[Path, int], Proxy]

_CAREFUL = "proxy_request_buffering on;"
_LAX = "proxy_request_buffering off; ignore_invalid_headers off; underscores_in_headers on;"
numbers = count()


def nginx_before(manner: str) -> Start:
    return lambda directory, port: Nginx(
        directory,
        f"upstream router {{ server 127.0.0.1:{port}; keepalive 1; }}"
        f"server {{ LISTEN {manner}"
        "  location / { proxy_pass http://router; proxy_http_version 1.1;"
        '    proxy_set_header Connection ""; proxy_set_header X-Request-Id $request_id;'
        "    proxy_next_upstream off; } }",
    )


def haproxy_before(manner: str) -> Start:
    return lambda directory, port: Haproxy(
        directory,
        f"  {manner}\n"
        "  http-request set-header x-request-id %[var(txn.id)]\n"
        "  default_backend router\n"
        "backend router\n"
        "  http-reuse always\n"
        "  retries 0\n"
        f"  server router 127.0.0.1:{port}\n",
    )


BEFORE = {
    "nginx-careful": nginx_before(_CAREFUL),
    "nginx-lax": nginx_before(_LAX),
    "haproxy-careful": haproxy_before("no option accept-invalid-http-request"),
    "haproxy-lax": haproxy_before("option accept-invalid-http-request"),
}


def nginx_behind(directory: Path, _: int) -> Proxy:
    return Nginx(
        directory,
        f"server {{ LISTEN {_LAX} keepalive_timeout 60s; keepalive_requests 100000;"
        "  client_max_body_size 2m;"
        '  location / { return 200 "$http_x_request_id $request_method $uri"; } }',
    )


def haproxy_behind(directory: Path, _: int) -> Proxy:
    said = "%[var(txn.given)] %[method] %[path]"
    return Haproxy(
        directory,
        "  option accept-invalid-http-request\n"
        "  http-request wait-for-body time 10s\n"
        f'  http-request return status 200 content-type text/plain lf-string "{said}"\n',
        client_s=60,
    )


BEHIND: dict[str, Start] = {"nginx": nginx_behind, "haproxy": haproxy_behind}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Start, int], Proxy]]:
    started: list[Proxy] = []

    def begin(how: Start, port: int) -> Proxy:
        started.append(how(tmp_path, port))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


async def ran(call: Call) -> None:
    # In the body: an answer to HTTP/0.9 is nothing else.
    await call.answer(f"ran={call.header['x-request-id']} ".encode() + await call.read_body())


@pytest.mark.parametrize("way", BEFORE)
async def test_a_router_behind_a_proxy_sees_the_requests_that_the_proxy_saw(
    gate: Gate, start: Callable[[Start, int], Proxy], way: str
) -> None:
    front = start(BEFORE[way], gate.port)
    instance = await gate.instance(ran, concurrency=1)
    for attack in ATTACKS:
        before = len(instance.calls)
        peer = await connect(front.port)
        with contextlib.suppress(ConnectionError):
            await peer.send(attack.raw)
        async with asyncio.timeout(60):
            raw = await peer.at_end()
        peer.close()
        calls = instance.calls[before:]
        assert len(calls) <= 1 + attack.raw.count(b"/f/next"), attack.name
        assert all("hidden" not in call.target for call in calls), attack.name
        told = re.findall(rb"ran=([0-9a-f-]+) ", raw)
        assert [i.decode() for i in told] == [c.header["x-request-id"] for c in calls], attack.name
        body = f"whose answer is {next(numbers)}?".encode()
        served = await request(front.port, "POST", "/f", body)
        assert served.status == 200, attack.name
        assert served.body.endswith(b" " + body), attack.name
    called = [call.header["x-request-id"] for call in instance.calls]
    assert len(set(called)) == len(called)

    def passed() -> bool:
        return [line["id"] for line in front.requests() if line["passed"] == "200"] == called

    await eventually(passed)


@pytest.mark.parametrize("way", BEHIND)
async def test_a_proxy_behind_a_router_sees_the_requests_that_the_router_served(
    gate: Gate, start: Callable[[Start, int], Proxy], way: str
) -> None:
    behind = start(BEHIND[way], 0)
    gate.put(Instance("f", echo, port=behind.port, concurrency=1).endpoint)
    asked: list[str] = []
    for attack in ATTACKS:
        raw = await gate.raw(attack.raw)
        assert statuses(raw) == attack.router, attack.name
        served = await gate.request("POST", "/f", b"x", {"x-request-id": f"ask-{next(numbers)}"})
        asked.append(served.headers["x-request-id"])
        assert served.body.decode() == f"{asked[-1]} POST /f", attack.name

    def seen() -> bool:
        lines = behind.requests()
        refused = [line for line in lines if line["status"] != "200"]
        assert not refused, refused
        served = sum(attack.router.count(200) for attack in ATTACKS)
        return len({line["given"] for line in lines}) == len(lines) == served + len(asked)

    await eventually(seen)
