"""`python -m lpnsr` is `lpnsr-run`."""

import os
import sys
from contextlib import nullcontext

from lpnsr.runtime.command import limited

NAME = "lpnsr-run"


def main() -> int:
    """Run the command, in a child process where memory is limited."""
    completes = "_ARGCOMPLETE" in os.environ  # ends its process by itself
    is_guarded = limited.is_limited() and not completes
    return limited.guarded(NAME, _main) if is_guarded else _main()


def _main() -> int:
    """Run the command; where its packages cannot be loaded, say so in one line."""
    is_limited = limited.is_limited()
    try:
        with limited.hushed() if is_limited else nullcontext():
            from lpnsr.runtime.command import cli
    except (ImportError, MemoryError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split()) or "not enough memory"
        advice = f"; {limited.ADVICE}" if is_limited else ""
        print(f"{NAME}: cannot start: {reason}{advice}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
