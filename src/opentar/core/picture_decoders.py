"""Which kinds of picture files are read, and why the others are not.

Pillow has decoders for more kinds than anybody should hand to it unseen. Here stands each one that it knows: read, or
left out with the reason. `docs/inputs.md` has the same table for users.
"""

from __future__ import annotations

READ = {
    "PNG": "PNG, APNG",
    "JPEG": "JPEG, MPO",
    "WEBP": "WebP",
    "GIF": "GIF",
    "BMP": "BMP",
    "DIB": "DIB",
    "TIFF": "TIFF",
    "AVIF": "AVIF",
    "JPEG2000": "JPEG 2000",
    "ICO": "ICO",
    "CUR": "CUR",
    "ICNS": "ICNS",
    "PPM": "PBM, PGM, PPM, PFM",
    "QOI": "QOI",
    "DDS": "DDS",
    "PSD": "Photoshop",
    "PCX": "PCX",
    "DCX": "DCX",
    "SGI": "SGI",
    "SUN": "Sun raster",
    "XBM": "XBM",
    "XPM": "XPM",
    "FITS": "FITS",
    "IM": "IM",
    "MSP": "MSP",
}
"""Pillow's name of a kind -> what people call it."""
LEFT_OUT = {
    "EPS": "a program that Ghostscript would run",
    "WMF": "drawing commands for Windows; EMF as well",
    "BUFR": "Pillow only recognises it",
    "GRIB": "Pillow only recognises it",
    "HDF5": "Pillow only recognises it",
    "MPEG": "a film",
    "TGA": "nothing at its beginning tells it from other files",
    "IPTC": "nothing at its beginning tells it from other files",
    "PCD": "nothing at its beginning tells it from other files",
    "SPIDER": "nothing at its beginning tells it from other files",
    "IMT": "rare, and never tested here",
    "MCIDAS": "rare, and never tested here",
    "XVTHUMB": "rare, and never tested here",
    "PIXAR": "rare, and never tested here",
    "FLI": "rare, and never tested here",
    "BLP": "rare, and never tested here",
    "FTEX": "rare, and never tested here",
    "GBR": "rare, and never tested here",
}
"""Pillow's name of a kind -> why it is refused."""
HEIF = "HEIF"
"""Read where pillow-heif is installed (the extra "heif")."""
STILL = ("MPO", "PSD")
"""Kinds whose further frames are no pictures of their own: a phone's small copy, layers."""
COMMON = "PNG, JPEG, WebP, AVIF, TIFF, GIF or BMP"
"""What error lines offer; `docs/inputs.md` has the whole list."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heif(content: bytes) -> bool:
    """Whether a file says that it is HEIC or HEIF (ISO 23008-12), and not AVIF, which is built alike."""
    if content[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(content[:4], "big"), 256)
    brands = [content[8:12], *(content[place : place + 4] for place in range(16, length, 4))]
    return brands[0] in _HEIF_BRANDS and b"avif" not in brands


def heif_installed() -> bool:
    """Whether HEIC can be read; then Pillow knows how from now on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
