"""Makes `test_picture_kinds` importable: its samples serve the fuzzing too (tests are imported without a package)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
