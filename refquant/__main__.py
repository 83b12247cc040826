"""`python -m refquant`: the same as the command `refquant`."""

import sys

from refquant.cli import main

if __name__ == "__main__":
    sys.exit(main())
