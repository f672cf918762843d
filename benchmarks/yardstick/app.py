"""A straightforward keeper: what one writes in an hour, from wasmtime's documentation.

    python -P benchmarks/yardstick/app.py MODULE PORT

A Starlette route, wasmtime's high-level API, a fresh store and instance for each
request, stdout in a temporary file. The module is compiled once and linked
ahead of time, so nothing here is slow on purpose. It keeps the same promises
as far as that is little work: the time and memory of a sandbox are bounded.
"""

import sys
import tempfile
import threading
import time

import uvicorn
import wasmtime
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MEMORY_BYTES = 128 * 1024 * 1024
TIMEOUT_S = 60
TICK_S = 0.1


def application(module_path: str) -> Starlette:
    """Return an application that runs the module for each request."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)
    module = wasmtime.Module.from_file(engine, module_path)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()

    def tick() -> None:
        while True:
            time.sleep(TICK_S)
            engine.increment_epoch()

    threading.Thread(target=tick, daemon=True).start()

    def call(arguments: list[str]) -> dict[str, object]:
        with tempfile.NamedTemporaryFile() as stdout:
            wasi = wasmtime.WasiConfig()
            wasi.argv = ["main.wasm", *arguments]
            wasi.stdout_file = stdout.name
            store = wasmtime.Store(engine)
            store.set_limits(memory_size=MEMORY_BYTES)
            store.set_epoch_deadline(int(TIMEOUT_S / TICK_S))
            store.set_wasi(wasi)
            status = 0
            try:
                instance = linker.instantiate(store, module)
                start = instance.exports(store)["_start"]
                assert isinstance(start, wasmtime.Func)
                start(store)
            except wasmtime.ExitTrap as exited:
                status = int(exited.code != 0)
            output = stdout.read().decode().splitlines()
        return {"status": status, "output": output}

    async def invoke(request: Request) -> JSONResponse:
        arguments = (await request.json())["args"]
        # A function may take long; the event loop must not wait for it.
        return JSONResponse(await run_in_threadpool(call, arguments))

    return Starlette(routes=[Route("/f", invoke, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="warning",
        access_log=False,
    )
