"""Where a build's pod gets its module from: `GET /<job>` with the Job's token.

Only modules that are being built are here, and only while they are. A pod that
asks too early, as after a restart of the builder, is told to ask again.
"""

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.process import PublicError, Server


class Contexts:
    """The modules that are being built, each with the token that opens it."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[str, bytes]] = {}

    @contextlib.contextmanager
    def offered(self, job: str, token: str, module: bytes) -> Iterator[None]:
        """Have `module` there for who asks for `job` with `token`, while inside."""
        self._modules[job] = (token, module)
        try:
            yield
        finally:
            del self._modules[job]

    def application(self) -> Starlette:
        """Return the server's application."""

        async def get(request: Request) -> Response:
            found = self._modules.get(request.path_params["job"])
            if found is None:
                return PlainTextResponse("nothing of that name is being built now\n", 404)
            token, module = found
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not token or not hmac.compare_digest(given.encode(), token.encode()):
                return PlainTextResponse("the token is not that of the build\n", 403)
            return Response(module, media_type="application/wasm")

        return Starlette(routes=[Route("/{job}", get, methods=["GET"])])

    @contextlib.asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[str]:
        """Serve at `address` (host:port) while inside; yield the URL.

        Raises:
            PublicError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        try:
            listener = socket.create_server((host, int(port)))
        except (OSError, ValueError, OverflowError) as error:
            raise PublicError(f"cannot listen on {address} for builds: {error}") from error
        config = uvicorn.Config(
            self.application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            limit_concurrency=256,
            timeout_keep_alive=2,
            timeout_graceful_shutdown=1,
        )
        server = Server(config)
        task = asyncio.create_task(server.serve([listener]), name="modules for builds")
        try:
            yield "http://{}:{}".format(*listener.getsockname()[:2])
        finally:
            server.should_exit = True
            await task
