"""The command line, the Python client, and the platform on one machine.

- `cli` is the command line, one verb group a file; what it does is done below it.
- `client` is the Python client, with `objects`, `rollout`, `history` and
  `invocations`; `apply`, `deploy` and `routing` are built on it.
- `stack` is what `wasmfn up` runs: `programs` says which, `supervision` keeps one
  alive, and `tree` all of them together.
- Modules that begin with `cluster` install and look after one in Kubernetes.
"""
