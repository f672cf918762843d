"""How services speak to the API server of a cluster: login, questions, list and watch.

`kubernetes_asyncio` takes most of a second and 70 MiB to import, so a service imports this only
where it was told that there is a cluster.
"""
