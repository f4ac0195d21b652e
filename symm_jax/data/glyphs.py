"""Glyphs: a data set of rendered characters. A class is a character, and an image shows it in one face, in clutter.

Nothing is downloaded: the fonts come with the matplotlib wheel. Of characters that look alike (Latin A, Greek Alpha,
Cyrillic A; o and O) at most one is a class. The test classes are never seen in training.
"""

import dataclasses
import functools
import hashlib
import io
import string
import unicodedata
from pathlib import Path
from typing import ClassVar, cast

import cv2
import matplotlib.font_manager
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import tensorflow_datasets as tfds

from symm_jax.data.builder import Info

_FAMILIES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
    "cm": ("r10", "b10", "ss10", "ti10", "tt10"),
}
FACES = tuple(family + style for family, styles in _FAMILIES.items() for style in styles)
# Only for these characters do Computer Modern's code points agree with Unicode.
_CM_CHARACTERS = string.ascii_letters + string.digits
_MIN_FACES = 4
_CATEGORIES = ("Lu", "Ll", "Lt", "Lo", "Nd", "Sm", "Sc")  # letters, digits, mathematical and currency symbols
_LOOK_ALIKE = 0.82  # two characters with a higher correlation of clean renderings are one class
_POOL = 500  # classes are sampled from this many characters, those with the most faces


@dataclasses.dataclass
class GlyphsConfig(tfds.core.BuilderConfig):
    """The size and seed of the data set.

    num_classes: number of classes, half of them for test.
    images_per_class: number of images of each class.
    side: side of an image in pixels.
    seed: seed of everything random.
    """

    num_classes: int = 400
    images_per_class: int = 24
    side: int = 40
    seed: int = 0


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """PNG images (side, side, 3) with label 0 .. num_classes - 1; the first half of the classes is "train"."""

    VERSION = tfds.core.Version("1.0.0")
    PROTOCOL: ClassVar = {}  # this and the next two: see PhotographBuilder
    BOXES = ORIENT = False
    BUILDER_CONFIGS: ClassVar = [GlyphsConfig(name="default")]

    @property
    def _config(self) -> GlyphsConfig:
        return cast(GlyphsConfig, self.builder_config)

    def _info(self) -> Info:
        return Info(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=self._config.num_classes),
                    "filename": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager
        config = self._config
        classes = sample_classes(config.num_classes, config.seed)
        half = config.num_classes // 2
        return {
            "train": self._generate_examples(classes, range(half)),
            "test": self._generate_examples(classes, range(half, config.num_classes)),
        }

    def _generate_examples(self, classes: list[str], labels: range):
        config = self._config
        for label in labels:
            for index in range(config.images_per_class):
                name = f"U+{ord(classes[label]):04X}/{index:04d}.png"
                rng = np.random.default_rng([config.seed, label, index])
                image = _encode_png(render(classes[label], config.side, rng))
                yield name, {"image": image, "label": label, "filename": name}


def source_digest() -> str:
    """A digest of everything the images depend on: this file, and the releases of the fonts and of the libraries."""
    versions = f"{matplotlib.__version__} {PIL.__version__} {cv2.__version__} {np.__version__}"
    return hashlib.sha256(Path(__file__).read_bytes() + versions.encode()).hexdigest()


def sample_classes(num_classes: int, seed: int) -> list[str]:
    """Samples characters without look-alikes. Raises ValueError when there are not enough."""
    distinct = distinct_characters()
    if num_classes > len(distinct):
        raise ValueError(
            f"num_classes = {num_classes}: the fonts have only {len(distinct)} characters that differ enough"
        )
    pool = max(_POOL, num_classes)
    return [distinct[i] for i in np.random.default_rng(seed).permutation(min(pool, len(distinct)))[:num_classes]]


@functools.cache
def candidates() -> tuple[str, ...]:
    """Letters, digits and symbols that at least 4 faces have, sorted by decreasing number of faces, then by code point.

    Characters that Unicode decomposes are left out: accented letters, ligatures, letters of another style or size.
    """
    codes = sorted(frozenset.union(*map(_charmap, FACES)))
    characters = [c for c in map(chr, codes) if unicodedata.category(c) in _CATEGORIES]
    kept = [c for c in characters if unicodedata.normalize("NFKD", c) == c and len(faces_of(c)) >= _MIN_FACES]
    return tuple(sorted(kept, key=lambda c: -len(faces_of(c))))


@functools.cache
def distinct_characters() -> tuple[str, ...]:
    """The candidates without look-alikes: each differs from all before it in every face that both have.

    Similarity is the correlation of clean renderings scaled to one box, so it ignores size and position.
    """
    characters = candidates()
    alike = np.zeros((len(characters), len(characters)), bool)
    for face in FACES:
        rows = np.array([i for i, c in enumerate(characters) if face in faces_of(c)])
        shapes = np.stack([_normalised_shape(characters[i], face) for i in rows])
        alike[np.ix_(rows, rows)] |= shapes @ shapes.T > _LOOK_ALIKE
    kept: list[int] = []
    for i in range(len(characters)):
        if alike[i, i] and not alike[i, kept].any():  # the similarity of a blank rendering to itself is 0
            kept.append(i)
    return tuple(characters[i] for i in kept)


@functools.cache
def faces_of(character: str) -> tuple[str, ...]:
    """The faces of FACES that have the character."""
    return tuple(face for face in FACES if ord(character) in _charmap(face))


