"""`python -m opentar`: the same as the `opentar` command."""

from opentar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
