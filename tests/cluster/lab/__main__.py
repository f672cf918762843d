"""The lab by hand: `python -m tests.cluster.lab up cluster`, from the root of the checkout."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.lab import (
    containerd,
    images,
    install,
    kubernetes,
    machine,
    node,
    paths,
    process,
    supplies,
    tiers,
    turns,
)
from tests.cluster.lab.commands import UnfitError


def main() -> None:
    """Do what the command line says; status 69 (EX_UNAVAILABLE): there can be no lab here."""
    arguments = _parser().parse_args()
    reason = machine.unfit()
    if not reason:
        try:
            arguments.do(arguments)
        except UnfitError as error:
            reason = str(error)
    if reason:
        sys.stderr.write(f"no lab: {reason}\n")
        sys.exit(os.EX_UNAVAILABLE)


def _prepare(arguments: argparse.Namespace) -> None:
    if arguments.tier == "cluster":
        _timed("prepared", tiers.prepare_cluster)
    else:
        _timed("prepared", tiers.prepare_containerd)


def _up(arguments: argparse.Namespace) -> None:
    _prepare(arguments)
    up = tiers.cluster_up if arguments.tier == "cluster" else tiers.containerd_up
    _timed(f"{arguments.tier} up", up)
    turns.keep()


def _down(_: argparse.Namespace) -> None:
    _timed("down", tiers.down)


def _status(_: argparse.Namespace) -> None:
    if not node.running():
        sys.exit("down")
    for file in sorted(paths.PIDS.iterdir()):
        ended = f"ended, see {paths.LOGS / file.name}"
        _say(f"{file.name:28}{'running' if process.load(file.name) else ended}")
    _say(f"{'containerd, from outside':28}{containerd.SOCKET_FROM_OUTSIDE}")
    _say(f"{'kubeconfig':28}{kubernetes.ADMIN}")
    _say(f"{'state and logs':28}{paths.STATE}")


def _exec(arguments: argparse.Namespace) -> None:
    words = arguments.command
    _become(*(words[1:] if words[:1] == ["--"] else words))


def _kubectl(arguments: argparse.Namespace) -> None:
    _become(install.KUBECTL, *arguments.command)


def _become(*command: str | Path) -> None:
    path = f"{install.KUBECTL.parent}:{containerd.PROGRAMS}:{os.environ['PATH']}"
    env = {**os.environ, "KUBECONFIG": str(kubernetes.ADMIN), "PATH": path}
    sys.exit(subprocess.run(node.inside(*command), env=env, check=False).returncode)


def _project_images(_: argparse.Namespace) -> None:
    _timed("base image and wheels", supplies.make)
    for name in supplies.push_project():
        _say(name)


def _image(arguments: argparse.Namespace) -> None:
    images.build(
        arguments.context,
        arguments.tag,
        arguments.dockerfile,
        target=arguments.target,
        arguments=dict(pair.split("=", 1) for pair in arguments.build_arg),
    )
    _say(images.push(arguments.tag))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.lab", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(
        name: str, what: Callable[[argparse.Namespace], None], says: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=says, description=says)
        added.set_defaults(do=what)
        return added

    prepare = command("prepare", _prepare, "make what a tier takes, as far as it is missing")
    up = command("up", _up, "prepare a tier and start it afresh")
    for tier in (prepare, up):
        tier.add_argument("tier", choices=["containerd", "cluster"])
    command("down", _down, "end it and remove its state; the cache stays")
    command("status", _status, "say what runs, and where")
    for name, what, says in (
        ("exec", _exec, "run a command on the node"),
        ("kubectl", _kubectl, "run kubectl as the administrator"),
    ):
        command(name, what, says).add_argument("command", nargs=argparse.REMAINDER)
    command("project", _project_images, "build the project's images and push them to the registry")
    image = command("image", _image, "build an image and push it to the lab's registry")
    image.add_argument("context", type=Path)
    image.add_argument("tag", help="such as wasmfn/services:0.1.0")
    image.add_argument("--dockerfile", type=Path)
    image.add_argument("--target", default="")
    image.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    return parser


def _timed(what: str, do: Callable[[], None]) -> None:
    began = time.monotonic()
    do()
    _say(f"{what}: {time.monotonic() - began:.1f} s")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
