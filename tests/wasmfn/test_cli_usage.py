"""The command line without a platform: help, usage, pipes, exit codes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wasmfn.cli.root import SECTIONS, root

WASMFN = Path(sys.executable).parent / "wasmfn"


def wasmfn(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WASMFN, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def leaves(
    command: click.Command = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that is no group, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    ctx = click.Context(command)
    for name in command.list_commands(ctx):
        found = command.get_command(ctx, name)
        assert found is not None
        yield from leaves(found, (*path, name))


LEAVES = list(leaves())
VERBS = {verb: entry for verbs in SECTIONS.values() for verb, entry in verbs.items()}


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_each_verb_explains_itself_with_an_example_that_begins_like_it(
    path: tuple[str, ...], command: click.Command
) -> None:
    text = command.get_help(click.Context(command, info_name=" ".join(("wasmfn", *path))))
    assert f"wasmfn {' '.join(path)}" in text.partition("Example")[2]
    assert command.help is not None
    assert command.help.splitlines()[0].endswith(".")
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, option.name


def test_no_option_of_an_update_names_a_default_which_it_would_not_set() -> None:
    helps = [
        option.help or ""
        for path, command in LEAVES
        for option in command.params
        if path[-1] == "update" and isinstance(option, click.Option)
    ]
    assert any("[default if new: 60s]" in text for text in helps)
    assert not any("[default: " in text for text in helps)


@pytest.mark.parametrize("verb", VERBS)
def test_the_table_of_verbs_says_what_the_verbs_say(verb: str) -> None:
    command = root.get_command(click.Context(root), verb)
    assert command is not None
    assert command.help is not None
    assert command.help.splitlines()[0] == VERBS[verb][1]


def test_help_imports_neither_the_bus_nor_rich() -> None:
    code = (
        "import sys, wasmfn.cli\n"
        "assert wasmfn.cli.main(['--help']) == 0\n"
        "heavy = {'nats', 'rich', 'yaml', 'asyncio', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_is_an_option_too() -> None:
    said = wasmfn("--version").stdout
    assert said == wasmfn("version").stdout.splitlines(keepends=True)[0]


def test_help_lists_every_verb_and_the_exit_codes() -> None:
    done = wasmfn("--help")
    assert done.returncode == 0
    assert "Exit codes:" in done.stdout
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["down"], 2, "Ctrl-C"),
        (["logs", "sort"], 2, "wasmfn fn logs NAME"),
        (["fn", "list", "-o", "xml"], 2, "'xml' is not one of"),
        (["fn", "get"], 2, "Missing argument 'NAME'"),
        (["fn", "get", "My_Fn"], 2, "'My_Fn' cannot be a name"),
        (["fn", "create", "sort"], 2, "say where its code is"),
        (["fn", "create", "sort", "--code", "/nonexistent.wasm"], 2, "does not exist"),
        (["env", "create", "e", "--image", "missing.wasm"], 2, "there is no such file"),
        (["deploy", "/etc/hostname", "--route", "sort"], 2, "'sort' is no route"),
        (["deploy", "/etc/hostname", "--route", "GRAB:/x"], 2, "'GRAB' is no method"),
        (["deploy", "/etc/hostname", "--timeout", "soon"], 2, "no span of time"),
        (["deploy", "/etc/hostname", "--memory", "much"], 2, "no size"),
        (["deploy", "/etc/hostname", "--secret", "A"], 2, "VARIABLE=secret/key"),
        (["route", "create", "--function", "f"], 2, "give --url or --prefix"),
        (["route", "create", "--function", "f", "--url", "x"], 2, "must begin with a slash"),
        (["invoke", "f", "--async", "--idempotency-key", "a\nb"], 2, "visible ASCII"),
        (["fn", "list"], 3, "start one with `wasmfn up`"),
        (["fn", "list", "--nats", "nats://127.0.0.1:1"], 3, "does not answer"),
        (["fn", "list", "--nats", "::::"], 3, "no address of a NATS server"),
        (["apply", "-f", "/nonexistent"], 1, "cannot use /nonexistent"),
        (["secret", "delete", "db"], 4, "there is no secret db"),
        (["fn", "delete", ""], 2, "Missing argument"),
    ],
)
def test_an_error_is_told_on_stderr_with_its_exit_code(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done = wasmfn(*arguments, HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    if code != 2:
        assert done.stderr.count("\n") == 1


def test_a_traceback_is_shown_only_when_asked_for(tmp_path: Path) -> None:
    bad = tmp_path / "state.toml"
    bad.write_bytes(b"\xff")
    token = {"WASMFN_NATS": "nats://127.0.0.1:1", "WASMFN_NATS_TOKEN_FILE": str(bad)}
    quiet = wasmfn("fn", "list", **token)
    assert quiet.returncode == 3
    assert "Traceback" not in quiet.stderr
    loud = wasmfn("fn", "list", **token, WASMFN_DEBUG="1")
    assert "Traceback" in loud.stderr


def test_a_full_disk_is_called_that() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [WASMFN, "version"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1
    assert b"the disk is full" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["completion", "bash"]])
def test_a_pipe_that_closes_early_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [WASMFN, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_completes_verbs(shell: str) -> None:
    script = wasmfn("completion", shell)
    assert "_WASMFN_COMPLETE" in script.stdout
    told = wasmfn(_WASMFN_COMPLETE="bash_complete", COMP_WORDS="wasmfn fn l", COMP_CWORD="2")
    assert {line.partition(",")[2] for line in told.stdout.splitlines()} == {"list", "logs"}


def test_secrets_are_kept_private_and_never_shown(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "WASMFN_DATA": str(tmp_path / "data")}
    made = subprocess.run(
        [WASMFN, "secret", "create", "db", "password"],
        input=b"hunter2\n",
        env={"PATH": os.environ["PATH"], **home},
        capture_output=True,
        check=True,
    )
    assert b"hunter2" not in made.stdout + made.stderr
    (file,) = tmp_path.rglob("db/password")
    assert file.read_bytes() == b"hunter2"
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(p.stat().st_mode & 0o077 == 0 for p in (file.parent, file.parent.parent))
    listed = wasmfn("secret", "list", "-o", "json", **home)
    assert '"password"' in listed.stdout
    assert "hunter2" not in listed.stdout
    assert wasmfn("secret", "delete", "db", "password", **home).returncode == 0
    assert not file.exists()


def test_a_pipe_that_gave_nothing_makes_no_secret(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "WASMFN_DATA": str(tmp_path / "data")}
    empty = wasmfn("secret", "create", "db", "password", "--from-file", "/dev/null", **home)
    assert empty.returncode == 5
    assert "the value of db/password is empty" in empty.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["../x", ".hidden", "a/b", ""])
def test_a_secrets_key_cannot_leave_its_folder(key: str, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "WASMFN_DATA": str(tmp_path / "data")}
    refused = wasmfn("secret", "create", "db", key, "--from-file", "/etc/hostname", **home)
    assert refused.returncode == 5
    assert not list(tmp_path.rglob("hostname"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