def render(character: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """`render_in_face` in a random face that has the character; (side, side, 3) uint8 RGB."""
    faces = faces_of(character)
    return render_in_face(character, faces[rng.integers(len(faces))], side, rng)


def render_in_face(character: str, face: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Renders one image of a character: a random affine map, paper, ink and clutter.

    Args:
      character: a character that `face` has.
      face: one of FACES.
      side: side of the image in pixels.
      rng: the source of everything random.

    Returns:
      (side, side, 3) uint8 RGB, which depends only on the arguments and the generator's state.
    """
    image = _paper(side, rng)
    for _ in range(rng.integers(0, 3)):
        _blend(image, _stroke(side, rng), _tinted(rng.uniform(0, 255), rng), rng.uniform(0.3, 0.7))
    for _ in range(rng.integers(0, 3)):
        other = _ink(_CLUTTER[rng.integers(len(_CLUTTER))], FACES[rng.integers(len(FACES))])
        corner = rng.choice([-1, 1], 2) * rng.uniform(0.35, 0.5, 2)
        _blend(image, _warp(other, side, rng, corner), _tinted(rng.uniform(0, 255), rng), rng.uniform(0.3, 0.7))
    mask = _warp(_ink(character, face), side, rng, rng.uniform(-0.08, 0.08, 2))
    _blend(image, mask, _tinted(rng.uniform(0, 90), rng), rng.uniform(0.75, 1.0))
    image += rng.normal(0, rng.uniform(2, 10), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


_CLUTTER = tuple("0123456789ABDEFGHJKLMNPQRTUVXYabdefghknrtuy")
_INK_SIZE = 64  # font size in pixels of a character's mask


def _encode_png(image: np.ndarray) -> bytes:
    # tfds would encode arrays with TensorFlow, which is not installed. It stores bytes unchanged.
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _path(face: str) -> str:
    return f"{matplotlib.get_data_path()}/fonts/ttf/{face}.ttf"


@functools.cache
def _font(face: str) -> PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.truetype(_path(face), _INK_SIZE, layout_engine=PIL.ImageFont.Layout.BASIC)


@functools.cache
def _charmap(face: str) -> frozenset[int]:
    if face.startswith("cm"):
        return frozenset(map(ord, _CM_CHARACTERS))
    return frozenset(matplotlib.font_manager.get_font(_path(face)).get_charmap())


@functools.lru_cache(maxsize=4096)
def _ink(character: str, face: str) -> np.ndarray:
    """The character's mask cropped to its ink, uint8 (height, width); zeros (1, 1) if there is no ink."""
    mask = PIL.Image.new("L", (4 * _INK_SIZE, 4 * _INK_SIZE))
    PIL.ImageDraw.Draw(mask).text((1.5 * _INK_SIZE, 1.5 * _INK_SIZE), character, 255, _font(face))
    box = mask.getbbox()
    return np.asarray(mask.crop(box)) if box else np.zeros((1, 1), np.uint8)


def _normalised_shape(character: str, face: str, side: int = 24) -> np.ndarray:
    """The ink scaled to a box and blurred by a pixel so that thin lines overlap, as a unit vector of mean 0."""
    ink = _ink(character, face).astype(np.float32)
    size = np.maximum(1, np.rint(side * np.array(ink.shape) / max(ink.shape))).astype(int)
    small = cv2.resize(ink, tuple(int(s) for s in size[::-1]), interpolation=cv2.INTER_AREA)
    canvas = np.zeros((side + 4, side + 4), np.float32)
    top, left = (canvas.shape - size) // 2
    canvas[top : top + size[0], left : left + size[1]] = small
    shape = cv2.GaussianBlur(canvas, (0, 0), 1.0).ravel()
    shape = shape - shape.mean()
    return shape / max(np.linalg.norm(shape), 1e-6)


def _warp(ink: np.ndarray, side: int, rng: np.random.Generator, offset: np.ndarray) -> np.ndarray:
    """Places ink on a (side, side) canvas, randomly rotated, sheared and scaled; `offset` from the centre, in sides."""
    angle, shear = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)
    scale = side * rng.uniform(0.6, 0.8) / max(ink.shape)
    stretch = np.diag(scale * np.exp(rng.uniform(-0.15, 0.15, 2)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ stretch
    centre = np.array([ink.shape[1], ink.shape[0]]) / 2
    shift = side * (0.5 + offset) - linear @ centre
    matrix = np.column_stack([linear, shift])
    # Blurred to the output's resolution first: warpAffine alone would alias.
    soft = cv2.GaussianBlur(ink, (0, 0), max(0.3, 0.4 / scale))
    return cv2.warpAffine(soft, matrix, (side, side), flags=cv2.INTER_LINEAR).astype(np.float32) / 255


def _paper(side: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth light field, (side, side, 3) float64."""
    corners = _tinted(rng.uniform(150, 240), rng) + rng.normal(0, 15, (2, 2, 1))
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)


def _tinted(luminance: float, rng: np.random.Generator) -> np.ndarray:
    """A colour of about this luminance, (3,) float64."""
    return luminance + rng.normal(0, 20, 3)


def _stroke(side: int, rng: np.random.Generator) -> np.ndarray:
    """A random line as a mask."""
    mask = np.zeros((side, side), np.uint8)
    start, end = rng.integers(0, side, 2), rng.integers(0, side, 2)
    cv2.line(mask, start.tolist(), end.tolist(), 255, int(rng.integers(1, 3)), cv2.LINE_AA)
    return mask.astype(np.float32) / 255


def _blend(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, opacity: float) -> None:
    image += opacity * mask[..., None] * (colour - image)
