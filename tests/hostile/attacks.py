"""Requests that two servers could read differently, that are no HTTP, or that ask for too much.

Every attack is one connection's bytes: a request, and behind it `NEXT`. Where
the request is refused, `NEXT` must never run, since it may be what the attacker
hid. Where it is served, `NEXT` is an ordinary second request, and gets an answer
of its own. So what an attack does is told by the statuses that come back.
"""

import re
from typing import Final, NamedTuple

NEXT: Final = b"GET /f/next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
HIDDEN: Final = b"GET /f/hidden HTTP/1.1\r\nhost: b\r\n\r\n"
"""Carried in a body: it runs only if somebody takes the body for a request."""


class Attack(NamedTuple):
    """One connection's bytes and the statuses that they are answered with, in order."""

    name: str
    raw: bytes
    router: tuple[int, ...] = (400,)
    keeper: tuple[int, ...] | None = None
    """Of a function's port, where the function is whatever the target is; None: the same."""

    @property
    def by_keeper(self) -> tuple[int, ...]:
        return self.router if self.keeper is None else self.keeper

    def to_instance(self, token: str) -> bytes:
        """Return the bytes with an instance's token in each request but the hidden ones."""
        line = b"\\1x-wasmfn-instance: %b\r\n" % token.encode("ascii")
        return _FIRST.sub(line, self.raw)


_FIRST: Final = re.compile(rb"((?<!/hidden) (?:HTTP|RTSP)/1\.[01]\r\n)")
SERVED: Final = (200, 200)
LAST: Final = (200,)
"""Served, and the connection is closed behind it: `NEXT` is never read."""
REFUSED: Final = (400,)
UNKNOWN: Final = (501,)


def post(name: str, lines: bytes, body: bytes = b"", *statuses: tuple[int, ...]) -> Attack:
    """Return a POST with more header lines and a body."""
    raw = b"POST /f HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n\r\n" + body + NEXT
    return Attack(name, raw, *statuses)


def line(name: str, first: bytes, *statuses: tuple[int, ...]) -> Attack:
    """Return a request that is odd in its first line."""
    return Attack(name, first + b"\r\nhost: a\r\n\r\n" + NEXT, *statuses)


CHUNKED: Final = b"transfer-encoding: chunked"
END: Final = b"0\r\n\r\n"


def chunked(name: str, body: bytes, *statuses: tuple[int, ...]) -> Attack:
    return post(name, CHUNKED, body, *statuses)


LENGTHS: Final = (
    post("CL.TE", b"content-length: 4\r\n" + CHUNKED, END),
    post("TE.CL", CHUNKED + b"\r\ncontent-length: 4", END),
    post("CL.TE-with-a-hidden-request", b"content-length: 5\r\n" + CHUNKED, END + HIDDEN),
    post("TE.CL-with-a-hidden-request", CHUNKED + b"\r\ncontent-length: 4",
         b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END),
    post("CL.TE-in-capitals", b"CONTENT-LENGTH: 4\r\nTRANSFER-ENCODING: CHUNKED", END),
    post("two-lengths", b"content-length: 0\r\ncontent-length: 44"),
    post("two-equal-lengths", b"content-length: 0\r\ncontent-length: 0"),
    post("list-of-lengths", b"content-length: 0, 44"),
    post("list-of-equal-lengths", b"content-length: 0, 0"),
    post("length-plus", b"content-length: +0"),
    post("length-minus", b"content-length: -1"),
    post("length-hexadecimal", b"content-length: 0x0"),
    post("length-with-underscore", b"content-length: 0_0"),
    post("length-with-a-space-within", b"content-length: 0 0"),
    post("length-with-a-fraction", b"content-length: 0.0"),
    post("length-in-other-digits", "content-length: \u0660".encode()),
    post("length-empty", b"content-length:"),
    post("length-beyond-64-bit", b"content-length: 18446744073709551616"),
    post("length-that-wraps-around", b"content-length: 4294967296000000000000"),
    post("length-on-a-folded-line", b"content-length:\r\n 0"),
    post("length-behind-a-bare-lf", b"x: a\ncontent-length: 44"),
    post("length-behind-a-bare-cr", b"x: a\rcontent-length: 44"),
    post("length-behind-a-nul", b"x: a\x00content-length: 44"),
    post("length-with-a-space-before-its-colon", b"content-length : 44"),
    post("length-with-a-space-before-its-name", b" content-length: 44"),
    post("body-that-is-a-request", b"content-length: %d" % len(HIDDEN), HIDDEN, SERVED),
    post("body-of-a-get", b"content-length: 3", b"abc", SERVED)._replace(
        raw=b"GET /f HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN)
        + HIDDEN + NEXT),
    post("body-beyond-its-limit", b"content-length: 2000000", b"x" * 2_000_000,
         (413, 200), (413,)),
)  # fmt: skip

