"""Which programs make up a local platform, and what each is told. Pure.

Each service gets its settings as `WASMFN_<SERVICE>_<NAME>` and next to nothing
of the user's environment. Secrets are named as files.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from wasmfn.keys import key_pair
from wasmfn.natsserver import config_file
from wasmfn.paths import Layout
from wasmfn.supervision import Program

NODE: Final = "local"
NATS: Final = "nats"
STOP_ORDER: Final = (("router",), ("scheduler",), ("builder", "podwatch"))
"""Services in the order in which nothing in flight is cut: first whoever takes
requests, then whoever starts and stops instances, then whoever serves those two."""

_ROUTER_GRACE_S: Final = 10.0
_GRACE_S: Final = 3.0
_MARGIN_S: Final = 4.0
"""What a service needs to end once its own grace is over."""
_OTHERS_NATS_S: Final = 3.0
_PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONUSERBASE")
_PASSED_TO: Final[Mapping[str, tuple[str, ...]]] = {
    # For the registries that images are pulled from.
    "builder": (
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG",
    ),
    "router": ("WASMFN_ROUTER_DEAD_LETTER_S",),
}  # fmt: skip


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a platform is and how it is reached."""

    layout: Layout
    http: str
    """HOST:PORT of the router."""
    http_fd: int
    """Its listener. We hold it too, so that clients wait while the router is started again."""
    nats_url: str
    nats_server: Path | None
    """The program, if the stack runs it."""
    token_file: Path | None
    nats_health: str = ""
    """URL that tells whether our own NATS can store."""


def nats_program(place: Place, environ: Mapping[str, str]) -> Program:
    """Return the local nats-server."""
    return Program(
        name=NATS,
        command=(str(place.nats_server), "-c", str(config_file(place.layout))),
        environment=_environment(environ),
        log=place.layout.logs / "nats.log",
        grace_s=_GRACE_S + _MARGIN_S,
    )


def service_programs(place: Place, notify: str, environ: Mapping[str, str]) -> list[Program]:
    """Return the four services. `notify` is where they say that they are ready."""
    layout = place.layout
    control, artifact = key_pair(layout, "control"), key_pair(layout, "artifact")
    settings: dict[str, dict[str, object]] = {
        "router": {"http": place.http, "http_fd": place.http_fd, "grace_s": _ROUTER_GRACE_S},
        "builder": {
            "grace_s": _GRACE_S,
            "signing_key_file": artifact.private,
            "image_dir": layout.oci,
            "work_dir": layout.work,
        },
        "scheduler": {
            "grace_s": _GRACE_S,
            "control_key_file": control.private,
            "control_public_key_file": control.public,
            "artifact_public_key_file": artifact.public,
            "secrets_dir": layout.secrets,
            "cache_dir": layout.cache,
            "pods_dir": layout.pods,
        },
        "podwatch": {
            "grace_s": _GRACE_S,
            "node": NODE,
            "pods_dir": layout.pods,
            "state_dir": layout.podwatch,
        },
    }
    return [
        Program(
            name=name,
            command=(sys.executable, "-P", "-m", f"services.{name}"),
            environment=_environment(environ, _PASSED_TO.get(name, ()))
            | _variables(name, _connection(place) | given)
            | {"NOTIFY_SOCKET": notify},
            log=layout.logs / f"{name}.log",
            grace_s=float(str(given["grace_s"])) + _MARGIN_S,
            inherited=(place.http_fd,) if name == "router" else (),
        )
        for name, given in settings.items()
    ]


def _connection(place: Place) -> dict[str, object]:
    return {
        "nats_url": place.nats_url,
        **({"nats_token_file": place.token_file} if place.token_file else {}),
        # A server of somebody else is there or not; ours is on its way.
        **({} if place.nats_server else {"nats_wait_s": _OTHERS_NATS_S}),
    }


def _variables(service: str, settings: Mapping[str, object]) -> dict[str, str]:
    return {
        f"WASMFN_{service}_{name}".upper(): str(value) for name, value in sorted(settings.items())
    }


def _environment(environ: Mapping[str, str], more: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what a program is given of our own environment, which may hold secrets."""
    return {
        "LANG": "C.UTF-8",
        **{name: environ[name] for name in (*_PASSED_ON, *more) if name in environ},
    }
