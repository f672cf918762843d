"""The WebAssembly server in a pod: one zygote that forks a locked-in process per function.

It knows no bus, no cluster and no web framework. Requests and signed control
calls come in over HTTP; nothing goes out. `python -m keeper` starts it.
"""
