"""Write the names of the cluster's services into a hosts file and have dnsmasq serve it.

Runs on the node: `names_follower.py KUBECONFIG HOSTS DOMAIN ADDRESS`. It knows what Kubernetes'
DNS specification says of A records: services with an address, headless ones, and pods of those
with a host name.
"""

import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


def main() -> None:
    """Follow until ended."""
    kubeconfig, hosts, domain, address = sys.argv[1:]
    file = Path(hosts)
    file.touch()
    dnsmasq = subprocess.Popen(
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--log-facility=-",
            "--pid-file=",
            "--user=root",
            "--no-hosts",
            f"--addn-hosts={hosts}",
            "--no-resolv",
            # Whatever is not in the file does not exist: nothing can be asked elsewhere.
            "--local=/#/",
            f"--listen-address={address}",
            "--bind-interfaces",
        ]
    )
    changed = threading.Event()
    client = _client(Path(kubeconfig))
    for kind in ("services", "endpoints"):
        threading.Thread(target=_watch, args=(client, kind, changed), daemon=True).start()
    said = ""
    while dnsmasq.poll() is None:
        changed.clear()
        try:
            lines = sorted(_records(_list(client, "services"), _list(client, "endpoints"), domain))
        except httpx.HTTPError as problem:
            sys.stderr.write(f"cannot list: {problem}\n")
            time.sleep(0.2)
            continue
        if (now := "".join(lines)) != said:
            file.write_text(now)
            dnsmasq.send_signal(signal.SIGHUP)
            said = now
        changed.wait(timeout=10)
    sys.exit("dnsmasq ended")


def _records(
    services: list[dict[str, Any]], endpoints: list[dict[str, Any]], domain: str
) -> Iterator[str]:
    headless = set()
    for service in services:
        name = _name(service)
        address = service["spec"].get("clusterIP")
        if address == "None":
            headless.add(name)
        elif address:
            yield f"{address} {name}.svc.{domain}\n"
    for endpoint in endpoints:
        if (name := _name(endpoint)) not in headless:
            continue
        for subset in endpoint.get("subsets") or []:
            for backend in subset.get("addresses") or []:
                yield f"{backend['ip']} {name}.svc.{domain}\n"
                if host := backend.get("hostname"):
                    yield f"{backend['ip']} {host}.{name}.svc.{domain}\n"


def _name(thing: dict[str, Any]) -> str:
    return f"{thing['metadata']['name']}.{thing['metadata']['namespace']}"


def _client(kubeconfig: Path) -> httpx.Client:
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return httpx.Client(base_url=cluster["server"], verify=context, trust_env=False)


def _list(client: httpx.Client, kind: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/{kind}").raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _watch(client: httpx.Client, kind: str, changed: threading.Event) -> None:
    """Tell of every change, and after every interruption: the lists are the truth."""
    forever = httpx.Timeout(5, read=None)
    while True:
        try:
            with client.stream("GET", f"/api/v1/{kind}?watch=1", timeout=forever) as answer:
                for _ in answer.iter_lines():
                    changed.set()
        except httpx.HTTPError as problem:
            sys.stderr.write(f"watching {kind}: {problem}\n")
        changed.set()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
