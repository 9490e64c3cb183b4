"""`python -m lpnsr` is `lpnsr-run`."""

import sys


def main() -> int:
    """Run the command; where its packages cannot be loaded, say so in one line."""
    try:
        from lpnsr.runtime.command import cli
    except (ImportError, MemoryError, OSError) as error:
        reason = " ".join(str(error).split()) or "not enough memory"
        print(f"lpnsr-run: cannot start: {reason}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
