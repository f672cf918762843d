"""Call a function through the router and show what came back: `fn test` and `invoke`."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from schemas.specs import FunctionSpec
from wasmfn.cli.output import note, write, write_bytes
from wasmfn.cli.session import Session
from wasmfn.errors import RejectedError, UnreachableError, WasmfnError
from wasmfn.objects import Key, Object
from wasmfn.render import duration, printable

if TYPE_CHECKING:
    from schemas.invocations import Result
    from wasmfn.invoke import Answer

ACCEPTED = 202
UNAUTHORIZED = 401
WAIT_S = 300.0
"""How long an invocation is waited for that need not be, unless somebody says otherwise."""


async def invoke_and_show(
    session: Session,
    name: str,
    arguments: tuple[str, ...],
    *,
    http: str | None,
    from_stdin: bool,
    raw: bool,
    wait: bool = True,
    key: str | None = None,
) -> str:
    """Call a function by one of its routes; without `wait` print where its result will be.

    Returns the id of an invocation that is not waited for.

    Raises:
        MissingError: there is no such function, or no route to call it by.
        WasmfnError: the function failed, or the platform did not take the call.
    """
    # Only these verbs speak HTTP, and http.client takes its time to import.
    from wasmfn.invoke import call, callable_route, credentials, patience_s, problem_of  # noqa: PLC0415

    function = Key("function", session.namespace, name)
    async with session.connect() as client:
        found = await client.get(function)
        route, method = callable_route(function, await client.objects("route", session.namespace))
    http_url = http or session.platform().http_url
    if http_url is None:
        raise UnreachableError("where the router is, is not known; say it with --http")
    interface = interface_of(found)
    data = sys.stdin.buffer.read() if from_stdin else b""
    if interface == "args":
        body, content_type = _args_body(arguments, data), "application/json"
    elif arguments:
        raise click.UsageError(
            f"{name} takes its input from the request's body (interface {interface}); use --stdin"
        )
    else:
        body, content_type = data, "application/octet-stream"
    more = credentials(route, os.environ)
    if not wait:
        more |= {"prefer": "respond-async", **({"idempotency-key": key} if key else {})}
    with _interruptible():
        answer = call(
            http_url, route, body, content_type,
            method=method, timeout_s=patience_s(found), more=more,
        )  # fmt: skip
    if answer.status == UNAUTHORIZED and route.authentication is not None:
        raise RejectedError(
            f"{problem_of(answer)}; `invoke` sends the API key in WASMFN_API_KEY, or the token in"
            " WASMFN_TOKEN"
        )
    if wait:
        show(answer, interface, raw=raw)
        return ""
    if answer.status != ACCEPTED:
        raise RejectedError(problem_of(answer))
    write(http_url.rstrip("/") + answer.location)
    number = answer.location.rpartition("/")[2]
    note(
        f"accepted in {duration(answer.milliseconds)}; see `wasmfn invocations get {name} {number}`"
    )
    return number


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a call that blocks: asyncio's own handler waits for the loop to turn.

    In the background of a shell it is ignored, and stays so: it is meant for somebody else.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interface_of(function: Object) -> str:
    """Return how a function takes its input and gives its output."""
    return function.spec.interface if isinstance(function.spec, FunctionSpec) else "args"


def _args_body(arguments: tuple[str, ...], stdin: bytes) -> bytes:
    request: dict[str, Any] = {"args": list(arguments)}
    if stdin:
        try:
            request["stdin"] = stdin.decode()
        except UnicodeDecodeError as error:
            raise click.UsageError(
                "this stdin is not UTF-8; bytes of any kind need a function with --interface stdin"
            ) from error
    return msgspec.json.encode(request)


def show_result(result: "Result", interface: str, *, raw: bool) -> None:
    """Print what an invocation has come to that was not waited for.

    Raises:
        WasmfnError: it is no success.
    """
    from wasmfn.invoke import Answer  # noqa: PLC0415 - see above

    if result.state != "done" or result.answer is None:
        more = f"; see `wasmfn dead get {result.function} {result.id}`"
        raise WasmfnError(
            f"it is {result.state}: {printable(result.message) or 'nothing is known of its end'}"
            f"{more if result.state == 'dead' else ''}"
        )
    took_ms = sum(attempt.duration_ms for attempt in result.attempts)
    content_type = dict(result.answer.headers).get("content-type", "")
    answer = Answer(
        result.answer.status, content_type, result.answer.body, took_ms, result.correlation
    )
    show(answer, interface, raw=raw)


def show(answer: "Answer", interface: str, *, raw: bool) -> None:
    """Print an answer; what is not output goes to stderr."""
    from wasmfn.invoke import outcome_of, problem_of  # noqa: PLC0415 - see above

    took = duration(answer.milliseconds)
    if raw or interface != "args":
        if not raw and answer.status >= 400:
            raise RejectedError(problem_of(answer))
        write_bytes(answer.body)
        if sys.stdout.isatty() and not answer.body.endswith(b"\n"):
            note("")
        note(f"HTTP {answer.status} in {took}")
        return
    outcome = outcome_of(answer)
    write(*(printable(line) if sys.stdout.isatty() else line for line in outcome.output))
    for line in outcome.stderr.splitlines():
        note(f"stderr: {printable(line)}")
    note(f"status {outcome.status} in {took}")
    if outcome.status != 0 or answer.status != 200:
        raise WasmfnError(f"the function failed: {printable(outcome.error) or 'it says nothing'}")