CODINGS: Final = (
    post("coding-with-a-space-before-its-colon", b"transfer-encoding : chunked", END),
    post("coding-with-a-tab-before-its-colon", b"transfer-encoding\t: chunked", END),
    post("coding-behind-a-vertical-tab", b"transfer-encoding:\x0bchunked", END),
    post("coding-before-a-vertical-tab", b"transfer-encoding: chunked\x0b", END),
    post("coding-behind-a-nul", b"transfer-encoding: \0chunked", END),
    post("coding-that-is-unknown", b"transfer-encoding: xchunked", END, UNKNOWN, REFUSED),
    post("coding-in-quotes", b'transfer-encoding: "chunked"', END, UNKNOWN, REFUSED),
    post("coding-with-a-parameter", b"transfer-encoding: chunked;q=1", END, UNKNOWN, REFUSED),
    post("codings-in-a-list", b"transfer-encoding: gzip, chunked", END, UNKNOWN, REFUSED),
    post("codings-with-an-empty-one", b"transfer-encoding: , chunked", END, UNKNOWN, REFUSED),
    post("chunked-twice", b"transfer-encoding: chunked, chunked", END, REFUSED),
    post("chunked-twice-in-two-lines", CHUNKED + b"\r\n" + CHUNKED, END, REFUSED),
    post("chunked-and-identity", CHUNKED + b"\r\ntransfer-encoding: identity", END),
    post("identity-and-chunked", b"transfer-encoding: identity\r\n" + CHUNKED, END,
         UNKNOWN, REFUSED),
    post("identity", b"transfer-encoding: identity", END, UNKNOWN, REFUSED),
    post("chunked-is-not-the-last", b"transfer-encoding: chunked, identity", END),
    post("coding-on-a-folded-line", b"transfer-encoding:\r\n chunked", END),
    post("coding-behind-a-folded-line", b"x: a\r\n transfer-encoding: chunked", END),
    post("coding-empty", b"transfer-encoding:", END),
    post("coding-and-length-in-one-line", b"content-length: 3, transfer-encoding: chunked", END),
    Attack("coding-of-http-1.0", b"POST /f HTTP/1.0\r\nhost: a\r\n" + CHUNKED + b"\r\n\r\n"
           + END + NEXT),
    post("coding-with-underscore", b"content-length: 5\r\ntransfer_encoding: chunked", END, SERVED),
    post("length-with-underscore-in-its-name", CHUNKED + b"\r\ncontent_length: 5", END, SERVED),
)  # fmt: skip

