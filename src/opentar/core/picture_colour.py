"""Colours brought to sRGB, which is what models have seen.

A colour profile in the file decides what its numbers mean (Display P3 of phones, Adobe RGB of cameras, CMYK of
printers). It is applied with LittleCMS, relative to the white and with black point compensation, as browsers do. A
profile that cannot be read or does not belong to such a picture is passed over; without one nothing changes.
"""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms

from opentar.core.picture_metadata import MAX_PROFILE_BYTES

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SRGB_NAMES = ("sRGB", "sRGB built-in", "sRGB IEC61966-2.1", "sRGB IEC61966-2-1", "sRGB IEC61966-2.1 black scaled")
_WITH_ALPHA = {"RGBA": "RGB", "LA": "L"}


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.core.CmsProfile:
    return ImageCms.createProfile("sRGB")


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of mode L, LA, RGB, RGBA or CMYK with its colours in sRGB: mode RGB or RGBA where they changed."""
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # The profile's own name; others that begin alike are linear, or have another version of the curve.
        if ImageCms.getProfileDescription(source).strip() in _SRGB_NAMES:
            return image
        plain = image.convert(_WITH_ALPHA[image.mode]) if image.mode in _WITH_ALPHA else image
        found = ImageCms.profileToProfile(
            plain, source, _srgb(), renderingIntent=_INTENT, outputMode="RGB", flags=_FLAGS
        )
    # A profile is somebody's binary; LittleCMS and Pillow refuse it in several ways.
    except Exception:
        return image
    if found is None:
        return image
    if image.mode in _WITH_ALPHA:
        found.putalpha(image.getchannel("A"))
    return found


def from_lab(image: Image.Image) -> Image.Image:
    """A picture of CIE Lab as RGB."""
    found = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), _srgb(), outputMode="RGB")
    assert found is not None
    return found
