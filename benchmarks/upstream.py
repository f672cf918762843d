"""The server behind the proxies: the same short answer to every request, as fast as Python can.

python -P benchmarks/upstream.py PORT
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

ANSWER = b'{"status":0,"output":["1 2 3 4 5 6 7 8"],"exit_code":0,"stderr":""}'
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER


class Connection(asyncio.Protocol):
    """Answers each request when its body is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to parse."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Answer."""
        self._transport.write(_RESPONSE)


async def serve(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(
        Connection, "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
