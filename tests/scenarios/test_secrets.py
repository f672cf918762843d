"""A secret is seen by the function that names it, and by nothing and nobody else."""

import contextlib
import secrets
from pathlib import Path

import nats
from nats.js.errors import NotFoundError

from tests.scenarios.caller import example, post
from tests.scenarios.platforms.local import LocalPlatform
from wasmfn.discovery import find_platform

WAYS = ("exit3", "trap", "stderr", "flood", "badutf8", "spin", "page")
"""Examples that fail, each in a way of its own, or are called in the wrong one."""


async def stored(platform: LocalPlatform) -> dict[str, bytes]:
    """Return all that the streams hold, buckets included, by subject and sequence."""
    at = find_platform(data=platform.data, environ={})
    found = {}
    async with await nats.connect(at.nats_url, token=at.token) as bus:
        jetstream = bus.jetstream()
        for info in await jetstream.streams_info():
            for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1):
                with contextlib.suppress(NotFoundError):
                    message = await jetstream.get_msg(info.config.name, sequence)
                    text = repr(message.headers).encode() + (message.data or b"")
                    found[f"{message.subject} {sequence}"] = text
    return found


def told_by_processes() -> dict[str, bytes]:
    """Return the command lines and environments of all processes that we may look at."""
    found = {}
    for file in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
        with contextlib.suppress(OSError):
            found[str(file)] = file.read_bytes()
    return found


def files(platform: LocalPlatform) -> dict[str, bytes]:
    """Return the files of the platform without those that are the secrets."""
    found = {}
    for file in platform.directory.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and "secrets" not in file.relative_to(platform.directory).parts:
                found[str(file)] = file.read_bytes()
    return found


async def test_a_secret_is_in_no_spec_event_log_answer_or_process_list_however_its_function_fails(
    local_platform: LocalPlatform,
) -> None:
    platform = local_platform
    value = "s3cret-" + secrets.token_hex(16)
    said: list[bytes] = []

    def cli(*arguments: str, stdin: bytes = b"") -> None:
        done = platform.cli(*arguments, stdin=stdin)
        said.extend((done.stdout, done.stderr))

    cli("secret", "create", "guarded", "password", stdin=value.encode())
    secret = ("--secret", "PASSWORD=guarded/password")
    cli("deploy", example("env"), "--name", "guarded-env", *secret)
    seen = await post(platform, "/guarded-env")
    assert f"PASSWORD={value}" in seen.json()["output"]  # it is there where it belongs

    for way in WAYS:
        cli("deploy", example(way), "--name", f"guarded-{way}", "--timeout", "0.5", *secret)
        answer = await post(platform, f"/guarded-{way}", args=["1"])
        said.append(repr(answer.headers).encode() + answer.content)
        cli("fn", "logs", f"guarded-{way}")
        cli("fn", "get", f"guarded-{way}")
    cli("deploy", example("sort"), "--name", "guarded-missing", "--secret", "A=guarded/nothing")
    cli("deploy", example("sort"), "--name", "guarded-twice", *secret, "--env", "PASSWORD=x")
    cli("deploy", __file__, "--name", "guarded-no-module", *secret)
    cli("events", "--since", "1h")
    cli("export")
    cli("doctor")

    assert len(said) > 40
    assert sum(map(len, said)) > 1000
    everything = {**told_by_processes(), **files(platform), **await stored(platform)}
    assert len(everything) > 100
    leaks = [name for name, content in everything.items() if value.encode() in content]
    assert leaks == []
    assert [text for text in said if value.encode() in text] == []
