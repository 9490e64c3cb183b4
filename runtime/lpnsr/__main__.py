"""`python -m lpnsr` is `lpnsr-run`."""

import sys

from lpnsr.runtime.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
