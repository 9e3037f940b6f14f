"""``python -m khala``: the command line without an installed script."""

from khala.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
