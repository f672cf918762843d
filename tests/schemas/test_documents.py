"""The generated documents are current, valid, and say the same as the Structs."""

import json
from pathlib import Path

import jsonschema
import pytest

import schemas.__main__ as generator
from schemas.streams import STREAMS

FOLDER = Path(generator.__file__).parent


def test_the_committed_documents_are_what_the_structs_generate() -> None:
    assert {p: p.read_bytes() for p in generator.documents()} == generator.documents()


@pytest.mark.parametrize("kind", ["environment", "function", "route"])
def test_each_kind_has_a_valid_json_schema(kind: str) -> None:
    schema = json.loads((FOLDER / "json" / f"{kind}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_json_schema_takes_and_refuses_what_the_platform_does() -> None:
    schema = json.loads((FOLDER / "json" / "function.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"module": {"sha256": "a" * 64}})
    assert not validator.is_valid({"module": {"sha256": "a"}})
    assert not validator.is_valid({"environment": "e", "modul": 1})


def test_no_two_streams_claim_one_subject() -> None:
    heads = [stream.template.text.split(".")[1] for stream in STREAMS]
    assert len(heads) == len(set(heads))


def test_asyncapi_names_every_stream_and_resolves_its_references() -> None:
    document = json.loads((FOLDER / "asyncapi.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    assert {s.name.lower() for s in STREAMS} <= set(document["channels"])
    for reference in _references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _references(value)]
    return [r for item in node for r in _references(item)] if isinstance(node, list) else []
