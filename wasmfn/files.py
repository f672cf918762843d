"""Read the YAML documents of a file or folder, and the modules that they name."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from schemas.names import sha256_hex
from schemas.specs import Module
from wasmfn.apply import Document, DocumentError, module_file, read_documents
from wasmfn.routing import file_name_of

_SUFFIXES = (".yaml", ".yml")


def documents_in(paths: Sequence[str]) -> list[Document]:
    """Return the documents of every file, of every YAML file in a folder, or of stdin for `-`.

    Raises:
        DocumentError: a file is not what it should be.
    """
    documents: list[Document] = []
    for path in paths:
        if path == "-":
            documents += read_documents(sys.stdin.read(), "stdin")
            continue
        for file in _files(Path(path)):
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise DocumentError(str(file), 0, "", "this is not UTF-8 text") from error
            documents += read_documents(text, str(file))
    return documents


def modules_of(
    documents: Sequence[Document],
) -> tuple[Mapping[PurePath, Module], Mapping[str, bytes]]:
    """Return the module of each path that the documents name, and the bytes by digest.

    Raises:
        DocumentError: a module's file cannot be read.
    """
    modules: dict[PurePath, Module] = {}
    contents: dict[str, bytes] = {}
    for document in documents:
        path = module_file(document)
        if path is None or path in modules:
            continue
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise document.error("module.file", f"cannot read {path}: {error.strerror}") from error
        digest = sha256_hex(data)
        modules[path] = Module(sha256=digest, file_name=file_name_of(path))
        contents[digest] = data
    return modules, contents


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        raise DocumentError(str(path), 0, "", "there is no .yaml or .yml file in this folder")
    return files
