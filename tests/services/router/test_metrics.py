"""What the counts look like to Prometheus."""

from prometheus_client import CollectorRegistry, generate_latest

from services.router.metrics import Collector, Metrics
from services.router.state import Function, State

KEY = ("ns", "f")


def scrape(state: State) -> list[str]:
    registry = CollectorRegistry()
    gauges = [("parked", "Waiting.", lambda: 3.0)]
    registry.register(Collector(Metrics(), state.counted, gauges))
    return generate_latest(registry).decode().splitlines()


def test_answers_are_counted_by_function_and_class_with_their_latency() -> None:
    state = State()
    for status, seconds in ((200, 0.002), (204, 0.2), (503, 100.0)):
        state.fleet(KEY).count(status, seconds)
    state.nobody.count(404, 0.0)
    lines = scrape(state)
    labels = 'namespace="ns",function="f"'
    for line in (
        'wasmfn_router_requests_total{function="f",namespace="ns",status="2xx"} 2.0',
        'wasmfn_router_requests_total{function="f",namespace="ns",status="5xx"} 1.0',
        'wasmfn_router_requests_total{function="",namespace="",status="4xx"} 1.0',
        'wasmfn_router_request_seconds_bucket{function="f",le="0.001",namespace="ns"} 0.0',
        'wasmfn_router_request_seconds_bucket{function="f",le="0.0025",namespace="ns"} 1.0',
        'wasmfn_router_request_seconds_bucket{function="f",le="60.0",namespace="ns"} 2.0',
        'wasmfn_router_request_seconds_bucket{function="f",le="+Inf",namespace="ns"} 3.0',
        'wasmfn_router_request_seconds_count{function="f",namespace="ns"} 3.0',
        "wasmfn_router_parked 3.0",
        "wasmfn_router_retries_total 0.0",
    ):
        assert line in lines or line.replace('function="f",namespace="ns"', labels) in lines


def test_a_function_that_is_gone_leaves_no_series() -> None:
    state = State()
    state.put_function(Function(KEY, 1, timeout_s=1.0, body_bytes=1))
    state.fleet(KEY).count(200, 0.1)
    assert [line for line in scrape(state) if 'function="f"' in line]
    state.remove_function(KEY)
    state.remove_function(KEY)
    assert not [line for line in scrape(state) if 'function="f"' in line]