CHUNKS: Final = (
    chunked("chunk-size-with-a-space", b"0 \r\n\r\n"),
    chunked("chunk-size-behind-a-space", b" 0\r\n\r\n"),
    chunked("chunk-size-plus", b"+0\r\n\r\n"),
    chunked("chunk-size-minus", b"-1\r\n\r\n"),
    chunked("chunk-size-0x", b"0x0\r\n\r\n"),
    chunked("chunk-size-with-underscore", b"0_0\r\n\r\n"),
    chunked("chunk-size-empty", b"\r\n\r\n"),
    chunked("chunk-size-beyond-64-bit", b"10000000000000000\r\n"),
    chunked("chunk-size-wraps-to-5", b"100000000000000005\r\nabcde\r\n" + END),
    chunked("chunk-lines-end-in-lf", b"0\n\n"),
    chunked("chunk-lines-end-in-cr", b"0\r\r"),
    chunked("chunk-data-longer-than-its-size", b"1\r\nxx" + END),
    chunked("chunk-data-ends-in-lf", b"1\r\nx\n" + END),
    chunked("chunk-extension-with-a-bare-lf", b"1;a\nb\r\nx\r\n" + END),
    chunked("chunk-extension-with-a-bare-cr", b"1;a\rb\r\nx\r\n" + END),
    chunked("chunk-extension", b"1;a=b;c\r\nx\r\n" + END, SERVED),
    chunked("chunk-that-is-a-request", b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END, SERVED),
    chunked("chunk-size-with-many-zeros", b"0" * 64 + b"1\r\nx\r\n" + END, SERVED),
    chunked("trailer-with-a-length", b"0\r\ncontent-length: 44\r\n\r\n", REFUSED),
    chunked("trailer-with-a-coding", b"0\r\ntransfer-encoding: chunked\r\n\r\n", REFUSED),
    chunked("trailer-with-our-header", b"0\r\nx-wasmfn-instance: 0\r\nhost: b\r\n\r\n", SERVED),
    chunked("trailer-with-a-bare-lf", b"0\r\na: b\n\n"),
    chunked("trailers-without-end", b"0\r\n" + b"a: b\r\n" * 200_000, (431,)),
)  # fmt: skip

