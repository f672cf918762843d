"""A small registry that behaves in whatever way a test wants."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from schemas.names import sha256_hex
from services.builder.layout import build_image

MODULE = (Path(__file__).parents[3] / "examples" / "sort" / "sort.wasm").read_bytes()
IMAGE = build_image(MODULE, "sort.wasm")


def manifest_of(image=IMAGE) -> bytes:
    return image.blobs[image.manifest.digest]


class FakeRegistry:
    """A registry that behaves in whatever way a test wants, allowed or not."""

    def __init__(self) -> None:
        self.manifests = {"1": manifest_of(), IMAGE.manifest.digest: manifest_of()}
        self.blobs = dict(IMAGE.blobs)
        self.login = ""
        """`user:password` that it demands."""
        self.challenge = ""
        self.status = 0
        self.elsewhere = ""
        """Where blobs are redirected to."""
        self.asked: list[str] = []
        """Every request with its Authorization."""

    def add(self, content: bytes) -> dict[str, object]:
        digest = f"sha256:{sha256_hex(content)}"
        self.blobs[digest] = content
        self.manifests[digest] = content
        return {"digest": digest, "size": len(content), "mediaType": "application/octet-stream"}

    async def answer(self, request: Request) -> Response:
        authorization = request.headers.get("authorization", "")
        self.asked.append(f"{request.url.path} {authorization}")
        basic = "Basic " + base64.b64encode(self.login.encode()).decode()
        what = request.path_params.get("what", "")
        if request.url.path == "/token":
            if authorization != basic:
                return Response(status_code=401)
            assert request.query_params["scope"] == "repository:you/sort:pull"
            return JSONResponse({"token": "t0ken"})
        allowed = basic if self.challenge.startswith("Basic") else "Bearer t0ken"
        if self.challenge and authorization != allowed and not request.url.path.startswith("/cdn"):
            challenge = self.challenge.replace("HERE", str(request.base_url))
            return Response(status_code=401, headers={"WWW-Authenticate": challenge})
        if self.status:
            return Response(status_code=self.status)
        if "/manifests/" in request.url.path:
            content = self.manifests.get(what)
        else:
            if self.elsewhere and not request.url.path.startswith("/cdn"):
                return RedirectResponse(f"{self.elsewhere}/cdn/{what}")
            content = self.blobs.get(what)
        return Response(status_code=404) if content is None else Response(content)

    def app(self) -> Starlette:
        paths = (
            "/token",
            "/v2/you/sort/manifests/{what}",
            "/v2/you/sort/blobs/{what}",
            "/cdn/{what}",
        )
        return Starlette(routes=[Route(path, self.answer) for path in paths])


@contextlib.asynccontextmanager
async def serving(app: Starlette, **options: str) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", **options)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def registry() -> AsyncIterator[tuple[FakeRegistry, str]]:
    fake = FakeRegistry()
    async with serving(fake.app()) as address:
        yield fake, f"{address}/you/sort:1"
