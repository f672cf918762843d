"""A child Python finds what its parent found, without the parent's environment."""

import subprocess
import sys
import venv
from pathlib import Path

import services

SCRIPT = """
import subprocess, sys
import marker
from services.interpreter import package_variables
subprocess.run([sys.executable, "-P", "-c", "import marker"], env=package_variables(), check=True)
"""


def test_what_pip_installed_for_the_user_is_found_by_a_child(tmp_path: Path) -> None:
    # That of a virtual environment looks for no such packages.
    python = str(Path(sys.base_exec_prefix, "bin", "python3"))
    environ = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(services.__path__[0]).parent)}
    asked = subprocess.run(
        [python, "-m", "site", "--user-site"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,  # it fails as long as the folder is not there
    )
    packages = Path(asked.stdout.strip())
    assert packages.is_relative_to(tmp_path)
    packages.mkdir(parents=True)
    (packages / "marker.py").touch()
    subprocess.run([python, "-P", "-c", SCRIPT], env=environ, check=True)


def test_in_a_virtual_environment_a_child_gets_nothing_of_ours(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    environ = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(services.__path__[0]).parent)}
    code = "from services.interpreter import package_variables; print(package_variables())"
    asked = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "{}\n"
