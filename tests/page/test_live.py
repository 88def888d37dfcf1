"""Frames of files, and which of them are worth a caption."""

import io
import sys

import pytest
from PIL import Image

from opentar.core.errors import ConfigError, ImageError
from opentar.page import live
from opentar.page.live import Frame, Watcher, frames


def animation(kind: str, colours: list[str], milliseconds: int = 500) -> bytes:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in colours]
    # A point that differs: a writer joins frames that are the same.
    for number, picture in enumerate(pictures):
        picture.putpixel((number % 16, 0), (number, number, number))
    kept = io.BytesIO()
    more = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(kept, kind, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, **more)
    return kept.getvalue()


def film(colours: list[str]) -> bytes:
    av = pytest.importorskip("av", reason="needs the extra video")
    kept = io.BytesIO()
    with av.open(kept, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for colour in colours:
            for packet in stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), colour))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return kept.getvalue()


def test_frames_whose_codes_did_not_change_are_skipped() -> None:
    watcher = Watcher()
    codes = [(1, 2, 3), (1, 2, 3), (1, 2, 4), (1, 2, 4), (1, 2, 3), (1, 2, 3, 4)]
    assert [watcher.is_new(one) for one in codes] == [True, False, True, False, True, True]
    assert (watcher.seen, watcher.skipped) == (6, 2)


def test_noise_below_the_tolerance_is_nothing_new_but_adds_up() -> None:
    watcher = Watcher(tolerance=0.25)
    rows = [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0)]
    # Compared is with the last frame that was new, so that a slow change is seen.
    assert [watcher.is_new(row) for row in rows] == [True, False, True, False]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_frames_of_animations(kind: str) -> None:
    found = list(frames(animation(kind, ["red", "lime", "blue", "white"]), every=0.5))
    assert [one.second for one in found] == [0.0, 0.5, 1.0, 1.5]
    assert [one.picture.getpixel((8, 8)) for one in found][2] == (0, 0, 255)
    assert [one.second for one in frames(animation(kind, ["red", "lime", "blue", "white"]), every=1.0)] == [0.0, 1.0]


def test_a_still_picture_is_one_frame() -> None:
    kept = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(kept, "PNG")
    (one,) = frames(kept.getvalue())
    assert Image.open(io.BytesIO(one.content)).getpixel((0, 0)) == (255, 0, 0)
    assert Frame(second=0, file=b"file").content == b"file"


def test_a_long_animation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_FRAMES", 3)
    assert len(list(frames(animation("GIF", ["red", "lime"] * 4), every=0.1))) == 3


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError):
        list(frames(b"no picture at all, only words"))


def test_films() -> None:
    found = list(frames(film(["red", "red", "blue", "blue"]), every=0.5))
    assert [one.second for one in found] == [0.0, 0.5, 1.0, 1.5]
    red, blue = found[0].picture.getpixel((16, 16)), found[3].picture.getpixel((16, 16))
    assert red[0] > 200 > red[2] and blue[2] > 200 > blue[0]


def test_a_damaged_film_is_refused() -> None:
    with pytest.raises(ImageError, match="MP4"):
        list(frames(film(["red"])[:60]))


def test_without_the_decoder_films_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for head in (b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3....", b"RIFF....AVI ....", b"OggS......"):
        with pytest.raises(ConfigError, match=r"opentar\[video\]"):
            list(frames(head + b"\0" * 100))
