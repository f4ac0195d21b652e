"""One way to decode: an encoded image to (height, width, 3) uint8 RGB, whatever kind of file it is."""

import contextlib
import io
import warnings

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import PIL.WebPImagePlugin  # the one format of FORMATS that Pillow does not know from the start
import simplejpeg

from symm_jax.errors import InputError

# What photographs come in. Pillow's other readers, of which some start programs, are not let near the bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it warns; here the image is refused


def decode(encoded: bytes, name: str, *, orient: bool = False) -> np.ndarray:
    """Decodes an image; of several frames the first.

    Grey becomes three equal channels, 16 bits become 8, palettes and CMYK are resolved without colour profiles, and
    what is transparent is laid on white.

    Args:
      encoded: a JPEG, PNG, WebP or GIF file.
      name: of the image, for messages.
      orient: turn it as its EXIF orientation says. Benchmarks' images are not turned: nobody else does, and their
        boxes are those of the stored pixels.

    Returns:
      (height, width, 3) uint8 RGB.

    Raises:
      InputError: the image is damaged, of another format, or has more than MAX_PIXELS.
    """
    if not orient and (pixels := _flawless_photograph(encoded)) is not None:
        return pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                upright = orient and image.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1
                if upright and (pixels := _flawless_photograph(encoded)) is not None:
                    return pixels
                return np.asarray(_rgb(PIL.ImageOps.exif_transpose(image) if orient else image))
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise InputError(
            f"image {name} has more than {MAX_PIXELS:,} pixels, or says so; make it smaller or take it away"
        ) from error
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = "no JPEG, PNG, WebP or GIF" if isinstance(error, PIL.UnidentifiedImageError) else error
        raise InputError(
            f"image {name} cannot be decoded ({reason}); restore the file, or take it away, and run again"
        ) from error


def crop(image: np.ndarray, box: tuple[int, int, int, int], name: str) -> np.ndarray:
    """Rows y1:y2 and columns x1:x2 of (height, width, 3), as the original crops to a box (x1, y1, x2, y2).

    Raises:
      InputError: nothing of the image lies in the box.
    """
    x1, y1, x2, y2 = (int(v) for v in box)
    image = image[y1:y2, x1:x2]
    if not image.size:
        raise InputError(f"image {name} lies outside its box {(x1, y1, x2, y2)}; restore file or annotations")
    return image


def squash(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes (height, width, 3) uint8 to a square, each pixel the mean of the area it covers."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def _flawless_photograph(encoded: bytes) -> np.ndarray | None:
    """The pixels that Pillow would give, sooner, or None: what flaws matter, Pillow says."""
    with contextlib.suppress(ValueError):  # it is no JPEG, or has a flaw
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours == "YCbCr" and height * width <= MAX_PIXELS:
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=True)
    return None


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them at 255
        return PIL.Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
