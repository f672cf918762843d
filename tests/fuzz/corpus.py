"""The inputs that each target begins with, and those that once broke it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from schemas.builds import Artifact
from schemas.control import LoadRequest, encode_load
from schemas.specs import Limits
from tests.fuzz.entry import KEY, TOKEN
from tests.fuzz.tape import tape
from tests.hostile.attacks import ATTACKS
from tests.services.router.test_differential import RAW

_KEPT = Path(__file__).parent / "corpus"
_MOST = 4000
_TOKEN = "7" * 32
"""That of the instances in `wire`."""


def kept(target: str) -> list[bytes]:
    """Return the inputs that broke the target before it, or what it tests, was mended."""
    place = _KEPT / target
    return [file.read_bytes() for file in sorted(place.iterdir())] if place.is_dir() else []


def seeds(target: str) -> list[bytes]:
    """Return inputs that are worth changing."""
    return list(_SEEDS[target]()) if target in _SEEDS else [b""]


def _client() -> Iterator[bytes]:
    for attack in ATTACKS:
        if len(attack.raw) < _MOST:
            yield tape(attack.raw, 0, 0, 0)
            yield tape(attack.raw, 0, 0, 3, 0, 16, 0, 48, 0, 80)
            yield tape(attack.raw, 0, 1, 0)


def _keeper() -> Iterator[bytes]:
    for attack in ATTACKS:
        if len(attack.raw) < _MOST and b"HEAD" not in attack.raw:
            raw = attack.to_instance(_TOKEN)
            yield tape(raw, 0, 0)
            yield tape(raw.replace(b"\r\n", b"\r\nx-request-id: 0123abcd\r\n", 1), 0, 0)
            yield tape(raw, 1, 3, 0, 16, 0, 48, 0, 80)


def _instance() -> Iterator[bytes]:
    for raw in RAW.values():
        for asked in range(4):
            if len(raw) < _MOST:
                yield tape(raw, asked, 1, 0, 0, 0)
                yield tape(raw, asked, 0, 0, 0, 1, 0, 20)


def _heads() -> Iterator[bytes]:
    for attack in ATTACKS:
        lines = attack.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        if len(attack.raw) < _MOST:
            yield tape(b"\n".join(lines), 2, 0, 0)
    yield tape(b"host: a\nx-wasmfn-instance: 1\nX_Wasmfn_Param_Id: 2\nvia: 1.0 b", 0, 0, 1)


def _targets() -> Iterator[bytes]:
    for attack in ATTACKS:
        words = attack.raw.partition(b"\r\n")[0].split(b" ")
        if len(words) > 1 and len(words[1]) < _MOST:
            yield words[1]
    yield from (b"http://[::1]:80/f?x#y", b"https://a.b./", b"http://a?b", b"http://u@a/")


def _paths() -> Iterator[bytes]:
    yield from (b"/a%20b/%c3%a9", b"/%2e%2e/x", b"/a/%2F", b"/%zz", b"/a//b/", b"/%00", b"/%25zz")


def _tables() -> Iterator[bytes]:
    lines = b"/a/b\n/a\n/a/{x}\n/{y}/b\n/\n/a/b/{z}"
    yield tape(lines, 8, 0, 1, 1, 1, 2, 1, 3, 1, 4, 1, 1, 0, 5, 1, 0, 1, 0)


def _specs() -> Iterator[bytes]:
    sha = "0" * 64
    documents: tuple[tuple[int, object], ...] = (
        (0, {"image": "a/b:1", "variables": {"A": "b"}}),
        (1, {"module": {"sha256": sha}, "interface": "wagi", "limits": {"timeout_s": 1},
             "scaling": {"min_instances": 1, "max_instances": 2}, "arguments": ["a"],
             "secrets": {"KEY": {"name": "s", "key": "k"}}, "isolation": "pod",
             "asynchronous": {"retry": {"attempts": 2, "final": ["4xx"]},
                              "on_failure": {"subject": "a.b"}}}),
        (1, {"image": "a", "executor": "deployment", "container": {"port": 1, "cpu": 0.5}}),
        (2, {"function": "f", "path": "/a/{id}", "methods": ["GET"], "host": "a.b",
             "rate_limit": {"requests_per_s": 1, "burst": 2, "per": "route"},
             "cors": {"origins": ["https://a.b"], "expose": ["x-a"]}}),
        (2, {"function": "f", "prefix": "/a", "authentication": {
             "type": "api-key", "keys": [{"client": "ann", "sha256": sha}]}}),
        (2, {"function": "f", "prefix": "/a", "authentication": {
             "type": "jwt", "issuer": "i", "audience": "a", "scopes": ["s"],
             "keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43},
                      {"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RS256"},
                      {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}}),
        (2, {"function": "f", "prefix": "/a", "authentication": {
             "type": "jwt", "issuer": "i", "audience": "a", "keys_url": "https://a/k"}}),
        (3, {"function": "f", "schedule": "*/5 * * * *", "timezone": "Europe/Berlin"}),
        (4, {"function": "f", "subject": "a.*.>", "queue": "q", "reply": True}),
    )  # fmt: skip
    for kind, document in documents:
        yield tape(json.dumps(document).encode(), kind)
    yield tape(b'{"x":' + b"[" * 3000, 1)


def _lines() -> Iterator[bytes]:
    line = {"time": "2024-01-01T00:00:00Z", "text": "a", "level": "info", "namespace": "mine",
            "function": "f", "instance": "i", "request_id": "r", "stream": "stderr"}  # fmt: skip
    yield json.dumps(line).encode()
    yield json.dumps(line | {"namespace": "other"}).encode()


def _controls() -> Iterator[bytes]:
    claims = {"keeper": "k", "boot": "b", "term": 1, "counter": 1, "digest": "0" * 64}
    signed = json.dumps(claims).encode()
    yield (
        b"POST /load HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n"
        b"x-wasmfn-signed: " + signed + b"\r\nx-wasmfn-signature: 00ff\r\n\r\n"
    )


def _loads() -> Iterator[bytes]:
    yield encode_load(
        LoadRequest(
            "i", "ns", "f", 1, "t", "f.wasm", "args", (), {}, Limits(), 1,
            Artifact("0" * 64, "e", 1, "0" * 64, "s"),
        ),
        b"artifact",
    )  # fmt: skip


def _plain(*inputs: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(inputs)


_SEEDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "client": _client,
    "instance": _instance,
    "keeper": _keeper,
    "framing": _heads,
    "paths": _paths,
    "table": _tables,
    "target": _targets,
    "ids": _plain(
        b"x-request-id: abc\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"x-request-id: 0af7651916cd43dd8448eb211c80319c",
    ),
    "preferences": _plain(b"prefer: wait=1, respond-async; x\nidempotency-key: a\ncookie: b"),
    "keys": _plain(
        tape(b"x-api-key: " + KEY, 0),
        tape(b"origin: https://shop.example\naccess-control-request-method: GET", 1),
    ),
    "tokens": _plain(
        b"Bearer " + TOKEN.encode(), b"bearer e30.e30.e30", b"Bearer " + b"W1tb" * 1300 + b".e30.e"
    ),
    "spec": _specs,
    "subject": _plain(b"wasmfn.specs.function.default.a", b"wasmfn.pods.n=2eo.u"),
    "schedule": _plain(
        tape(b"*/5 * * * *\nEurope/Berlin", 3, 2), tape(b"0 30 2 31 3 *\nUTC", 30, 1),
        tape(b"0 0 29 2 MON#1", 1, 0), tape(b"@daily", 1, 0),
    ),
    "log": _lines,
    "rotated": _plain(
        tape(b"2024-01-01T00:00:00Z stdout P abc\n2024-01-01T00:00:00Z stdout F def", 0)
    ),
    "event": _plain(tape(b"\x0a\x03abc\x10\x05", 0), tape(b"\x0a\x01a\x12\x01a\x18\x05", 1)),
    "control": _controls,
    "load": _loads,
    "cgi": _plain(b"Status: 302 x\r\nLocation: /a\n\nbody", b"content-type: text/html\n\n"),
    "variables": _plain(b"/a%20b?x\nhost: a:80\ncontent-type: b\nx-wasmfn-param-id: 1\nproxy: x"),
    "arguments": _plain(b'{"args": ["a", "\\u0000"], "stdin": "b"}'),
}  # fmt: skip
