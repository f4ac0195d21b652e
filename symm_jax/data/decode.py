"""Decodes an encoded image of any supported format to (height, width, 3) uint8 RGB, always in the same way."""

import contextlib
import io
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import PIL.WebPImagePlugin  # the only format of FORMATS that Pillow does not register by itself
import simplejpeg

from symm_jax.errors import InputError

# The formats of photographs. Pillow's other readers, some of which start programs, never get the bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it warns; here the image is rejected


def decode(encoded: bytes, name: str, *, orient: bool = False, memory: np.ndarray | None = None) -> np.ndarray:
    """Decodes an image. If it has several frames, the first is used.

    Grey becomes three equal channels and 16 bits become 8. Palettes and CMYK are converted without colour profiles.
    Transparent pixels are blended with white.

    Args:
      encoded: a JPEG, PNG, WebP or GIF file.
      name: the image's name, for messages.
      orient: rotate the image by its EXIF orientation. Images of benchmarks are not rotated: other implementations do
        not rotate them, and their boxes refer to the stored pixels.
      memory: (bytes,) uint8. An image that has room in it may be stored there, which is faster than fresh memory. The
        image is then valid until the next one is stored there.

    Returns:
      (height, width, 3) uint8 RGB.

    Raises:
      InputError: the image is damaged, has another format, or has more than MAX_PIXELS.
    """
    orient = orient and _may_have_orientation(encoded)
    if not orient and (pixels := _decode_flawless_jpeg(encoded, memory)) is not None:
        return pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                upright = orient and image.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1
                if upright and (pixels := _decode_flawless_jpeg(encoded, memory)) is not None:
                    return pixels
                return np.asarray(_to_rgb(PIL.ImageOps.exif_transpose(image) if orient else image))
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise InputError(
            f"image {name} has more than {MAX_PIXELS:,} pixels, or its header says so. Make it smaller, or move it out "
            "of the data folder."
        ) from error
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = "not a JPEG, PNG, WebP or GIF file" if isinstance(error, PIL.UnidentifiedImageError) else error
        raise InputError(
            f"image {name} cannot be decoded ({reason}). Restore the file, or move it out of the data folder, and run "
            "again."
        ) from error


def crop(image: np.ndarray, box: Sequence[int], name: str) -> np.ndarray:
    """Crops (height, width, 3) to rows y1:y2 and columns x1:x2 of a box (x1, y1, x2, y2), as the original does.

    Raises:
      InputError: the box and the image do not overlap.
    """
    x1, y1, x2, y2 = (int(v) for v in box)
    image = image[y1:y2, x1:x2]
    if not image.size:
        raise InputError(
            f"image {name} does not overlap its box {(x1, y1, x2, y2)}. Restore the file or the annotations."
        )
    return image


def resize_to_square(image: np.ndarray, side: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resizes (height, width, 3) uint8 to a square, into `out` if given. A pixel is the mean of the area it covers."""
    return cv2.resize(image, (side, side), dst=out, interpolation=cv2.INTER_AREA)


def _decode_flawless_jpeg(encoded: bytes, memory: np.ndarray | None) -> np.ndarray | None:
    """Pillow's pixels, decoded faster; None for other formats and for every flaw, which Pillow then judges."""
    with contextlib.suppress(ValueError):  # it is not a JPEG, or it has a flaw
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours == "YCbCr" and int(height) * int(width) <= MAX_PIXELS:
            has_room = memory is not None and 3 * int(height) * int(width) <= len(memory)
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=True, buffer=memory if has_room else None)
    return None


def _may_have_orientation(encoded: bytes) -> bool:
    """Whether a JPEG has EXIF or XMP data with an orientation before its scan of pixels; True for other formats."""
    if not encoded.startswith(b"\xff\xd8"):
        return True
    header = encoded[: encoded.find(b"\xff\xda\x00\x0c\x03")]  # all but the last byte where there is no such scan
    return b"Exif" in header or b"rientation" in header


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them at 255
        return PIL.Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
