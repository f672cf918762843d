"""The builder: module bytes or an image reference become artifacts that keepers can run.

A build is a record on the stream BUILDS. Everything a restarted builder needs
stands in it, so nothing is remembered: what is not finished is done again.

`builder` takes requests from the `broker`, and asks `reconcile`, which is pure,
what each leads to; `pipeline` is one build from end to end: `registry` and `unpack`
get a module out of an image, `inspect` says in words what it is, `compile` has a
child process precompile it, `artifacts` stores it signed, and `images` makes an
image of it. `collector` removes what no spec leads to any more.
"""
