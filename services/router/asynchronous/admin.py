"""Dead letters over HTTP, on the router's admin port, which clients of functions do not reach.

- `GET /dead[?namespace=…&function=…]` lists them, without bodies.
- `GET /dead/<namespace>/<function>/<id>` shows one, whole.
- `POST /dead/<namespace>/<function>/<id>/redrive` sends it back to the queue.
- `DELETE /dead/<namespace>/<function>/<id>` throws it away.
"""

from typing import Any, Literal

import msgspec
import nats.errors
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.invocations import DeadRequest
from services.bus.errors import BusError
from services.bus.feed import FeedLost
from services.router.asynchronous.dead import DeadLetters
from services.router.asynchronous.store import Name

_AWAY = "the dead letters cannot be read now; ask again"


class DeadPages:
    """What the admin port answers about dead letters."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters
        place = "/dead/{namespace}/{function}/{id}"
        self.routes = [
            Route("/dead", self.listing),
            Route(place, self.one, methods=["GET"]),
            Route(place, self.discard, methods=["DELETE"]),
            Route(place + "/redrive", self.redrive, methods=["POST"]),
        ]

    async def listing(self, request: Request) -> Response:
        """Answer with those of a namespace, of a function, or with all."""
        wanted = request.query_params
        try:
            found = await self._letters.listed(
                wanted.get("namespace") or None, wanted.get("function") or None
            )
        except (BusError, FeedLost, nats.errors.Error, TimeoutError):
            return _json(503, {"message": _AWAY})
        return _json(200, found)

    async def one(self, request: Request) -> Response:
        """Answer with one letter."""
        try:
            letter = await self._letters.get(_name(request))
        except BusError:
            return _json(503, {"message": _AWAY})
        if letter is None:
            return _json(404, {"message": "there is no such dead letter"})
        return _json(200, letter)

    async def redrive(self, request: Request) -> Response:
        """Send one back."""
        return await self._act(request, "redrive")

    async def discard(self, request: Request) -> Response:
        """Throw one away."""
        return await self._act(request, "discard")

    async def _act(self, request: Request, action: Literal["redrive", "discard"]) -> Response:
        if "origin" in request.headers:
            # A page in somebody's browser can send this, too, and must not.
            return _json(403, {"message": "this is not for browsers"})
        name = _name(request)
        reply = await self._letters.act(name, DeadRequest(name[2], action))
        return _json(200 if reply.done else 409, reply)


def _name(request: Request) -> Name:
    given = request.path_params
    return given["namespace"], given["function"], given["id"]


def _json(status: int, body: Any) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
