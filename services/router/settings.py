"""What an operator can tell the router: `WASMFN_ROUTER_<FIELD>` or a TOML file."""

from typing import Annotated

from msgspec import Meta

from services.process import ServiceSettings

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1)]


class RouterSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The router's settings."""

    http: str = "127.0.0.1:8080"
    """Where clients are served; port 0 lets the system choose."""
    http_fd: Annotated[int, Meta(ge=3)] | None = None
    """A listener there that we were started with; without one we make our own."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) whose X-Forwarded-* headers are believed and added to."""

    token_key_origins: tuple[str, ...] = ()
    """Origins, such as `https://login.example`, that the keys of token issuers are fetched from."""

    connect_s: Seconds = 2.0
    answer_grace_s: Seconds = 2.0
    """What a keeper gets beyond a function's timeout to say that it timed out."""
    stall_s: Seconds = 20.0
    """The longest silence of a client in the middle of a body, either way."""
    transfer_s: Seconds = 600.0
    """The longest that one body may take in all, either way."""
    park_s: Seconds = 30.0
    """The longest wait for an endpoint."""
    park_per_function: Count = 512
    park_total: Count = 4096
    upstream_idle_s: Seconds = 15.0
    """Idle connections to instances are closed after this. A keeper keeps them longer."""

    head_s: Seconds = 10.0
    """How long a client may take to send a request's head."""
    head_bytes: Annotated[int, Meta(ge=1024, le=1024 * 1024)] = 32 * 1024
    """The largest head of a request: its target and all headers."""
    keep_alive_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    """How long a client's connection may be idle between requests."""
    max_connections: Count = 16_384
    """Client connections at once; more are answered 503."""

    async_body_bytes: Annotated[int, Meta(ge=0, le=64 * 1024 * 1024)] = 512 * 1024
    """The largest request that is stored; less where NATS takes smaller messages."""
    async_answer_bytes: Annotated[int, Meta(ge=0, le=64 * 1024 * 1024)] = 512 * 1024
    """How much of an answer is stored. It must fit into a message of NATS in base64."""
    dead_letter_s: Annotated[float, Meta(ge=0, le=100 * 365 * 86_400)] = 14 * 86_400
    """How long a dead letter is kept unless somebody decides before; 0 is for ever."""
    async_concurrency: Count = 256
    """Stored invocations that this router runs at once, of all functions together."""
