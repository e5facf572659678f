"""``python -m semseg``: the command line where the script ``semseg`` is not on the path."""

from semseg.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
