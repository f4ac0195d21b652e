"""What the pages of this project share: style, functions of their scripts, and pictures as WebP."""

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image

_QUALITY = 75  # a photograph of 96 px takes about 2 kB
_FOLDER = Path(__file__).parent


def style() -> str:
    """base.css: colours for light and dark, text, buttons, the cards of a query and its neighbours."""
    return (_FOLDER / "base.css").read_text()


def script() -> str:
    """elements.js: making elements, and moving between them with the arrow keys."""
    return (_FOLDER / "elements.js").read_text()


def to_webp(image: np.ndarray) -> bytes:
    """Encodes (height, width, 3) uint8 RGB as WebP.

    Example:
      >>> to_webp(np.zeros((2, 2, 3), np.uint8))[8:12]
      b'WEBP'
    """
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()


def to_uri(image: np.ndarray) -> str:
    """`to_webp` as a data URI, for a page that is one file."""
    return "data:image/webp;base64," + base64.b64encode(to_webp(image)).decode()
