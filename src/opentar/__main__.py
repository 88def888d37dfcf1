"""The `opentar` command, and `python -m opentar`: Ctrl-C is answered from the first line on."""

import sys


def main() -> int:
    """Run the command line; returns its exit code, 130 where Ctrl-C came while it was still being loaded."""
    try:
        # All else is imported here, where Ctrl-C is caught.
        import signal

        from opentar.cli import main as run

        code = run()
        # What is left is only the end of the process: a second Ctrl-C shall end it, not show where it was.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return code
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
