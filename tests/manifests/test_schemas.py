"""Every object is what Kubernetes' own schemas say it is, in every version that is in use."""

import functools
import importlib.resources
import json
import re
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from tests.manifests.workloads import Object, build, overlays

SCHEMAS = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
"""Of each version, strict: a field that it does not know is an error."""

VERSIONS = sorted(
    (entry.name.removesuffix("-local-strict") for entry in SCHEMAS.iterdir()
     if entry.name.endswith("-local-strict")),
    key=lambda name: [int(part) for part in re.findall(r"\d+", name)],
)  # fmt: skip


class Schemas:
    """The schemas of one version of Kubernetes."""

    def __init__(self, version: str) -> None:
        self._directory = SCHEMAS / f"{version}-local-strict"
        definitions = Resource.from_contents(self._read("_definitions.json"))
        self._registry: Registry[Any] = definitions @ Registry()
        self._of = functools.cache(self._validator)

    def _read(self, name: str) -> Any:
        return json.loads((self._directory / name).read_text("utf-8"))

    def _validator(self, name: str) -> jsonschema.Draft202012Validator:
        schema = self._read(name)
        registry = Resource.from_contents(schema) @ self._registry
        return jsonschema.Draft202012Validator(schema, registry=registry)

    def check(self, o: Object) -> None:
        group, _, version = o["apiVersion"].rpartition("/")
        middle = group.partition(".")[0]
        name = "-".join(filter(None, (o["kind"].lower(), middle, version)))
        self._of(f"{name}.json").validate(o)


def everything() -> list[Object]:
    """Return each object of each overlay, once."""
    every = [o for overlay in overlays() for o in build(overlay)]
    return [json.loads(text) for text in {json.dumps(o, sort_keys=True) for o in every}]


def test_many_versions_are_checked_and_the_newest_is_recent() -> None:
    assert VERSIONS[0] == "v1.25.0"
    assert len(VERSIONS) >= 13


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_and_has_no_unknown_field(version: str) -> None:
    schemas = Schemas(version)
    for o in everything():
        schemas.check(o)


def test_a_misspelt_field_would_be_noticed() -> None:
    deployment = next(o for o in build("k3s") if o["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readynessProbe"):
        Schemas(VERSIONS[-1]).check(deployment)
