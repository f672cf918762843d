"""A stand-in for a Kubernetes API server: pods, list and watch, and every way to fail at them.

It speaks the same HTTP as the real one, which tests/cluster has the runtime meet, but
forgets, breaks off and lies when it is told to, which the real one does in its own time.
"""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

NAMESPACE = "wasmfn-functions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"

Object = dict[str, Any]
Answer = Callable[[web.Request], web.StreamResponse | None]


class StandIn:
    """One namespace of pods."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.accounts: dict[str, str] = {}
        """Uids of service accounts."""
        self.history: list[tuple[int, str, Object]] = []
        self.forgotten = 0
        """A watch from before this version is answered with 410."""
        self.lists = 0
        self.watches = 0
        self.deletes: list[Object] = []
        self.answers: list[Answer] = []
        """What the next lists are answered with; None lets one through."""
        self.applies: list[Answer] = []
        self.answering = asyncio.Event()
        """Unless it is set, lists are read and not sent."""
        self.answering.set()
        self.nodes_answer = True
        """Whether a pod that is told to end does."""
        self.port = 0
        self._version = itertools.count(1)
        self._latest = 0
        self._changed = asyncio.Condition()
        self._streams: set[web.StreamResponse] = set()
        self._uids = itertools.count(1)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(PODS, self._list)
        app.router.add_patch(PODS + "/{name}", self._apply)
        app.router.add_delete(PODS + "/{name}", self._delete)
        app.router.add_get(ACCOUNTS + "/{name}", self._account)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def write_kubeconfig(self, path: Path) -> str:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return str(path)

    # What happens in the cluster.

    async def put(self, pod: Object, what: str = "MODIFIED") -> None:
        async with self._changed:
            self._latest = next(self._version)
            pod["metadata"]["resourceVersion"] = str(self._latest)
            self.pods[pod["metadata"]["name"]] = pod
            self.history.append((self._latest, what, json.loads(json.dumps(pod))))
            self._changed.notify_all()

    async def remove(self, name: str) -> None:
        pod = self.pods[name]
        await self.put(pod, "DELETED")
        del self.pods[name]

    async def set_status(self, name: str, **status: Any) -> None:
        await self.put(self.pods[name] | {"status": status})

    async def tell_to_end(self, name: str) -> None:
        pod = self.pods[name]
        metadata = pod["metadata"] | {"deletionTimestamp": "2026-11-23T07:00:00Z"}
        await self.put(pod | {"metadata": metadata})

    async def watched(self, times: int = 1) -> None:
        """Return when the pods have been watched so many times."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.watches >= times)

    async def listed(self, times: int) -> None:
        """Return when the pods have been listed, or are being listed, so many times."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.lists >= times)

    def forget(self) -> None:
        """Have no watch from a version until now go on, as after a compaction."""
        self.forgotten = self._latest
        self.history.clear()

    def cut(self) -> None:
        """Break every connection that watches."""
        for stream in tuple(self._streams):
            if (transport := stream._req.transport if stream._req else None) is not None:
                transport.abort()

    # What it answers.

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        async with self._changed:
            self.lists += 1
            self._changed.notify_all()
        if self.answers and (answer := self.answers.pop(0)(request)) is not None:
            return answer
        items = [pod for pod in self.pods.values() if _selected(pod, request)]
        found = pod_list(items, self._latest)
        await self.answering.wait()
        return web.json_response(found)

    async def _account(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if (uid := self.accounts.get(name)) is None:
            return web.json_response(status(404, f"serviceaccounts {name} not found"), status=404)
        return web.json_response({"metadata": {"name": name, "uid": uid}})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        async with self._changed:
            self.watches += 1
            self._changed.notify_all()
        at = int(request.query["resourceVersion"])
        stream = web.StreamResponse(headers={"content-type": "application/json"})
        await stream.prepare(request)
        self._streams.add(stream)
        try:
            while True:
                if at < self.forgotten:
                    await stream.write(_line("ERROR", status(410, "too old resource version")))
                    return stream
                async with self._changed:
                    await self._changed.wait_for(
                        lambda seen=at: self._latest > seen  # type: ignore[misc]
                    )
                    news = [entry for entry in self.history if entry[0] > at]
                for version, what, pod in news:
                    at = version
                    if _selected(pod, request):
                        line = _line(what, pod)
                        # In two pieces, as networks do.
                        await stream.write(line[:20])
                        await asyncio.sleep(0.01)
                        await stream.write(line[20:])
        except ConnectionResetError:
            return stream  # The client has gone, or was cut off.
        finally:
            self._streams.discard(stream)

    async def _apply(self, request: web.Request) -> web.StreamResponse:
        assert request.content_type == "application/apply-patch+yaml"
        assert request.query["fieldManager"]
        name = request.match_info["name"]
        if name not in self.pods:
            pod = await request.json()
            pod["metadata"]["uid"] = f"u{next(self._uids)}"
            pod["status"] = {"phase": "Pending"}
            await self.put(pod, "ADDED")
        if self.applies and (answer := self.applies.pop(0)(request)) is not None:
            return answer
        return web.json_response(self.pods[name])

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        name, options = request.match_info["name"], await request.json()
        self.deletes.append(options | {"name": name})
        pod = self.pods.get(name)
        if pod is None:
            return web.json_response(status(404, "not found"), status=404)
        if pod["metadata"]["uid"] != options["preconditions"]["uid"]:
            return web.json_response(status(409, "the UID differs"), status=409)
        await self.tell_to_end(name)
        if options["gracePeriodSeconds"] == 0 or self.nodes_answer:
            await self.remove(name)
        return web.json_response(pod)


def pod_list(items: list[Object], version: int, more: str = "") -> Object:
    metadata = {"resourceVersion": str(version), "continue": more}
    return {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}


def status(code: int, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


def refuse(code: int, message: str = "no") -> Answer:
    return lambda _: web.json_response(status(code, message), status=code)


def say(body: Object) -> Answer:
    return lambda _: web.json_response(body)


def break_off(request: web.Request) -> web.StreamResponse | None:
    """Lose the connection where the answer should be."""
    assert request.transport is not None
    request.transport.abort()
    return None


def half_a_list(_: web.Request) -> web.StreamResponse:
    """Answer 200 with a length that the body does not have."""
    text = json.dumps(pod_list([], 1))
    return web.Response(text=text[: len(text) // 2], content_type="application/json")


def _line(what: str, pod: Object) -> bytes:
    return json.dumps({"type": what, "object": pod}).encode() + b"\n"


def _selected(pod: Object, request: web.Request) -> bool:
    labels = request.query.get("labelSelector", "")
    fields = request.query.get("fieldSelector", "")
    wanted = dict(pair.split("=", 1) for pair in labels.split(",") if pair)
    name = fields.partition("=")[2]
    return wanted.items() <= pod["metadata"].get("labels", {}).items() and name in (
        "",
        pod["metadata"]["name"],
    )
