"""Fetch a build's module: `python -P -m services.builder.images.fetch`, in the build's own pod.

It writes the module and its Dockerfile where the environment says (see
`services.builder.images.job`). Only the standard library is used, so that it
starts at once. A builder that is away comes back, so it is asked again and
again; the Job's deadline ends that.
"""

import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TIMEOUT_S: Final = 30
PAUSE_S: Final = 1.0
_REFUSED: Final = (401, 403)


def fetch(url: str, token: str) -> bytes:
    """Return what is at `url`, as soon as it is.

    Raises:
        PermissionError: the token is not taken.
    """
    said = ""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - the builder chose it
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _REFUSED:
                raise PermissionError(f"the builder refuses the module at {url}") from None
            reason = f"it answers {error.code}"
        except OSError as error:
            reason = str(error)
        if reason != said:
            said = reason
            tell(f"waiting for the builder at {url}: {reason}")
        time.sleep(PAUSE_S)


def main(environment: Mapping[str, str]) -> str:
    """Do it. Return why not, or an empty text."""
    try:
        module = fetch(environment["WASMFN_CONTEXT_URL"], environment["WASMFN_CONTEXT_TOKEN"])
        if hashlib.sha256(module).hexdigest() != environment["WASMFN_CONTEXT_SHA256"]:
            return "the builder sent another module than the one to build"
        file = Path(environment["WASMFN_CONTEXT_FILE"])
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(module)
        file.chmod(0o555)
        Path(environment["WASMFN_DOCKERFILE_FILE"]).write_text(environment["WASMFN_DOCKERFILE"])
    except KeyError as error:
        return f"{error.args[0]} is not set"
    except OSError as error:
        return str(error)
    return ""


def tell(line: str) -> None:
    """Write one line to standard error, which is the pod's log."""
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    if failure := main(os.environ):
        tell(failure)
        sys.exit(1)
