"""How far our classes are from the authors' published inference code: the largest difference of each kind of result.

    python benchmarks/parity.py [--parity-dir DIR] [--parts ta_tok llm ar vq sana sampling]

Compares with the reference values of tests/parity (or of DIR, a folder of the same form): the same tiny random weights
through both, in float32 on a CPU. Prints a Markdown table; ends with 1 when a difference is over its tolerance.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "tests" / "parity"
sys.path[:0] = [str(HERE), str(HERE.parent)]

from reference import CHECKS, Check, Reference  # noqa: E402 (after the path)


def table(checks: list[Check]) -> str:
    """One row for each part and kind of result."""
    lines = [
        "| part | result | largest difference | allowed | numbers compared |",
        "|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((check.part, check.what, check.tolerance) for check in checks)
    for part, what, tolerance in kinds:
        alike = [check for check in checks if (check.part, check.what, check.tolerance) == (part, what, tolerance)]
        count = sum(check.values for check in alike)
        if tolerance:
            told, allowed = f"{max(check.largest for check in alike):.1e}", f"{tolerance:.0e}"
        else:
            told, allowed = f"{sum(check.largest for check in alike):.0f} wrong", "0 wrong"
        mark = "" if all(check.right for check in alike) else " (too large)"
        lines.append(f"| {part} | {what} | {told}{mark} | {allowed} | {count:,} |")
    return "\n".join(lines)


def main() -> int:
    """Parse, compare, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity-dir", type=Path, default=HERE, help="folder with reference values")
    parser.add_argument("--parts", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="only these")
    args = parser.parse_args()
    import torch
    import transformers

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        reference = Reference(args.parity_dir, Path(out))
        checks = [check for part in args.parts for check in CHECKS[part](reference)]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}"
    print(f"{len(checks)} values, {versions}, {time.perf_counter() - started:.0f} s\n")
    print(table(checks))
    return 0 if all(check.right for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
