"""Names of services for the pods: dnsmasq, told by a follower of the cluster's Endpoints.

A stand-in for CoreDNS, which Debian does not have.
"""

import sys
from pathlib import Path

from tests.cluster.lab import node, paths

DOMAIN = "cluster.local"


def up() -> None:
    """Start both; pods are told to ask the node's address."""
    follower = Path(__file__).with_name("names_follower.py")
    hosts = paths.STATE / "service-hosts"
    config = paths.PKI / "names.kubeconfig"
    node.start("names", sys.executable, "-P", follower, config, hosts, DOMAIN, node.ADDRESS)
