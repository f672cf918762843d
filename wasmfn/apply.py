"""YAML documents become specs, and specs become a plan: what would change, and how.

Pure: the caller reads the files and the platform. A document looks like this;
its spec's fields may also stand below `spec:`.

    kind: function
    name: sort
    namespace: default          # optional
    module: {file: sort.wasm}   # relative to this file; uploaded by `apply`
    limits: {timeout_s: 10}

A document that could mean two things, or holds a field that nothing reads, is
refused as a whole: nothing is published unless every document is understood.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Final, Literal

import msgspec
import yaml

from schemas.specs import KINDS, AnySpec, EnvironmentSpec, FunctionSpec, Module
from wasmfn.errors import RejectedError
from wasmfn.objects import Key, name_problem, plain_spec
from wasmfn.violations import violation

ORDER: Final = ("environment", "function", "route", "timer", "subscription")
"""Used things before their users, so that applying in this order never waits for a reference."""

_FRAGILE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")

Action = Literal["create", "update", "unchanged", "delete"]


class DocumentError(RejectedError):
    """A document cannot be taken. Names the file, the document and the field."""

    def __init__(self, file: str, number: int, path: str, problem: str) -> None:
        """Keep the parts: `number` counts documents from 1 (0: the file), `path` may be empty."""
        self.file, self.number, self.path, self.problem = file, number, path, problem
        where = file + (f", document {number}" if number else "") + (f", at {path}" if path else "")
        super().__init__(f"{where}: {problem}")


class Document(msgspec.Struct, frozen=True):
    """One YAML document, and where it came from."""

    file: str
    number: int
    value: dict[str, Any]

    def error(self, path: str, problem: str) -> DocumentError:
        """Return the error that says what is wrong at `path` of this document."""
        return DocumentError(self.file, self.number, path, problem)


class Change(msgspec.Struct, frozen=True):
    """One step of a plan. `before` or `after` is None where the object is not."""

    action: Action
    key: Key
    before: AnySpec | None
    after: AnySpec | None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error, as YAML itself says."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, except that text which only double quotes keep whole gets them."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Quote what holds a control character or a line break of Unicode."""
        style = '"' if _FRAGILE.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def read_documents(text: str, file: str) -> list[Document]:
    """Return the documents in `text`, empty ones left out.

    Raises:
        DocumentError: it is not YAML, or a document is no mapping.
    """
    documents = []
    try:
        for number, value in enumerate(yaml.load_all(text, _Loader), 1):
            if value is None:
                continue
            if not isinstance(value, dict):
                raise DocumentError(
                    file, number, "", "a document is a mapping with `kind` and `name`"
                )
            documents.append(Document(file, number, value))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DocumentError(file, 0, line, f"this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise DocumentError(
            file, 0, "", f"this is not YAML: {' '.join(str(error).split())}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(file, 0, "", f"this YAML cannot be read: {error}") from error
    return documents


def module_file(document: Document) -> PurePath | None:
    """Return the file that `module: {file: …}` names, seen from where the document's file is."""
    module = _fields(document).get("module")
    if not isinstance(module, dict) or "file" not in module:
        return None
    named = module["file"]
    if not isinstance(named, str) or not named:
        raise document.error("module.file", "the name of a file is a text")
    return PurePath(document.file).parent / named


def desired(
    documents: Iterable[Document], namespace: str, modules: Mapping[PurePath, Module]
) -> dict[Key, AnySpec]:
    """Return the spec that each document asks for, in the order in which to publish them.

    Args:
        documents: from any number of files, in any order.
        namespace: for documents that name none.
        modules: for each path that `module_file` returned.

    Raises:
        DocumentError: a field is unknown, missing or wrong, or two documents are one object.
    """
    specs: dict[Key, AnySpec] = {}
    origin: dict[Key, Document] = {}
    for document in documents:
        key = _key(document, namespace)
        if key in origin:
            first = origin[key]
            raise document.error(
                "name", f"{key} is given already by {first.file}, document {first.number}"
            )
        origin[key] = document
        specs[key] = _spec(document, key.kind, modules)
    return dict(sorted(specs.items(), key=lambda item: (ORDER.index(item[0].kind), item[0])))


def plan(
    wanted: Mapping[Key, AnySpec], present: Mapping[Key, AnySpec | None], *, prune: bool = False
) -> list[Change]:
    """Return the changes that make `present` what is `wanted`, in the order to make them.

    Args:
        wanted: from `desired`.
        present: what the platform has; None for a spec that cannot be read.
        prune: delete what is present in a namespace of `wanted` and not wanted.
    """
    changes = []
    for key, after in wanted.items():
        before = present.get(key)
        if key not in present:
            changes.append(Change("create", key, None, after))
        else:
            changes.append(Change("unchanged" if before == after else "update", key, before, after))
    if prune:
        namespaces = {key.namespace for key in wanted}
        surplus = [key for key in present if key.namespace in namespaces and key not in wanted]
        # Users go before what they use.
        surplus.sort(key=lambda key: (-ORDER.index(key.kind), key))
        changes += [Change("delete", key, present[key], None) for key in surplus]
    return changes


def to_yaml(specs: Mapping[Key, AnySpec], files: Mapping[str, PurePath] | None = None) -> str:
    """Return `specs` as documents that `desired` reads back to the same specs.

    Args:
        specs: by object.
        files: where the module of a digest was written, to be named instead of the digest.
    """
    ordered = sorted(specs, key=lambda key: (ORDER.index(key.kind), key))
    return "".join("---\n" + document_text(key, specs[key], files or {}) for key in ordered)


def document_text(key: Key, spec: AnySpec, files: Mapping[str, PurePath] | None = None) -> str:
    """Return one object as a YAML document, without fields that have their default."""
    value = {"kind": key.kind, "name": key.name, "namespace": key.namespace, **plain_spec(spec)}
    module = spec.module if isinstance(spec, (FunctionSpec, EnvironmentSpec)) else None
    if module is not None and files and module.sha256 in files:
        value["module"] = {"file": str(files[module.sha256]), "file_name": module.file_name}
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def difference(change: Change) -> list[str]:
    """Return the lines of a unified diff of `change`, without the two header lines."""
    before, after = (
        [] if spec is None else document_text(change.key, spec).splitlines()
        for spec in (change.before, change.after)
    )
    return list(difflib.unified_diff(before, after, lineterm=""))[2:]


def _fields(document: Document) -> dict[str, Any]:
    """Return the fields of the spec, wherever they stand."""
    value = document.value
    if "spec" not in value:
        return {k: v for k, v in value.items() if k not in ("kind", "name", "namespace")}
    beside = [str(k) for k in value if k not in ("kind", "name", "namespace", "spec")]
    if beside:
        raise document.error(beside[0], "fields stand below `spec:` or beside `name:`, not both")
    fields = value["spec"]
    if not isinstance(fields, dict):
        raise document.error("spec", "a spec is a mapping")
    return fields


def _key(document: Document, namespace: str) -> Key:
    kind = document.value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        said = "a document needs a `kind`" if kind is None else f"there is no kind {kind!r}"
        raise document.error("kind", f"{said}; the kinds are {', '.join(KINDS)}")
    name, space = document.value.get("name"), document.value.get("namespace", namespace)
    if name is None:
        raise document.error("name", f"a {kind} needs a `name`")
    for field, text in (("name", name), ("namespace", space)):
        if problem := name_problem(text):
            raise document.error(field, problem)
    return Key(kind, space, name)


def _spec(document: Document, kind: str, modules: Mapping[PurePath, Module]) -> AnySpec:
    fields = dict(_fields(document))
    path = module_file(document)
    if path is not None:
        fields["module"] = _named_module(document, fields["module"], modules[path])
    try:
        return msgspec.convert(fields, KINDS[kind])
    except msgspec.ValidationError as error:
        raise document.error(*violation(error, KINDS[kind])) from error


def _named_module(document: Document, given: dict[str, Any], module: Module) -> dict[str, Any]:
    """Return the module of a file, under the name it is given or its own."""
    for field in given:
        if field not in ("file", "file_name"):
            raise document.error(f"module.{field}", "beside `file` only `file_name` may be given")
    return {"sha256": module.sha256, "file_name": given.get("file_name", module.file_name)}
