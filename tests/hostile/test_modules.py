"""Each module of the corpus gets the answer it is promised, and its neighbours notice nothing."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.builds import Artifact
from schemas.control import INSTANCE_HEADER, LoadRequest
from schemas.names import new_instance_id, new_token, sha256_hex
from schemas.signing import artifact_text
from schemas.specs import Limits
from services.builder.compile import CompileLimits, compile_module
from services.builder.errors import Rejected
from services.builder.inspect import inspect
from tests.hostile.corpus import ANSWERED, REFUSED, STUCK, Hostile
from tests.keeper.conftest import Keeper, Loaded

MIB = 1 << 20
COMPILING = CompileLimits(wall_s=60.0, cpu_s=3, memory_mib=512)
LIMITS = Limits(timeout_s=0.5, memory_mib=64, output_bytes=MIB)


def built(module: bytes, work: Path) -> bytes:
    """Return `module` precompiled, as the builder does it. Raises Rejected."""
    inspect(module, max_bytes=16 * MIB, max_memory_bytes=128 * MIB)
    return asyncio.run(compile_module(module, work, COMPILING)).code


@pytest.fixture(scope="module")
def neighbour(keeper: Keeper) -> Loaded:
    return keeper.load("sort")


@pytest.fixture(scope="module")
def load(keeper: Keeper, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Hostile], Loaded]:
    """Build a module of the corpus and load it beside the neighbour."""

    def load(hostile: Hostile) -> Loaded:
        code = built(hostile.module, tmp_path_factory.mktemp("work"))
        digest, engine = sha256_hex(hostile.module), keeper.compiler.engine_hash
        signature = keeper.keys.artifact.sign(artifact_text(digest, engine, sha256_hex(code)))
        request = LoadRequest(
            instance=new_instance_id(), namespace="default", function="hostile", revision=1,
            token=new_token(), file_name="hostile.wasm", interface="args", arguments=(),
            variables={}, limits=LIMITS, concurrency=16,
            artifact=Artifact(digest, engine, len(code), sha256_hex(code), signature.hex()),
        )  # fmt: skip
        return keeper.load_request(request, code)

    return load


@pytest.mark.parametrize("hostile", REFUSED, ids=lambda hostile: hostile.name)
def test_the_builder_refuses_in_words(hostile: Hostile, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        built(hostile.module, tmp_path)
    said = str(caught.value)
    assert hostile.says is not None
    assert hostile.says in said
    assert 10 < len(said) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hostile", ANSWERED, ids=lambda hostile: hostile.name)
def test_a_module_is_answered_twice_alike_and_its_neighbour_is_served(
    hostile: Hostile, load: Callable[[Hostile], Loaded], neighbour: Loaded, keeper: Keeper
) -> None:
    loaded = load(hostile)
    for _ in range(2):
        status, answer, _ = loaded.call(hostile.body)
        told = json.loads(answer)
        assert status == hostile.status
        if hostile.says is None:
            assert (told["status"], told.get("error")) == (0, None)
        else:
            assert told["status"] == 1
            assert hostile.says in told["error"]
        assert neighbour.run("3", "1", "2")["output"] == ["1 2 3"]
    keeper.unload(loaded.instance, "kill")


@pytest.mark.parametrize("hostile", STUCK, ids=lambda hostile: hostile.name)
def test_who_is_stuck_loses_its_process_and_its_neighbour_is_served(
    hostile: Hostile, load: Callable[[Hostile], Loaded], neighbour: Loaded, keeper: Keeper
) -> None:
    loaded = load(hostile)
    assert hostile.says is not None
    with contextlib.closing(keeper.watch()) as watch, contextlib.closing(loaded.connect()) as own:
        own.request("POST", "/", b"", {INSTANCE_HEADER: loaded.token})
        assert neighbour.run("3", "1", "2")["output"] == ["1 2 3"]
        gone = watch.until(lambda it: it.instance == loaded.instance and it.state == "gone")
        assert hostile.says in gone.reason
        assert neighbour.run("3", "1", "2")["output"] == ["1 2 3"]


def test_no_two_attacks_have_one_name() -> None:
    names = [hostile.name for hostile in (*REFUSED, *ANSWERED, *STUCK)]
    assert len(set(names)) == len(names)
    assert len(names) >= 24
