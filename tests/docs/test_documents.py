"""Documents: what they name exists, and the commands that they show work as they are written."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.platforms.local import LocalPlatform

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_test_that_is_named_exists(document: Path) -> None:
    for file, test in TEST.findall(document.read_text()):
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


def shown(document: str, word: str) -> str:
    """Return the one block of shell commands in `document` that holds `word`."""
    (block,) = (b for b in SHELL.findall((ROOT / document).read_text()) if word in b)
    return str(block)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(tmp_path_factory.mktemp("platform"))
    try:
        platform.start()
        yield platform
    finally:
        platform.close()


def run(platform: LocalPlatform, script: str) -> str:
    """Run `script` in the checkout as a user whose platform this is; it must succeed."""
    if "curl" in script and shutil.which("curl") is None:
        pytest.skip("the README calls functions with curl, which is not installed here")
    environ = platform.environ | {
        "PATH": f"{Path(sys.executable).parent}:{platform.environ['PATH']}",
    }
    script = script.replace("http://127.0.0.1:8080", platform.http)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def lines_of(block: str) -> Iterator[str]:
    """Yield the commands of `block` without comments."""
    for line in block.splitlines():
        command = line.partition("  #")[0].strip()
        if command and not command.startswith("#"):
            yield command


def test_the_first_steps_of_the_readme_give_the_answer_that_it_shows(
    platform: LocalPlatform,
) -> None:
    block = shown("README.md", "wasmfn up")
    commands = [command for command in lines_of(block) if command != "wasmfn up"]
    answer = run(platform, "\n".join(commands)).splitlines()[-1]
    promised = re.search(r"^# (\{.*\})$", block, re.MULTILINE)
    assert promised is not None
    assert answer == promised[1]


def test_the_everyday_commands_of_the_readme_work(platform: LocalPlatform) -> None:
    run(platform, "wasmfn deploy examples/sort/sort.wasm")
    for command in lines_of(shown("README.md", "wasmfn doctor")):
        if command.startswith("wasmfn dev"):
            continue  # it watches a file for as long as it is not interrupted
        run(platform, command.removesuffix(" -f"))


def test_upstreams_commands_work_as_the_readme_shows_them(platform: LocalPlatform) -> None:
    for kind in ("route", "fn"):
        run(platform, f"wasmfn {kind} delete sort || true")
    script = shown("README.md", "wasmfn fn create").replace("sort.wasm", "examples/sort/sort.wasm")
    run(platform, script)
    answer = run(platform, f'curl -sf -d \'{{"args": ["2", "1"]}}\' {platform.http}/sort')
    assert answer == '{"status":0,"output":["1 2"],"exit_code":0,"stderr":""}'


def test_what_the_document_on_asynchronous_calls_shows_works(platform: LocalPlatform) -> None:
    text = (ROOT / "docs/asynchronous.md").read_text()
    for block in SHELL.findall(text):
        for command in lines_of(block):
            said = run(platform, command)
            if command.startswith("curl"):
                assert said.startswith("HTTP/1.1 202"), said


def test_what_the_document_on_access_shows_works(platform: LocalPlatform) -> None:
    said = run(platform, shown("docs/access.md", "route grant"))
    assert '"output":["1 2 3"]' in said
