"""The command line: one verb group a file, loaded only when its verb is used.

Exit codes, as `wasmfn --help` says them, are those of `wasmfn.errors`. What goes
to a pipe is plain, what goes wrong is one sentence on stderr, and a traceback is
shown only where WASMFN_DEBUG=1 asks for it.
"""

import errno
import logging
import os
import sys
from collections.abc import Sequence

import click

from wasmfn.cli.root import root
from wasmfn.errors import WasmfnError

INTERRUPTED = 130
"""128 and SIGINT, as shells count."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    debug = os.environ.get("WASMFN_DEBUG") == "1"
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    else:
        # The bus logs for services; a command tells its user itself.
        logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = root.main(arguments, prog_name="wasmfn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """Print one sentence for `error` and return the exit code."""
    if isinstance(error, WasmfnError):
        sentence, code = str(error), error.exit_code
    elif isinstance(error, OSError) and error.filename is not None:
        sentence, code = f"cannot use {error.filename}: {error.strerror}", 1
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        sentence, code = "the disk is full; make room and run it again", 1
    else:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        sentence = (
            f"this should not have happened ({what}); run it again with WASMFN_DEBUG=1 and report"
            " what it says"
        )
        code = 1
    label = "error: "
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        label = click.style(label, fg="red", bold=True)
    click.echo(label + sentence, err=True)
    return code
