"""`python -m jaxquant` is the `jaxquant` command."""

import sys

from jaxquant.cli import script

if __name__ == "__main__":
    sys.exit(script())
