"""A builder that cannot start says why in one sentence, and starts nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    return {
        "NATS_URL": "nats://127.0.0.1:1",
        "NATS_WAIT_S": "0.1",
        "SIGNING_KEY_FILE": str(tmp_path / "key"),
        "IMAGE_DIR": str(tmp_path / "images"),
        "WORK_DIR": str(tmp_path / "work"),
    }


def complaint(settings: dict[str, str]) -> tuple[int, str]:
    """Run a builder that fails; return its exit code and the error it logs."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "services.builder"],
        env={**os.environ, **{f"WASMFN_BUILDER_{k}": v for k, v in settings.items()}},
        capture_output=True,
        check=False,
        timeout=30,
    )
    errors = [json.loads(line) for line in ended.stderr.splitlines() if b'"error"' in line]
    assert "traceback" not in errors[-1]
    return ended.returncode, errors[-1]["message"]


@pytest.mark.parametrize(
    ("name", "value", "code", "sentence"),
    [
        ("SIGNING_KEY_FILE", "/nowhere/key", 1, "cannot read the signing key /nowhere/key"),
        ("WORK_DIR", "/proc/work", 1, "cannot use the work directory /proc/work"),
        ("REGISTRY_CREDENTIALS_FILE", "/nowhere", 1, "cannot read /nowhere"),
        ("COMPILE", '{"cpu_s": "long"}', 2, "WASMFN_BUILDER_COMPILE"),
        ("NATS_WAIT_S", "0.1", 1, "nats://127.0.0.1:1"),
        ("IMAGE_BUILDER", "docker", 2, "WASMFN_BUILDER_IMAGE_BUILDER"),
        ("IMAGE_BUILDER", "kaniko", 1, "the destination `` of images must hold"),
        ("KANIKO_HOST_PATH", "relative", 2, "WASMFN_BUILDER_KANIKO_HOST_PATH"),
    ],
)
def test_what_keeps_it_from_starting_is_named(settings, name, value, code, sentence):
    exit_code, said = complaint(settings | {name: value})
    assert exit_code == code
    assert sentence in said
