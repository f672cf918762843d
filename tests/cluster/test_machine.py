"""Machines on which there can be no lab are told so, in one sentence and by status 69."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab import machine

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).resolve().parents[2]


def refusal(*prefix: str, **environment: str) -> str:
    """Return what the lab says where it cannot be had."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.cluster.lab", "prepare", "containerd"],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("no lab: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(autouse=True)
def fit(_lab: None) -> None:
    """On a machine where there can be one."""
    assert not machine.unfit()


def test_it_can_be_switched_off() -> None:
    assert "WASMFN_LAB=off" in refusal(WASMFN_LAB="off")


def test_it_needs_the_right_to_make_namespaces() -> None:
    assert "namespaces" in refusal("setpriv", "--bounding-set=-sys_admin")


def test_it_needs_the_right_to_make_networks() -> None:
    assert "bridge" in refusal("setpriv", "--bounding-set=-net_admin")
