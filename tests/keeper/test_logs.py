import json
import os
import subprocess
import sys
from datetime import datetime

from keeper.logs import MAX_LINE_CHARACTERS, Origin, line, stderr_lines

ORIGIN = Origin("default", "sort", "i1")


def test_a_line_says_whose_it_is() -> None:
    it = json.loads(line("hello\n☃", origin=ORIGIN, request_id="r1", level="warning"))
    assert datetime.fromisoformat(it.pop("time")).tzinfo is not None
    assert it == {
        "level": "warning",
        "text": "hello\n☃",
        "stream": "keeper",
        "namespace": "default",
        "function": "sort",
        "instance": "i1",
        "request_id": "r1",
    }


def test_stderr_becomes_a_line_each_of_bounded_length() -> None:
    stderr = b"one\ntwo \xff\n" + b"x" * (MAX_LINE_CHARACTERS + 5)
    texts = [json.loads(encoded)["text"] for encoded in stderr_lines(stderr, ORIGIN, "r1")]
    assert texts == ["one", "two \ufffd", "x" * MAX_LINE_CHARACTERS, "xxxxx"]


def test_what_a_function_prints_can_not_end_its_line() -> None:
    forged = b'"}\r{"text":"forged"\x0b\x85'
    for encoded in stderr_lines(forged, ORIGIN, ""):
        assert b"\n" not in encoded
        assert json.loads(encoded)["function"] == "sort"


def test_a_full_pipe_costs_lines_and_no_time() -> None:
    reader, writer = os.pipe()
    code = (
        "from keeper.logs import Log\n"
        "import sys\n"
        "log = Log()\n"
        "for n in range(5000): log.write(b'x' * 100)\n"
        "print(log.lost, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=True
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = pipe.read().split(b"\n")
    assert int(ended.stderr) > 0
    assert set(lines[:-1]) == {b"x" * 100}


def test_once_there_is_room_again_the_log_says_how_many_lines_it_lost() -> None:
    code = (
        "from keeper.logs import Log\n"
        "import sys\n"
        "log = Log()\n"
        "for n in range(5000): log.write(b'x' * 100)\n"
        "print(log.lost, file=sys.stderr, flush=True)\n"
        "sys.stdin.readline()\n"
        "log.write(b'room')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        lost = int(process.stderr.readline())
        os.read(process.stdout.fileno(), 1 << 20)
        rest, _ = process.communicate(b"\n", timeout=30)
    assert json.loads(rest.splitlines()[-1])["text"].startswith(f"{lost} lines were lost here")
