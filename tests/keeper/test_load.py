"""Load calls to whole keepers: what becomes of code, variables and secrets in a child."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from schemas.control import encode_load
from schemas.names import new_instance_id
from tests.keeper.conftest import refusal
from tests.keeper.memory import in_memory

Start = Callable[..., Any]


def test_a_function_gets_its_arguments_variables_and_name(keeper: Any) -> None:
    loaded = keeper.load("env", variables={"PASSWORD": "hunter2", "A": "b"})
    assert loaded.run()["output"] == ["A=b", "PASSWORD=hunter2"]
    hello = keeper.load("hello", arguments=("spec",))
    assert hello.run("request")["output"] == ["hello, spec"]


def test_the_second_load_takes_the_artifact_from_the_cache(start_keeper: Start) -> None:
    keeper = start_keeper()
    assert refusal(lambda: keeper.load("hello", send_code=False)) == (424, "artifact-missing")
    keeper.load("hello")
    assert keeper.load("hello", send_code=False).run()["output"] == ["hello, world"]


def test_a_process_that_lacked_its_artifact_is_not_told_as_the_end_of_its_instance(
    start_keeper: Start,
) -> None:
    keeper = start_keeper()
    watch = keeper.watch()
    request, code = keeper.request("hello")
    assert refusal(lambda: keeper.load_request(request, b"")) == (424, "artifact-missing")
    keeper.load_request(request, code)
    told = watch.until(lambda it: it.instance == request.instance)
    assert told.instance.state == "serving"
    watch.close()


def test_what_the_builder_did_not_sign_is_not_run(start_keeper: Start) -> None:
    keeper = start_keeper()
    request, code = keeper.request("hello")
    altered = code[:-1] + bytes([code[-1] ^ 1])
    assert refusal(lambda: keeper.load_request(request, altered)) == (422, "bad-artifact")
    artifact, _ = keeper.artifact("sort")
    stranger = msgspec.structs.replace(artifact, signature="00" * 64)
    forged = msgspec.structs.replace(request, artifact=stranger)
    _, sort_code = keeper.artifact("sort")
    assert refusal(lambda: keeper.load_request(forged, sort_code)) == (422, "bad-artifact")


def test_an_altered_file_in_the_cache_is_not_run(start_keeper: Start) -> None:
    keeper = start_keeper()
    keeper.load("hello")
    (file,) = keeper.cache.iterdir()
    file.chmod(0o600)
    file.write_bytes(keeper.artifact("sort")[1])
    assert refusal(lambda: keeper.load("hello", send_code=False)) == (422, "bad-artifact")


def test_a_load_that_makes_no_sense_is_a_sentence(keeper: Any) -> None:
    status, answer = keeper.signed("POST", "/load", b"\0\0\0\x02{}")
    assert (status, msgspec.json.decode(answer)["problem"]) == (400, "bad-request")
    assert keeper.signed("POST", "/load", b"\xff\xff\xff\xff")[0] == 400
    assert keeper.signed("POST", "/nowhere")[0] == 400
    assert keeper.signed("POST", "/unload", b"{}")[0] == 400


def test_secrets_are_in_no_log_and_no_process_list(keeper: Any) -> None:
    loaded = keeper.load("exit3", variables={"PASSWORD": "hunter2-secret"})
    loaded.run()
    keeper.log_until(lambda line: line.get("instance") == loaded.instance)
    assert b"hunter2" not in keeper.log_file.read_bytes()
    for process in (keeper.process.pid, loaded.reply.pid):
        with open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123 -- one of many
            assert b"hunter2" not in file.read()


def test_a_secret_sent_to_one_child_is_not_where_later_children_come_from(
    start_keeper: Start,
) -> None:
    keeper = start_keeper()
    secret = "hunter2-" + new_instance_id()
    keeper.load("hello")
    request, _ = keeper.request("hello", variables={"PASSWORD": secret})
    body = encode_load(request, b"")
    headers = keeper.signature("POST", "/load", body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /load HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    with socket.create_connection(("127.0.0.1", keeper.port), 10) as connection:
        # In one piece: whoever looks for the end of the head sees the body too.
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert not in_memory(keeper.process.pid, secret.encode())
    assert not in_memory(keeper.zygote, secret.encode())


def test_every_thread_of_a_child_is_confined(keeper: Any) -> None:
    sort = keeper.load("sort")
    sort.run("2", "1")
    threads = list(Path(f"/proc/{sort.reply.pid}/task").iterdir())
    assert len(threads) > 1  # of tokio, and the ticker
    for thread in threads:
        status = dict(
            line.split(":\t") for line in (thread / "status").read_text().splitlines() if line[-1:]
        )
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
