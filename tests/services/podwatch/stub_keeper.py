"""A real process that answers `GET /healthz` as a keeper does: `stub_keeper.py UID FD [DELAY_S]`.

It takes over a listener that was bound before it started, as keepers do.
"""

import json
import socket
import sys
import time


def main() -> None:
    uid, fd, delay_s = sys.argv[1], int(sys.argv[2]), float((*sys.argv[3:], "0")[0])
    time.sleep(delay_s)
    body = json.dumps(
        {"keeper": uid, "boot": f"boot of {uid}", "engine": "e1", "capacity": 8, "loaded": 0}
    ).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    listener = socket.socket(fileno=fd)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)


if __name__ == "__main__":
    main()
