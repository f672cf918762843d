"""Subjects given to applications at an installation: NATS and the scheduler are told the same."""

import sys
from pathlib import Path

import pytest

from schemas.settings import read_settings
from services.bus.applications import IN_A_CLUSTER, Applications
from services.scheduler.settings import SchedulerSettings
from wasmfn import cluster, clusterapplications, natsusers
from wasmfn.cluster import Kubectl, Object, render
from wasmfn.errors import RejectedError

KUBECTL = Kubectl((str(Path(sys.executable).parent / "kubectl"),))
SHOP = Applications(("app.>", "shop.*"), {"ORDERS": ("shop.orders",), "KEPT": ("app.a", "app.b")})


def configured(objects: list[Object]) -> tuple[str, str]:
    """Return the name and the users of the configuration that NATS is run with."""
    (nats,) = (o for o in objects if o["kind"] == "StatefulSet")
    volumes = nats["spec"]["template"]["spec"]["volumes"]
    name = next(v["configMap"]["name"] for v in volumes if v["name"] == "config")
    (found,) = (o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == name)
    return name, found["data"]["users.conf"]


def test_what_options_say_is_what_they_are_told_to_be() -> None:
    given = clusterapplications.parse(
        ["app.>", "shop.*"], ["ORDERS=shop.orders", "KEPT=app.a,app.b"]
    )
    assert given == SHOP
    assert clusterapplications.options(SHOP) == (
        "--subject 'app.>' --subject 'shop.*' --stream 'ORDERS=shop.orders'"
        " --stream 'KEPT=app.a,app.b'"
    )
    assert clusterapplications.parse([], ["KEPT=app.x"]).subjects == IN_A_CLUSTER.subjects


@pytest.mark.parametrize(
    ("subjects", "streams"),
    [
        (["wasmfn.>"], []),
        ([">"], []),
        ([], ["KEPT"]),
        ([], ["KEPT="]),
        ([], ["SPECS=app.x"]),
        ([], ["KEPT=shop.x"]),
    ],
)
def test_what_is_not_for_applications_is_refused(subjects: list[str], streams: list[str]) -> None:
    with pytest.raises(RejectedError, match="not for applications"):
        clusterapplications.parse(subjects, streams)


def test_the_manifests_give_applications_what_is_said_of_them() -> None:
    objects = render(KUBECTL, "k3s")
    assert clusterapplications.of_objects(objects) == IN_A_CLUSTER
    assert configured(objects)[1] == natsusers.configuration()


@pytest.mark.parametrize("overlay", cluster.overlays())
def test_an_overlay_with_others_tells_nats_and_the_scheduler_and_changes_nothing_else(
    overlay: str,
) -> None:
    plain = render(KUBECTL, overlay)
    objects = render(KUBECTL, overlay, "r:5000", SHOP)
    assert clusterapplications.of_objects(objects) == SHOP
    name, users = configured(objects)
    assert users == natsusers.configuration(SHOP)
    # By its name the servers notice that it is another one.
    assert name != configured(plain)[0]
    assert len(objects) == len(plain)


def test_the_scheduler_reads_them_as_they_are_written() -> None:
    (scheduler,) = (
        o for o in render(KUBECTL, "k3s", "", SHOP)
        if o["kind"] == "Deployment" and o["metadata"]["name"] == "scheduler"
    )  # fmt: skip
    (container,) = scheduler["spec"]["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = read_settings(SchedulerSettings, "WASMFN_SCHEDULER_", environ)
    assert settings.applications == SHOP


def test_a_scheduler_of_before_has_given_nothing() -> None:
    container = {"name": "scheduler", "env": []}
    scheduler = {
        "kind": "Deployment",
        "metadata": {"name": "scheduler"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    assert clusterapplications.of_objects([scheduler]) == Applications()
    assert clusterapplications.of_objects([]) is None
