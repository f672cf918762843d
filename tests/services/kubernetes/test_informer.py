"""List and watch against a stand-in API server that forgets, breaks off and lies."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from kubernetes_asyncio.client import CoreV1Api

from services.kubernetes.api import ApiError, LoginError, login, watch, whole_list
from services.kubernetes.informer import Changed, Listed, Removed, follow
from services.kubernetes.objects import ListMetadata, WatchEvent
from tests.services.scheduler.stand_in_apiserver import (
    NAMESPACE,
    StandIn,
    break_off,
    half_a_list,
    pod_list,
    refuse,
    say,
)

News = AsyncGenerator[Listed[Any] | Changed[Any] | Removed[Any], None]


class PodList(msgspec.Struct):
    kind: Literal["PodList"]
    metadata: ListMetadata
    items: list[dict[str, Any]]


class Pods:
    """The pods of the stand-in."""

    kind = dict[str, Any]
    what = "pods"

    def __init__(self, call: Any) -> None:
        self._call = call

    async def list(self, **selectors: str) -> PodList:
        return await whole_list(self._call, PodList, NAMESPACE, **selectors)

    def watch(self, version: str, **selectors: str) -> AsyncGenerator[WatchEvent, None]:
        return watch(self._call, version, NAMESPACE, **selectors)


@pytest.fixture
async def server() -> AsyncIterator[StandIn]:
    server = StandIn()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def pods(server: StandIn, tmp_path: Path) -> AsyncIterator[Pods]:
    async with await login(server.write_kubeconfig(tmp_path / "config")) as client:
        yield Pods(CoreV1Api(client).list_namespaced_pod)


@pytest.fixture
async def news(pods: Pods) -> AsyncIterator[News]:
    async with contextlib.aclosing(follow(pods)) as news:
        yield news


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


async def told(news: News) -> tuple[str, list[str]]:
    """Return what comes next, by the names of the pods."""
    async with asyncio.timeout(20):
        match await anext(news):
            case Listed(objects):
                return "listed", sorted(one["metadata"]["name"] for one in objects)
            case Changed(one):
                return "changed", [one["metadata"]["name"]]
            case Removed(one):
                return "removed", [one["metadata"]["name"]]


async def test_what_is_there_comes_first_and_then_each_change(server: StandIn, news: News) -> None:
    await server.put(pod("a"))
    assert await told(news) == ("listed", ["a"])
    await server.put(pod("b"))
    assert await told(news) == ("changed", ["b"])
    await server.remove("a")
    assert await told(news) == ("removed", ["a"])


async def test_what_happened_while_a_watch_was_broken_is_in_the_next_list(
    server: StandIn, news: News
) -> None:
    await server.put(pod("a"))
    assert await told(news) == ("listed", ["a"])
    coming = asyncio.create_task(told(news))
    await server.watched()
    server.cut()
    await server.remove("a")
    await server.put(pod("b"))
    assert await coming == ("listed", ["b"])


async def test_a_forgotten_version_is_followed_by_a_list(server: StandIn, news: News) -> None:
    await server.put(pod("a"))
    assert await told(news) == ("listed", ["a"])
    await server.put(pod("b"))
    server.forget()
    assert await told(news) == ("listed", ["a", "b"])


@pytest.mark.parametrize(
    "answer",
    [
        refuse(500),
        refuse(403),
        break_off,
        half_a_list,
        say({"kind": "Status", "message": "no"}),
        say(pod_list([], 1, more="token")),
    ],
)
async def test_a_list_that_was_not_answered_whole_is_never_told(
    server: StandIn, news: News, answer: Any
) -> None:
    await server.put(pod("a"))
    server.answers = [answer, answer]
    assert await told(news) == ("listed", ["a"])
    assert server.lists == 3


async def test_selectors_hold_for_the_list_and_for_the_watch(server: StandIn, pods: Pods) -> None:
    await server.put(pod("a", role="keeper"))
    await server.put(pod("b"))
    async with contextlib.aclosing(follow(pods, label_selector="role=keeper")) as news:
        assert await told(news) == ("listed", ["a"])
        await server.put(pod("b"))
        await server.put(pod("c", role="keeper"))
        assert await told(news) == ("changed", ["c"])


async def test_a_refusal_keeps_its_status_and_the_servers_words(
    server: StandIn, pods: Pods
) -> None:
    server.answers = [refuse(403, "pods is forbidden")]
    with pytest.raises(ApiError, match="403: pods is forbidden") as refused:
        await pods.list()
    assert (refused.value.status, refused.value.passing) == (403, False)
    server.answers = [refuse(503)]
    with pytest.raises(ApiError) as refused:
        await pods.list()
    assert refused.value.passing


async def test_a_kubeconfig_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("{}")
    for path in (tmp_path / "config", tmp_path / "missing"):
        with pytest.raises(LoginError, match="cannot tell how to reach the API server"):
            await login(str(path))
