"""What reads bytes of others gets all kinds of them: right ones with a few changes, and whatever comes.

Quick here, by hypothesis; `make soak` lets Atheris, which looks for new ways through the code, try each for a while.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fuzzing
import opentar

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = 150
BOUNDED = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
SECONDS = 20
"""Of Atheris for each target; more by OPENTAR_FUZZ_SECONDS."""
ODD = [b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"-1", b"1e999", b'"', b"{", b"[" * 50, b"\xe2\x80\xae", b"<|im_end|>"]


@st.composite
def changed(draw, seeds: list[bytes]) -> bytes:
    """A seed with up to four changes: bytes replaced, put in, left out, or the end cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.sampled_from(ODD), st.binary(min_size=1, max_size=8)))
        match draw(st.sampled_from(("replace", "insert", "remove", "cut"))):
            case "replace":
                content[place : place + len(new)] = new
            case "insert":
                content[place:place] = new
            case "remove":
                del content[place : place + len(new)]
            case "cut":
                del content[place:]
    return bytes(content)


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_what_is_right_is_taken_and_what_is_not_is_refused(name) -> None:
    """A fuzzer that begins with what is refused at the first byte comes nowhere."""
    assert fuzzing.TARGETS[name](fuzzing.seeds(name)[0])
    assert fuzzing.TARGETS[name](b"{") is (name == "text")


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_changed_bytes_are_read_or_refused(name) -> None:
    seeds = fuzzing.seeds(name)

    @BOUNDED
    @hypothesis.given(st.one_of(changed(seeds), changed(seeds), st.binary(max_size=300)))
    def check(content: bytes) -> None:
        fuzzing.TARGETS[name](content)

    check()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_a_fuzzer_finds_nothing(name, tmp_path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(fuzzing.seeds(name)):
        (corpus / str(number)).write_bytes(seed)
    seconds = os.environ.get("OPENTAR_FUZZ_SECONDS", str(SECONDS))
    options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=4096"]
    done = subprocess.run(
        [sys.executable, fuzzing.__file__, name, str(corpus), *options, f"-artifact_prefix={tmp_path}/"],
        env=os.environ | {"PYTHONPATH": str(Path(opentar.__file__).parents[1])},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "Done " in done.stderr, done.stderr[-500:]
