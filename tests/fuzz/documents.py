"""Targets: documents that others write: specs, subjects, schedules, logs, events, control calls."""

# ruff: noqa: PT017 - a target is no test: an error is an answer that has to be right, too

import re
from datetime import UTC, datetime, timedelta

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage

from keeper.control import RefusedError, parse_head
from schemas import subjects
from schemas.active import ActiveRoute
from schemas.control import decode_load
from schemas.events import LogLine
from schemas.specs import KINDS, RouteSpec, TimerSpec, decode_spec
from services.podwatch.cri import events_pb2
from services.podwatch.lines import MAX_TEXT, GarbageError, parse
from services.podwatch.offsets import Position
from services.podwatch.rotated import LINE_BYTES, whole
from services.podwatch.sources.runtime import Change, RuntimeTrouble, _change
from services.podwatch.tail import Batch, Line
from services.router.table import Match, Table, compact
from services.scheduler.judge import Rejected, judge
from services.scheduler.schedule import MADE_UP_MOST, ScheduleError, due, next_due
from tests.fuzz.tape import Tape

_KINDS = (*KINDS, "nonsense")
_TEMPLATES = [t for t in vars(subjects).values() if isinstance(t, subjects.Template)]
_FIELD = re.compile(r"\$[^\n]*")
_NOW = datetime(2024, 3, 30, 12, tzinfo=UTC)
"""The night after it, Europe's clocks leave out an hour."""


def spec(data: bytes) -> None:
    """Any document is a spec that says the same once written again, or is refused in words."""
    tape = Tape(data)
    kind = tape.pick(_KINDS)
    payload = tape.text()
    verdict = judge(kind, "default", "x", payload)
    if isinstance(verdict, Rejected):
        assert 0 < len(verdict.message) < 2000
        assert verdict.message.isprintable()
        assert verdict.field is None or _FIELD.fullmatch(verdict.field), verdict
        _check_names_field(kind, payload, verdict)
        return
    assert decode_spec(kind, msgspec.json.encode(verdict)) == verdict
    if isinstance(verdict, RouteSpec):
        _check_route(verdict)


def _check_names_field(kind: str, payload: bytes, verdict: Rejected) -> None:
    try:
        decode_spec(kind, payload)
    except msgspec.ValidationError as error:
        # What is wrong with the whole has no field.
        assert verdict.field is not None or " - at `" not in str(error), (verdict, error)
    except (ValueError, RecursionError):
        pass


def _check_route(spec: RouteSpec) -> None:
    """Check that a router can serve a route that was judged good."""
    route = compact(ActiveRoute("default", "x", 1, spec))
    table = Table()
    table.put(route)
    path = re.sub(r"\{[^}]*\}", "a", route.pattern) or "/"
    found = table.match(route.host, route.methods[0], path)
    assert isinstance(found, Match), (spec, path)
    if route.gate is not None:
        route.gate.admit(route.methods[0], [], "::1", 0.0, lambda url: None)
        route.gate.admit("OPTIONS", [(b"origin", b"https://a"),
                         (b"access-control-request-method", b"GET")], "::1", 0.0,
                         lambda url: None)  # fmt: skip
    table.remove(("default", "x"))
    assert table.match(route.host, route.methods[0], path) is None


def subject(data: bytes) -> None:
    """A subject is of a family exactly if the family writes it so."""
    text = data.decode("utf-8", "surrogateescape")
    for template in _TEMPLATES:
        tokens = template.parse(text)
        if tokens is not None:
            assert template.subject(**tokens) == text
    plain = data.decode("utf-8", "replace")
    if plain:
        word = subjects.escape_token(plain)
        assert re.fullmatch(r"[A-Za-z0-9_=-]+", word)
        assert subjects.unescape_token(word) == plain


def schedule(data: bytes) -> None:
    """A schedule is refused in words, or has due times that grow."""
    tape = Tape(data)
    days, missed = tape.number(40), tape.pick(("skip", "last", "all"))
    text, _, zone = tape.text().decode("utf-8", "replace").partition("\n")
    try:
        timer = msgspec.convert(
            {"kind": "timer", "function": "f", "schedule": text, "timezone": zone or "UTC",
             "missed": missed}, TimerSpec,
        )  # fmt: skip
    except msgspec.ValidationError:
        return
    try:
        first = next_due(timer, _NOW)
    except ScheduleError as error:
        assert error.field in ("$.schedule", "$.timezone")
        return
    assert first > _NOW
    after = _NOW - timedelta(days=days)
    found = due(timer, after, _NOW)
    if found is not None:
        assert list(found.times) == sorted(set(found.times))
        assert all(after < time <= _NOW for time in found.times)
        assert after < found.until <= _NOW
        assert found.missed <= MADE_UP_MOST
        again = due(timer, found.until, _NOW)
        assert again is None or not again.times or again.times[0] > found.until


def log(data: bytes) -> None:
    """A line of a log is a function's, the keeper's own, or garbage; never another namespace's."""
    try:
        line = parse(data, "mine")
    except GarbageError:
        return
    if line is not None:
        assert line.namespace == "mine"
        assert line.function
        assert len(line.text) <= MAX_TEXT + 1
        assert msgspec.json.decode(msgspec.json.encode(line), type=LogLine) == line


def rotated(data: bytes) -> None:
    """Lines that a container runtime has cut come whole, from where they begin, or not yet."""
    tape = Tape(data)
    dropping = tape.flag()
    lines, at = [], 0
    for raw in tape.text().split(b"\n"):
        lines.append(Line(raw, Position(1, offset=at)))
        at += len(raw) + 1
    begin, then = Position(1), Position(1, offset=at)
    batch, _ = whole(Batch(tuple(lines), then, 0), begin, dropping=dropping)
    if batch is None:
        assert not dropping
        assert at <= LINE_BYTES
        return
    starts = [line.at.offset for line in batch.lines]
    assert starts == sorted(set(starts))
    assert set(starts) <= {line.at.offset for line in lines}
    assert sum(len(line.raw) for line in batch.lines) <= at
    assert begin.offset < batch.then.offset <= at
    # What is not told yet is read again from the beginning of its line.
    assert all(start < batch.then.offset for start in starts)


def event(data: bytes) -> None:
    """An event of a container runtime is a change, nothing, or trouble."""
    tape = Tape(data)
    topic = tape.pick(("/tasks/start", "/tasks/exit"))
    envelope = events_pb2.Envelope(topic=topic, event=AnyMessage(value=tape.text()))
    try:
        change = _change(envelope)
    except RuntimeTrouble:
        return
    assert change is None or isinstance(change, Change)


def control(data: bytes) -> None:
    """The head of a control call is read, or refused in words."""
    try:
        call = parse_head(data)
    except RefusedError as refused:
        assert refused.problem in ("bad-request", "unsigned", "too-large")
        assert refused.response.startswith(b"HTTP/1.1 4")
        return
    assert call.content_length >= 0
    assert call.method.isascii()


def load(data: bytes) -> None:
    """The body of a load call is read, or is none."""
    try:
        request, artifact = decode_load(data)
    except msgspec.DecodeError:
        return
    assert data.endswith(bytes(artifact))
    assert request.token is not None
