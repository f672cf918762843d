"""The WebAssembly server in a pod: a zygote forks a locked-in process per function.

It knows no bus, no cluster and no web framework. Requests and signed control
calls come in over HTTP; nothing goes out. `python -m keeper` starts it.
"""
