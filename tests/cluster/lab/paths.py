"""Where the lab keeps its things: what is dear to make apart from what one run needs."""

import os
from pathlib import Path


def _root() -> Path:
    if named := os.environ.get("WASMFN_LAB"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasmfn-lab"


ROOT = _root()

# Made once and kept.
DOWNLOADS = ROOT / "downloads"
TOOLS = ROOT / "tools"
VENV = ROOT / "venv"
WHEELS = ROOT / "wheelhouse"
IMAGES = ROOT / "images"
BUILD = ROOT / "build"
BUILDAH = ROOT / "buildah"

# Labs of different names run side by side: each has namespaces of its own.
LAB = ROOT / "labs" / os.environ.get("WASMFN_LAB_NAME", "default")
REGISTRY = LAB / "registry"

# Belongs to one run: removed on the way down, and again on the way up.
STATE = LAB / "state"
PIDS = STATE / "pids"
LOGS = STATE / "logs"
CONFIG = STATE / "config"
PKI = STATE / "pki"
