"""Dead letters over HTTP, on the router's admin port, which clients of functions do not reach.

- `GET /dead[?namespace=…&function=…]` lists them, without bodies.
- `GET /dead/<namespace>/<function>/<id>` shows one, whole.
- `POST /dead/<namespace>/<function>/<id>/redrive` sends it back to the queue.
- `DELETE /dead/<namespace>/<function>/<id>` throws it away.
- `DELETE /dead?older_than_s=…[&namespace=…&function=…]` throws away the old ones, 1000 at most:
  the answer's `more` says whether to ask again.
"""

from typing import Annotated, Any, Literal

import msgspec
import nats.errors
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.invocations import DeadRequest
from schemas.streams import DAY_S
from services.bus.errors import BusError
from services.bus.feed import FeedLost
from services.router.asynchronous.dead import DeadLetters
from services.router.asynchronous.store import Name

_Age = Annotated[float, msgspec.Meta(ge=0, le=100 * 365 * DAY_S)]
_AWAY = "the dead letters cannot be read now; ask again"


class DeadPages:
    """What the admin port answers about dead letters."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters
        place = "/dead/{namespace}/{function}/{id}"
        self.routes = [
            Route("/dead", self.listing, methods=["GET"]),
            Route("/dead", self.prune, methods=["DELETE"]),
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

    async def prune(self, request: Request) -> Response:
        """Throw away those that are older than the query says."""
        if refusal := _for_a_browser(request):
            return refusal
        wanted = request.query_params
        try:
            older_than_s = msgspec.convert(wanted.get("older_than_s"), _Age, strict=False)
        except msgspec.ValidationError:
            return _json(400, {"message": "say how old: older_than_s is a number of seconds"})
        reply = await self._letters.prune(
            wanted.get("namespace") or None, wanted.get("function") or None, older_than_s
        )
        return _json(200 if reply.done else 503, reply)

    async def redrive(self, request: Request) -> Response:
        """Send one back."""
        return await self._act(request, "redrive")

    async def discard(self, request: Request) -> Response:
        """Throw one away."""
        return await self._act(request, "discard")

    async def _act(self, request: Request, action: Literal["redrive", "discard"]) -> Response:
        if refusal := _for_a_browser(request):
            return refusal
        name = _name(request)
        reply = await self._letters.act(name, DeadRequest(name[2], action))
        return _json(200 if reply.done else 409, reply)


def _for_a_browser(request: Request) -> Response | None:
    """Refuse what a page in somebody's browser can send, too, and must not."""
    if "origin" in request.headers:
        return _json(403, {"message": "this is not for browsers"})
    return None


def _name(request: Request) -> Name:
    given = request.path_params
    return given["namespace"], given["function"], given["id"]


def _json(status: int, body: Any) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
