"""One codec for every NATS subject, so that no other place glues strings with dots.

A subject is a template of fixed words and named tokens. Tokens that hold
characters with a meaning to NATS (a node name has dots) are escaped: each
byte outside `[A-Za-z0-9_-]` becomes `=` and two hexadecimal digits. Names that
are DNS labels pass through unchanged, so subjects stay readable.
"""

import re
from typing import Final

_SAFE: Final = re.compile(rb"[A-Za-z0-9_-]")
_ESCAPE: Final = re.compile(r"=([0-9a-f]{2})")
_TOKEN: Final = re.compile(r"^(?:[A-Za-z0-9_-]|=[0-9a-f]{2})+$")


def escape_token(text: str) -> str:
    """Return `text` as one subject token. The empty string has no token: ValueError."""
    if not text:
        raise ValueError("an empty string cannot be a subject token")
    return "".join(
        chr(byte) if _SAFE.match(bytes([byte])) else f"={byte:02x}" for byte in text.encode("utf-8")
    )


def unescape_token(token: str) -> str:
    """Return the text that `escape_token` made `token` of. ValueError if it made no such token."""
    if not _TOKEN.match(token):
        raise ValueError(f"{token!r} is not a subject token of ours")
    raw = _ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), token)
    text = raw.encode("latin-1").decode("utf-8")
    if escape_token(text) != token:
        raise ValueError(f"{token!r} escapes a character that needs no escape")
    return text


class Template:
    """A family of subjects, such as `wasmfn.specs.{kind}.{namespace}.{name}`."""

    __slots__ = ("_parts", "text", "tokens", "wildcard")

    def __init__(self, text: str) -> None:
        """Read the template; tokens stand in braces."""
        self.text = text
        self._parts = text.split(".")
        self.tokens = tuple(p[1:-1] for p in self._parts if p.startswith("{"))
        self.wildcard = ".".join("*" if p.startswith("{") else p for p in self._parts)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def subject(self, **tokens: str) -> str:
        """Return the subject with every token filled in. KeyError if one is missing."""
        return ".".join(
            escape_token(tokens[p[1:-1]]) if p.startswith("{") else p for p in self._parts
        )

    def filter(self, **tokens: str) -> str:
        """Return a subscription subject: the given tokens filled in, `*` for the others."""
        return ".".join(
            p
            if not p.startswith("{")
            else escape_token(tokens[p[1:-1]])
            if p[1:-1] in tokens
            else "*"
            for p in self._parts
        )

    def parse(self, subject: str) -> dict[str, str] | None:
        """Return the tokens of `subject`, or None if it is not of this family."""
        words = subject.split(".")
        if len(words) != len(self._parts):
            return None
        tokens: dict[str, str] = {}
        for part, word in zip(self._parts, words, strict=True):
            if part.startswith("{"):
                try:
                    tokens[part[1:-1]] = unescape_token(word)
                except ValueError:
                    return None
            elif part != word:
                return None
        return tokens


SPECS: Final = Template("wasmfn.specs.{kind}.{namespace}.{name}")
ACTIVE: Final = Template("wasmfn.active.{kind}.{namespace}.{name}")
STATUS: Final = Template("wasmfn.status.{kind}.{namespace}.{name}")
BUILDS: Final = Template("wasmfn.builds.{build}")
PODS: Final = Template("wasmfn.pods.{node}.{uid}")
ENDPOINTS: Final = Template("wasmfn.endpoints.{namespace}.{function}.{instance}")
EVENTS: Final = Template("wasmfn.events.{service}.{namespace}.{kind}.{name}.{what}")
LOGS: Final = Template("wasmfn.logs.{namespace}.{function}")
LEASES: Final = Template("wasmfn.leases.{name}")
FENCES: Final = Template("wasmfn.fences.{stream}")
"""In each stream that only a leader writes: the last message says in which term."""
INVOCATIONS: Final = Template("wasmfn.invocations.{namespace}.{function}.{id}")
RESULTS: Final = Template("wasmfn.results.{namespace}.{function}.{id}")
TIMERS: Final = Template("wasmfn.timers.{namespace}.{name}")
DEAD: Final = Template("wasmfn.dead.{namespace}.{function}.{id}")

DEMAND: Final = Template("wasmfn.demand.{namespace}.{function}")
"""Core request/reply: a router asks the leading scheduler for an endpoint."""
ACTIVITY: Final = Template("wasmfn.activity.{router}")
"""Core publish: what a router has in flight and parked, and how far it has read ACTIVE."""
BUILD_REQUESTS: Final = Template("wasmfn.build")
"""Core request/reply, queue group `builder`: the scheduler asks for a build."""
CANCEL_REQUESTS: Final = Template("wasmfn.cancel.{namespace}.{function}")
"""Core request/reply, queue group `router`: people do not want an invocation any more."""
INTERRUPTS: Final = Template("wasmfn.interrupt.{namespace}.{function}.{id}")
"""Core publish, to every router: an attempt that is under way is not wanted any more."""
DEAD_REQUESTS: Final = Template("wasmfn.redrive.{namespace}.{function}")
"""Core request/reply, queue group `router`: people say what becomes of a dead letter."""
