"""Where an instance of a function answers; written by the scheduler, read by routers."""

from datetime import datetime

import msgspec


class Endpoint(msgspec.Struct, frozen=True):
    """One process that serves one revision of one function.

    A router uses it only while its pod is not known dead. `token` goes with
    every request in `x-wasmfn-instance`: whoever listens at the address by
    then and is not this instance answers 421 and runs nothing.

    Without a token it is a pod with an image of its own (`executor:
    deployment`), which checks nothing: no header is sent, and a 421 is the
    image's own answer.
    """

    namespace: str
    function: str
    instance: str
    ip: str
    port: int
    pod: str
    """Uid of the pod."""
    node: str
    revision: int
    concurrency: int
    token: str
    time: datetime
