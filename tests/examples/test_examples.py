"""Every example does what its first comment says, in plain wasmtime: the oracle for the keeper."""

import shutil
import subprocess
from pathlib import Path, PurePath

import pytest

from schemas.names import sha256_hex
from schemas.specs import Module
from tests.examples.plain import EXAMPLES, Ran
from wasmfn.apply import desired, module_file, read_documents


@pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")),
    reason="rebuilding needs clang, lld and wasi-libc for wasm32 (see examples/build.sh)",
)
def test_the_committed_modules_are_what_their_sources_compile_to():
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True)
    if "version 14." not in version.stdout or not Path("/usr/include/wasm32-wasi").is_dir():
        pytest.skip("the bytes are pinned for Debian 12's clang 14 and wasi-libc")
    check = subprocess.run(
        [EXAMPLES / "build.sh", "--check"], check=False, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("sort", ["1111", "2345", "8"], Ran(0, b"8 1111 2345\n", b"")),
        ("sort", ["-5", "9223372036854775807"], Ran(0, b"-5 9223372036854775807\n", b"")),
        ("sort", [], Ran(0, b"", b"")),
        ("sort", ["3", "x"], Ran(2, b"", b"sort: not an integer: x\n")),
        ("hello", [], Ran(0, b"hello, world\n", b"")),
        ("hello", ["you"], Ran(0, b"hello, you\n", b"")),
        ("burn", ["1000"], Ran(0, b"3787248228\n", b"")),
        ("hog", ["10"], Ran(0, b"10 MiB\n", b"")),
        ("spin", [], Ran("OUT_OF_FUEL", b"", b"")),
        ("trap", [], Ran("UNREACHABLE", b"before the trap\n", b"")),
        ("exit3", [], Ran(3, b"partial output\n", b"exit3: giving up\n")),
        ("badutf8", [], Ran(0, b"ok \x80 \xc3( \xed\xa0\x80 \xff\n", b"")),
        ("sleepy", ["0.01"], Ran(0, b"slept 0.01 s\n", b"")),
        ("stderr", ["a"], Ran(0, b"to stdout\nout: a\n", b"to stderr\nerr: a\n")),
    ],
)
def test_an_example_answers_as_it_says(run, name, arguments, expected):
    assert run(name, *arguments) == expected


def test_hog_gets_no_more_memory_than_its_sandbox_has(run):
    result = run("hog", memory_mib=32)
    assert result.status == 0
    assert 20 < int(result.stdout.split()[0]) < 32


def test_echo_copies_stdin_of_any_size(run):
    body = bytes(range(256)) * 1000
    assert run("echo", stdin=body).stdout == body


def test_flood_prints_exactly_as_much_as_asked(run):
    assert len(run("flood").stdout) == 10 << 20
    assert run("flood", "130").stdout == (b"." * 63 + b"\n") * 2 + b".."


def test_env_prints_the_environment_sorted_and_nothing_of_the_hosts(run):
    assert run("env", environment={"B": "2", "A": "1 "}).stdout == b"A=1 \nB=2\n"
    assert run("env").stdout == b""


def test_page_answers_with_headers_and_escapes_what_the_client_sent(run):
    result = run(
        "page",
        environment={"REQUEST_METHOD": "POST", "QUERY_STRING": "<b>", "CONTENT_LENGTH": "5"},
        stdin=b"12345",
    )
    head, _, body = result.stdout.partition(b"\n\n")
    assert head.split(b"\n")[:2] == [b"Status: 200 OK", b"Content-Type: text/html; charset=utf-8"]
    assert b"&lt;b&gt;" in body
    assert b"<b>" not in body
    assert b"The body had 5 bytes." in body


def test_cpython_runs_a_script_of_the_request_without_any_file_of_the_host(run, cpython):
    code = "import json, sys; print(json.dumps(sys.argv))"
    assert run(cpython, "-c", code, "a").stdout == b'["-c", "a"]\n'
    assert run(cpython, stdin=b"print(6 * 7)").stdout == b"42\n"


def test_quickjs_runs_a_script_of_the_request(run, quickjs):
    assert run(quickjs, "-e", "console.log([3, 1, 2].sort().join())").stdout == b"1,2,3\n"
    script = "console.log(JSON.parse(std.in.readAsString()).a)"
    assert run(quickjs, "--std", "-e", script, stdin=b'{"a": 7}').stdout == b"7\n"


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("*/function.yaml")), ids=lambda f: f.parent.name
)
def test_an_examples_function_yaml_is_a_function_and_its_route(file: Path):
    documents = read_documents(file.read_text(), str(file))
    modules = {
        PurePath(path): Module(sha256_hex(Path(path).read_bytes()), path.name)
        for path in map(module_file, documents)
        if path is not None
    }
    kinds = [key.kind for key in desired(documents, "default", modules)]
    assert kinds == ["function", "route"]
