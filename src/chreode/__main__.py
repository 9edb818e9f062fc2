"""``python -m chreode``: the command line."""

from chreode.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
