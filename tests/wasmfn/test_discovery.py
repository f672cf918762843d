import os
from pathlib import Path

import msgspec
import pytest

from wasmfn import orphans
from wasmfn.discovery import NoPlatformError, PlatformFile, find_platform, read_platform, read_token
from wasmfn.paths import Layout, pointer, write_private


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def describe(data: Path, ticks: int | None = None) -> Layout:
    """Write what an `up` that is this process would write."""
    layout = Layout(data)
    layout.create()
    layout.token.write_text("t0ken\n")
    us = orphans.started(os.getpid())
    file = PlatformFile(
        http="http://127.0.0.1:1",
        nats="nats://127.0.0.1:2",
        token_file=str(layout.token),
        pid=us.pid,
        start_ticks=us.start_ticks if ticks is None else ticks,
        admin={},
    )
    write_private(layout.platform, msgspec.json.encode(file))
    return layout


def test_a_named_url_wins_over_everything(home):
    describe(home / "data")
    (home / "token").write_text("other\n")
    environ = {
        "WASMFN_DATA": str(home / "data"),
        "WASMFN_NATS": "nats://b",
        "WASMFN_NATS_TOKEN_FILE": str(home / "token"),
        "WASMFN_HTTP": "http://b",
    }
    found = find_platform(nats="nats://a", environ=environ)
    assert (found.nats_url, found.token, found.http_url) == ("nats://a", "other", "http://b")
    assert find_platform(environ=environ).nats_url == "nats://b"


def test_a_named_data_directory_wins_over_the_environment(home):
    layout = describe(home / "data")
    found = find_platform(data=layout.data, environ={"WASMFN_NATS": "nats://b"})
    assert (found.nats_url, found.token, found.data_dir) == (
        "nats://127.0.0.1:2", "t0ken", layout.data,
    )  # fmt: skip


def test_what_was_started_last_is_found_without_a_name(home):
    layout = describe(home / "elsewhere")
    pointer().parent.mkdir(parents=True)
    pointer().write_text(msgspec.json.encode({"data_dir": str(layout.data)}).decode())
    assert find_platform(environ={}).data_dir == layout.data


def test_the_default_directory_is_looked_at_when_the_pointer_is_stale(home):
    pointer().parent.mkdir(parents=True)
    pointer().write_text("garbage")
    layout = describe(home / ".local" / "share" / "wasmfn")
    assert find_platform(environ={}).data_dir == layout.data


def test_a_file_of_an_up_that_does_not_run_any_more_is_no_platform(home):
    layout = describe(home / "data", ticks=1)
    assert read_platform(layout.data) is None
    with pytest.raises(NoPlatformError, match=f"wasmfn up --data {layout.data}"):
        find_platform(data=layout.data, environ={})


def test_nothing_that_runs_is_one_clear_sentence(home):
    with pytest.raises(NoPlatformError, match="no platform is running here; start one with `wasmf"):
        find_platform(environ={})


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}"])
def test_a_garbage_platform_file_is_no_platform(home, content):
    layout = describe(home / "data")
    layout.platform.write_bytes(content)
    assert read_platform(layout.data) is None


def test_a_token_that_cannot_be_read_is_said_so(home):
    (home / "binary").write_bytes(b"\xff\xfe")
    for file in (home / "nothing", home / "binary"):
        with pytest.raises(NoPlatformError, match=str(file)):
            read_token(file)