LINES: Final = (
    line("version-2", b"GET /f HTTP/2.0", (505,), REFUSED),
    line("version-1.2", b"GET /f HTTP/1.2"),
    line("version-0.9", b"GET /f", (505,), REFUSED),
    line("version-9.9", b"GET /f HTTP/9.9"),
    line("version-01.1", b"GET /f HTTP/01.1"),
    # llhttp takes it for HTTP, with the framing of HTTP.
    line("version-of-another-protocol", b"GET /f RTSP/1.0", LAST),
    line("version-in-small-letters", b"GET /f http/1.1"),
    line("method-unknown", b"FOO /f HTTP/1.1"),
    line("method-in-small-letters", b"get /f HTTP/1.1"),
    line("method-behind-a-space", b" GET /f HTTP/1.1"),
    line("method-and-tab", b"GET\t/f HTTP/1.1"),
    line("method-with-a-nul", b"GE\0T /f HTTP/1.1"),
    line("connect", b"CONNECT a:80 HTTP/1.1", REFUSED, (405,)),
    line("connect-with-a-path", b"CONNECT /f HTTP/1.1", UNKNOWN, (405,)),
    line("preface-of-http-2", b"PRI * HTTP/2.0"),
    line("target-with-a-space", b"GET /f /g HTTP/1.1"),
    line("target-with-a-nul", b"GET /f\0 HTTP/1.1"),
    line("target-with-a-bare-cr", b"GET /f\r HTTP/1.1"),
    line("target-with-a-bare-lf", b"GET /f\nx: HTTP/1.1", (505,), REFUSED),
    line("target-outside-ascii", b"GET /\xc3\xa9 HTTP/1.1"),
    line("target-without-slash", b"GET f HTTP/1.1"),
    line("target-asterisk", b"GET * HTTP/1.1", REFUSED, SERVED),
    line("target-authority", b"GET a:80 HTTP/1.1"),
    line("target-of-another-scheme", b"GET ftp://a/f HTTP/1.1", REFUSED, SERVED),
    line("target-with-a-user", b"GET http://u:p@a/f HTTP/1.1", REFUSED, SERVED),
    line("target-absolute", b"GET http://a/f HTTP/1.1", SERVED),
    Attack("target-absolute-without-host", b"GET http://a/f HTTP/1.1\r\n\r\n" + NEXT),
    Attack("target-absolute-and-two-hosts",
           b"GET http://a/f HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + NEXT),
    line("target-with-two-slashes", b"GET //f HTTP/1.1", (404, 200), SERVED),
    line("target-without-end", b"GET /f/" + b"x" * 70_000 + b" HTTP/1.1", (431,), (431, 200)),
    Attack("bytes-of-tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NEXT),
    Attack("line-ends-of-another-kind", b"GET /f HTTP/1.1\nhost: a\n\n" + NEXT),
    Attack("empty-lines-before", b"\r\n\r\n" + NEXT, LAST),
)  # fmt: skip

HEADERS: Final = (
    post("header-with-a-nul", b"x: a\0"),
    post("header-without-a-name", b": a"),
    post("header-without-a-colon", b"x"),
    post("header-with-a-space-in-its-name", b"x y: a"),
    post("header-with-a-slash-in-its-name", b"x/y: a"),
    post("header-with-a-nul-in-its-name", b"x\0y: a"),
    post("header-outside-ascii-in-its-name", b"x\xffy: a"),
    post("header-on-a-folded-line", b"x: a\r\n b"),
    post("header-with-a-bell", b"x: a\x07b"),
    Attack("header-folded-from-the-first-line", b"GET /f HTTP/1.1\r\n host: a\r\n\r\n" + NEXT),
    Attack("host-missing", b"GET /f HTTP/1.1\r\n\r\n" + NEXT),
    post("host-twice", b"host: b"),
    post("host-twice-and-equal", b"host: a"),
    Attack("host-with-a-path", b"GET /f HTTP/1.1\r\nhost: a/b\r\n\r\n" + NEXT, REFUSED, SERVED),
    Attack("host-with-a-user", b"GET /f HTTP/1.1\r\nhost: a@b\r\n\r\n" + NEXT, REFUSED, SERVED),
    Attack("host-with-a-space", b"GET /f HTTP/1.1\r\nhost: a b\r\n\r\n" + NEXT, REFUSED, SERVED),
    post("expect-something-else", b"expect: 200-ok", b"", (417,), (417, 200)),
    post("expect-twice", b"expect: 100-continue\r\nexpect: x", b"", (417,), (417, 200)),
    post("expect-and-send-at-once",
         b"expect: 100-continue\r\ncontent-length: %d" % len(HIDDEN), HIDDEN, SERVED),
    post("connection-names-the-length",
         b"connection: content-length\r\ncontent-length: %d" % len(HIDDEN), HIDDEN, SERVED),
    post("connection-names-the-coding", b"connection: transfer-encoding\r\n" + CHUNKED,
         b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END, SERVED),
    post("connection-names-the-host", b"connection: host", b"", SERVED),
    post("connection-names-our-headers",
         b"connection: x-wasmfn-instance, x-forwarded-for, via, x-request-id", b"", SERVED),
    post("connection-close-and-keep-alive", b"connection: close, keep-alive", b"", LAST),
    post("our-headers-with-underscores", b"X_Wasmfn_Instance: evil", b"", SERVED),
    post("upgrade-to-h2c", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
         b"http2-settings: AAMAAABkAAQ", b"", LAST),
    post("upgrade-to-websocket", b"connection: upgrade\r\nupgrade: websocket\r\n"
         b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", b"", LAST),
    post("upgrade-with-a-body", b"connection: upgrade\r\nupgrade: x\r\ncontent-length: 3", b"abc",
         UNKNOWN, REFUSED),
    post("upgrade-with-chunks", b"connection: upgrade\r\nupgrade: x\r\n" + CHUNKED, END,
         UNKNOWN, REFUSED),
    post("many-headers", b"\r\n".join(b"x-%d: a" % n for n in range(200)), b"", (431,), (431, 200)),
    post("flood-of-headers", b"x: a\r\n" * 50_000, b"", (431,)),
    post("large-header", b"x: " + b"a" * 200_000, b"", (431,), (431, 200)),
    Attack("header-without-end", b"GET /f HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 300_000, (431,)),
    Attack("name-without-end", b"GET /f HTTP/1.1\r\nhost: a\r\n" + b"a" * 300_000, (431,)),
)  # fmt: skip

QUEUES: Final = (
    Attack("ten-requests-at-once", NEXT.replace(b"connection: close\r\n", b"") * 10 + NEXT,
           (200,) * 11),
    Attack("bad-behind-good", NEXT.replace(b"connection: close\r\n", b"") + b"BAD\r\n\r\n" + NEXT,
           (200,), (200, 400)),
    Attack("request-behind-the-last", NEXT + NEXT, LAST),
    Attack("request-behind-one-of-http-1.0", b"GET /f HTTP/1.0\r\nhost: a\r\n\r\n" + NEXT, LAST),
)  # fmt: skip

ATTACKS: Final = (*LENGTHS, *CODINGS, *CHUNKS, *LINES, *HEADERS, *QUEUES)
