"""The WebAssembly server in a pod: a zygote forks a locked-in process per function.

It knows no bus, no cluster and no web framework. Requests and signed control
calls come in over HTTP; nothing goes out. `python -m keeper` starts it.

Three kinds of process, and where to begin to read each:

- The *supervisor* (`supervisor`, with its control `port`) has children forked,
  and tells of them. It obeys what `control` decides, and runs no user code.
- The *zygote* (`zygote`) has the engine ready and forks, and does nothing else.
- A *child* (`child`) takes a load call (`load`), locks itself in (`confine`) and
  serves (`server`, on a `loop` of its own). Its calls go from `answer`, what a
  request means, to the `runner`, which has them take turns, and from a `function`
  to a `call` in a sandbox; below is the `engine`, and wasmtime's C API (`capi`).

Supervisor and child say little to each other (`messages`), and what must be known
of a child that cannot speak stands on its page of the `scoreboard`.
"""
