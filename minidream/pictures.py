"""Pictures from any file, and files that are written whole or not at all. Taught in notebook 01."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from minidream.errors import UserError

MAX_PIXELS = 16_000_000  # Pillow's own limit is 89 million, and only a warning
FORMATS = ("PNG", "JPEG", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
UPRIGHT = {  # what brings it upright again
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_picture(source: str | Path | io.BytesIO) -> Image.Image:
    """Read a PNG, JPEG or WebP as RGB: upright, first frame, 8 bit, transparency on white.

    Raises `UserError` if it is missing, not a picture of these formats, damaged, or larger than 16 megapixels (which
    is known, and refused, before any pixel is decoded).
    """
    name = "the picture" if isinstance(source, io.BytesIO) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            image.load()
            # By hand: Pillow's exif_transpose writes all of the tags anew, and fails at one of a wrong type.
            turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
            return to_rgb(image if turn is None else image.transpose(turn))
    except FileNotFoundError:
        raise UserError(f"{name} does not exist: check the path") from None
    except PermissionError:
        raise UserError(f"{name} may not be read: check its permissions") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} is too large: scale it down to at most 16 megapixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"{name} cannot be read as PNG, JPEG or WebP ({reason}): save it again as PNG") from None


def read_pixels(image: Image.Image, name: str = "a picture") -> None:
    """Read a picture that Pillow has only opened. Raises `UserError`, which names it, if that cannot be done."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, AssertionError) as error:  # the last of a file that was closed
        raise UserError(f"{name} cannot be read ({error}): save it again as PNG") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture as 8-bit RGB, transparency on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bit; Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) / 257 + 0.5).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit_picture(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, `side` x `side` RGB; a picture that fits already comes back unchanged."""
    image = to_rgb(image)
    if image.size == (side, side):
        return image
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write all of the files or, if one cannot be written or the disk is full, none. Where a link stands, the file that
    it names is written. Raises OSError."""
    contents = {path.resolve(): content for path, content in contents.items()}
    for path in contents:
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "not a file", str(path))
    temporary = {path: path.with_name(f".{os.getpid()}-{number}.writing") for number, path in enumerate(contents)}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            if path.parent.is_dir():
                path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    write_files({path: content})


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as the bytes of an RGB PNG file."""
    buffer = io.BytesIO()
    to_rgb(picture).save(buffer, "PNG")
    return buffer.getvalue()
