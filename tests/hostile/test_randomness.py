"""No two children of a keeper, and no two calls, share anything that random numbers come from."""

import json
import os
import random
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from typing import NoReturn

from keeper.budget import Budget
from keeper.child import Inherited
from keeper.engine import engine_hash
from keeper.function import Host
from keeper.scoreboard import Scoreboards
from keeper.zygote import start
from schemas.names import new_instance_id, new_token
from tests.keeper.conftest import Keeper

RANDOM = """(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\10\\00\\00\\00")
  (func (export "_start")
    (drop (call $random (i32.const 16) (i32.const 16)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))))"""


def test_no_two_children_and_no_two_calls_get_the_same_random_bytes(keeper: Keeper) -> None:
    seen = []
    for _ in range(10):
        loaded = keeper.load(RANDOM, interface="stdin")
        calls = [threading.Thread(target=lambda it=loaded: seen.append(it.call()[1]))
                 for _ in range(5)]  # fmt: skip
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        keeper.unload(loaded.instance, "kill")
    assert {len(drawn) for drawn in seen} == {16}
    assert len(set(seen)) == len(seen) == 50


def test_two_children_of_one_zygote_draw_different_bytes_from_every_source() -> None:
    def live(inherited: Inherited, _: bool) -> NoReturn:
        drawn = {
            "the kernel": os.urandom(16).hex(),
            "OpenSSL": ssl.RAND_bytes(16).hex(),
            "random": random.randbytes(16).hex(),  # noqa: S311 -- it is one of the sources
            "secrets": secrets.token_hex(16),
            "uuid": uuid.uuid4().hex,
            "an instance's id": new_instance_id(),
            "a token": new_token(),
        }
        inherited.channel.send(json.dumps(drawn).encode())
        os._exit(0)

    ssl.RAND_bytes(1)
    random.random()  # noqa: S311 -- so that there is a state to inherit
    host = Host()
    zygote = start(live, host, engine_hash(host.engine), Scoreboards(2), Budget(0, 2))
    draws = []
    for index in range(2):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = zygote.fork(theirs, index, warm=False)
            draws.append(json.loads(ours.recv(4096)))
            zygote.bury(pid)
    zygote.channel.close()
    os.waitpid(zygote.pid, 0)
    one, two = draws
    assert [source for source in one if one[source] == two[source]] == []


def test_a_keeper_has_no_generator_of_random_numbers_but_the_kernels() -> None:
    """What is not there before the fork cannot be shared after it."""
    code = (
        "import sys, keeper.load, keeper.port, keeper.settings, keeper.supervisor\n"
        "print([name for name in ('random', 'secrets', 'ssl', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
