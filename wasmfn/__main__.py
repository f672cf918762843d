"""`python -m wasmfn` is `wasmfn`: for where the script is not on the path."""

import sys

from wasmfn.cli import main

if __name__ == "__main__":
    sys.exit(main())
