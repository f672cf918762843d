import sys
from pathlib import Path

import pytest

from schemas.settings import read_settings
from services.builder.settings import BuilderSettings
from services.podwatch.settings import PodwatchSettings
from services.router.settings import RouterSettings
from services.scheduler.settings import SchedulerSettings
from wasmfn.paths import Layout
from wasmfn.programs import STOP_ORDER, Place, nats_program, service_programs
from wasmfn.supervision import Program

LAYOUT = Layout(Path("/data"))
PLACE = Place(
    layout=LAYOUT,
    http="127.0.0.1:8080",
    http_fd=7,
    nats_url="nats://127.0.0.1:4222",
    nats_server=Path("/bin/nats-server"),
    token_file=LAYOUT.token,
)
ENVIRON = {"PATH": "/bin", "HOME": "/home/u", "AWS_SECRET_ACCESS_KEY": "s", "HTTPS_PROXY": "p"}


def programs() -> dict[str, Program]:
    return {program.name: program for program in service_programs(PLACE, "@n", ENVIRON)}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("router", RouterSettings),
        ("builder", BuilderSettings),
        ("scheduler", SchedulerSettings),
        ("podwatch", PodwatchSettings),
    ],
)
def test_every_service_understands_what_it_is_told(name, settings):
    read = read_settings(settings, f"WASMFN_{name.upper()}_", programs()[name].environment)
    assert (read.nats_url, read.nats_token_file) == (PLACE.nats_url, "/data/keys/nats.token")


def test_nobody_is_given_the_users_environment():
    for program in [*programs().values(), nats_program(PLACE, ENVIRON)]:
        assert "AWS_SECRET_ACCESS_KEY" not in program.environment
        assert ("HTTPS_PROXY" in program.environment) == (program.name == "builder")


def test_the_router_alone_is_told_how_long_dead_letters_are_kept():
    environ = ENVIRON | {"WASMFN_ROUTER_DEAD_LETTER_S": "3600", "WASMFN_ROUTER_GRACE_S": "99"}
    for program in service_programs(PLACE, "@n", environ):
        told = program.environment.get("WASMFN_ROUTER_DEAD_LETTER_S")
        assert told == ("3600" if program.name == "router" else None)
        assert program.environment.get("WASMFN_ROUTER_GRACE_S") != "99"


def test_only_those_who_sign_are_given_a_private_key():
    private = {
        name: {v for v in program.environment.values() if v.endswith(".key")}
        for name, program in programs().items()
    }
    assert private == {
        "router": set(),
        "builder": {"/data/keys/artifact.key"},
        "scheduler": {"/data/keys/control.key"},
        "podwatch": set(),
    }


def test_a_folder_of_the_same_name_shadows_no_service():
    for program in programs().values():
        assert program.command[:3] == (sys.executable, "-P", "-m")


def test_every_service_has_its_turn_to_stop_and_the_router_is_first():
    assert sorted(sum(STOP_ORDER, ())) == sorted(programs())
    assert STOP_ORDER[0] == ("router",)


def test_a_program_is_given_longer_to_stop_than_it_gives_its_work():
    for name, program in programs().items():
        own = float(program.environment[f"WASMFN_{name.upper()}_GRACE_S"])
        assert own < program.grace_s
