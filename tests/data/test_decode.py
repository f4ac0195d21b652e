"""Every kind of image is decoded in the same way, and other files are rejected."""

import io

import cv2
import damage
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symm_jax import errors
from symm_jax.data import decode

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encode(image, kind="png", **options):
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def on_white(colour, alpha):
    return np.rint(255 + (colour.astype(float) - 255) * alpha[..., None] / 255)


ALPHA = np.broadcast_to(np.arange(20, dtype=np.uint8)[None] * 13, (12, 20))
PALETTE = PIL.Image.fromarray(RGB).quantize(16)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (encode(RGB), RGB),
        (encode(RGB, "webp", lossless=True), RGB),
        (encode(GREY), np.stack([GREY] * 3, -1)),
        (encode(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        (encode(GREY > 128), np.stack([np.uint8(255) * (GREY > 128)] * 3, -1)),
        (encode(PALETTE), np.asarray(PALETTE.convert("RGB"))),
        (encode(PALETTE, "gif"), np.asarray(PALETTE.convert("RGB"))),
        (encode(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA)),
        (encode(PIL.Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), on_white(np.stack([GREY] * 3, -1), ALPHA)),
    ],
    ids=["png", "webp", "grey", "16 bits", "1 bit", "palette", "gif", "alpha", "grey and alpha"],
)
def test_every_kind_becomes_rgb(encoded, expected):
    image = decode.decode(encoded, "a")
    assert image.dtype == np.uint8 and image.shape == (12, 20, 3)
    np.testing.assert_allclose(image.astype(float), expected, atol=1)


def test_a_jpeg_is_decoded_as_by_opencv():
    smooth = cv2.GaussianBlur(RGB, (0, 0), 2)
    encoded = encode(smooth, "jpeg", quality=95)
    image = decode.decode(encoded, "a")
    read = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - read).max() <= 1
    cmyk = decode.decode(encode(PIL.Image.fromarray(smooth).convert("CMYK"), "jpeg", quality=95), "a")
    assert np.abs(cmyk.astype(float) - smooth).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_on_request(orientation):
    turns = {1: "", 2: "x", 3: "xy", 4: "y", 5: "t", 6: "yt", 7: "xyt", 8: "xt"}[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(RGB, exif=exif)
    expected = RGB
    for turn in turns:
        expected = {"x": expected[:, ::-1], "y": expected[::-1], "t": expected.swapaxes(0, 1)}[turn]
    np.testing.assert_array_equal(decode.decode(encoded, "a", orient=True), expected)
    np.testing.assert_array_equal(decode.decode(encoded, "a"), RGB)


def test_a_jpeg_is_rotated_by_exif_or_xmp_and_read_by_pillow_only_with_these(monkeypatch):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for options in ({"exif": exif}, {"xmp": xmp}, {"xmp": xmp, "progressive": True}, {"xmp": xmp, "icc_profile": b"x"}):
        encoded = encode(RGB, "jpeg", **options)
        expected = np.rot90(decode.decode(encoded, "a"), -1)
        np.testing.assert_array_equal(decode.decode(encoded, "a", orient=True), expected)
    monkeypatch.setattr(PIL.Image, "open", None)
    assert decode.decode(encode(RGB, "jpeg"), "a", orient=True).shape == RGB.shape


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_memory_that_is_used_again_holds_the_same_image(kind):
    encoded = encode(RGB, kind)
    expected = decode.decode(encoded, "a")
    for size in (RGB.size + 5, RGB.size, RGB.size - 1):
        memory = np.empty(size, np.uint8)
        image = decode.decode(encoded, "a", memory=memory)
        np.testing.assert_array_equal(image, expected)
        assert np.shares_memory(image, memory) == (kind == "jpeg" and size >= RGB.size)
    out = np.empty((8, 8, 3), np.uint8)
    assert np.shares_memory(decode.resize_to_square(image, 8, out), out)
    np.testing.assert_array_equal(out, decode.resize_to_square(image, 8))


JPEG = encode(np.repeat(np.repeat(RGB, 20, 0), 20, 1), "jpeg")


def bomb():
    """A PNG whose header says 20,000 x 20,000."""
    good = bytearray(encode(RGB))
    good[16:24] = (20_000).to_bytes(4, "big") * 2
    import zlib

    good[29:33] = zlib.crc32(good[12:29]).to_bytes(4, "big")
    return bytes(good)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-2], "truncated"),
        (b"", "not a JPEG, PNG, WebP or GIF file"),
        (b"<html>moved</html>" * 50, "not a JPEG, PNG, WebP or GIF file"),
        (encode(RGB, "bmp"), "not a JPEG, PNG, WebP or GIF file"),
        (encode(RGB, "eps"), "not a JPEG, PNG, WebP or GIF file"),
        (bomb(), "has more than 89,478,485 pixels"),
        (encode(RGB)[:60], "cannot be decoded"),
    ],
    ids=["half", "end", "empty", "page", "bmp", "eps", "bomb", "png"],
)
def test_a_file_that_is_not_an_intact_photograph_is_named(encoded, message):
    with pytest.raises(errors.InputError, match=message) as error:
        decode.decode(encoded, "class/a.jpg")
    assert "image class/a.jpg" in str(error.value)


def test_box_crop_and_area_resize_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cropped = decode.crop(image, (4, 2, 28, 18), "a")
    np.testing.assert_array_equal(cropped, image[2:18, 4:28])
    means = cropped.reshape(8, 2, 8, 3, 3).mean((1, 3))
    np.testing.assert_allclose(decode.resize_to_square(cropped, 8), means, atol=1)
    with pytest.raises(errors.InputError, match="image a does not overlap its box"):
        decode.crop(image, (40, 2, 50, 18), "a")


def test_photographs_intact_or_with_flaws_are_decoded_as_by_pillow():
    rng = np.random.default_rng(0)
    smooth = PIL.Image.fromarray(cv2.GaussianBlur(RGB, (0, 0), 2))
    rejected = 0
    for options in ({}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 1}, {"keep_rgb": True}):
        whole = encode(smooth, "jpeg", **options)
        for flaw in range(40):
            encoded = bytearray(whole)
            if flaw:
                encoded[rng.integers(len(encoded))] ^= 1 << rng.integers(8)
            try:
                with PIL.Image.open(io.BytesIO(encoded)) as image:
                    expected = np.asarray(image.convert("RGB"))
            except Exception:
                rejected += 1
                with pytest.raises(errors.InputError):
                    decode.decode(bytes(encoded), "a")
            else:
                np.testing.assert_array_equal(decode.decode(bytes(encoded), "a"), expected)
    assert 0 < rejected < 100


TURNED = PIL.Image.Exif()
TURNED[0x0112] = 6
KINDS = [encode(RGB, kind, exif=TURNED) for kind in ("jpeg", "png", "webp")] + [encode(RGB, "gif"), encode(PALETTE)]


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(KINDS).flatmap(damage.of), st.booleans())
def test_an_image_with_any_damage_is_decoded_or_rejected(encoded, orient):
    try:
        image = decode.decode(encoded, "class/a.jpg", orient=orient)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    except errors.InputError as error:
        assert "image class/a.jpg" in str(error)
