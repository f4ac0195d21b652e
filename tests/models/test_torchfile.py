"""The reader of PyTorch's old format: a real file, malicious versions of it, and damage at every byte."""

import pickle
from pathlib import Path

import damage
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings

from symm_jax import errors, models
from symm_jax.models import resnet, torchfile

REAL = Path("tests/records/old_format.pth").read_bytes()


def read(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return torchfile.read(path)


def test_a_file_of_pytorch(tmp_path):
    tensors = read(tmp_path, REAL)
    np.testing.assert_array_equal(tensors["weight"], [[0, 3], [1, 4], [2, 5]])  # a transposed view
    assert tensors["weight"].dtype == np.float32
    assert tensors["count"].dtype == np.int64
    assert tensors["count"] == 7
    with pytest.raises(ValueError, match="read-only"):
        tensors["weight"][0, 0] = 1


class Call:
    """Pickled, asks the reader to call `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HEAD, TAIL = REAL.index(b"\x80\x02ccollections"), REAL.index(b"\x80\x02]")
WEIGHT = b"QK\x00K\x03K\x02\x86q\x09K\x01K\x03\x86"  # storage, offset 0, shape (3, 2), strides (1, 3)


def with_object(value):
    return REAL[:HEAD] + pickle.dumps(value, protocol=2) + REAL[TAIL:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "old format"),
        (b"<html>not found</html>", "old format"),
        (b"PK\x03\x04" + bytes(100), "new format"),
        (REAL[:-1], "storage .* is truncated"),
        (REAL[:200], "old format"),
        (with_object(Call(exec, "raise SystemExit(1)")), "asks for '(builtins|__builtin__) exec'"),
        (REAL.replace(b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem"), "asks for 'os system'"),
        (REAL.replace(b"torch\nFloatStorage", b"torch\nload"), "asks for 'torch load'"),
        (REAL.replace(b"ctorch._utils\n_rebuild_tensor_v2", b"ctorch\nFloatStorage"), "calls something other"),
        (REAL[:HEAD] + b"\x80\x04\x8c\x02os\x8c\x06system\x93." + REAL[TAIL:], "instruction SHORT_BINUNICODE"),
        (REAL[:HEAD] + b"\x80\x02(i__main__\nx\n." + REAL[TAIL:], "instruction INST"),
        (REAL[:HEAD] + b"\x80\x02\x82\x01." + REAL[TAIL:], "instruction EXT1"),
        (with_object([1, 2]), "does not hold a state dict"),
        (with_object({"a": 1}), "a is not a tensor"),
        (with_object({1: 1}), "a key is not a string"),
        (REAL.replace(WEIGHT, WEIGHT.replace(b"K\x03K\x02", b"K\x03K\x03")), "is larger than its storage"),
        (REAL.replace(WEIGHT, WEIGHT.replace(b"QK\x00", b"QK\x01")), "is larger than its storage"),
        (REAL.replace(WEIGHT, WEIGHT.replace(b"K\x03K\x02", b"J\xff\xff\xff\x7fK\x02")), "impossible size"),
        (REAL.replace(WEIGHT, WEIGHT.replace(b"K\x01K\x03", b"J\xff\xff\xff\xffK\x03")), "impossible size"),
        # Six values with a shape of 36: each is used six times.
        (
            REAL.replace(WEIGHT, b"QK\x00K\x06K\x06\x86q\x09K\x00K\x01\x86"),
            "is larger than its storage",
        ),
        (REAL.replace(WEIGHT, WEIGHT.replace(b"K\x03K\x02\x86", b"K\x06\x85")), "1 sizes and 2 strides"),
        (REAL.replace(b"K\x06Nt", b"J\xff\xff\xff\x7fNt"), "storage .* is truncated"),
        (REAL[: -6 * 4 - 8] + b"\xff" * 8 + REAL[-6 * 4 :], "storage .* is truncated"),
        # A memo index for which pickle would allocate 64 GB, and a string longer than the file.
        (REAL[:HEAD] + b"\x80\x02Nr\xff\xff\xff\xff." + REAL[TAIL:], "does not hold a state dict"),
        (REAL[:HEAD] + b"\x80\x02X\xff\xff\xff\x7f", "expected 2147483647 bytes"),
        # Tuples so deep that comparing or hashing them would overflow the stack.
        (REAL[:HEAD] + b"\x80\x02)" + b"\x85" * 100_000 + b"Q." + REAL[TAIL:], "old format"),
        (REAL[:HEAD] + b"\x80\x02}X\x01\x00\x00\x00a)" + b"\x85" * 100_000 + b"s." + REAL[TAIL:], "a is not a tensor"),
    ],
)
def test_malicious_and_damaged_files_are_rejected(tmp_path, content, message):
    with pytest.raises(errors.InputError, match=message):
        read(tmp_path, content)


def test_a_file_with_any_changed_byte_is_read_or_rejected(tmp_path):
    rng = np.random.default_rng(0)
    rejected = 0
    for position in range(len(REAL)):
        content = bytearray(REAL)
        content[position] ^= int(rng.integers(1, 256))
        try:
            assert all(isinstance(x, np.ndarray) for x in read(tmp_path, content).values())
        except errors.InputError:
            rejected += 1
    assert rejected > len(REAL) // 2


TENSORS = safetensors.numpy.save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.int64)})


@pytest.mark.parametrize(("reader", "whole"), [(torchfile.read, REAL), (resnet._read_safetensors, TENSORS)])
def test_a_file_of_weights_with_any_damage_is_read_or_rejected(tmp_path, reader, whole):
    path = tmp_path / "weights"

    @settings(max_examples=80, deadline=None, database=None)
    @given(damage.of(whole))
    def check(content):
        path.write_bytes(content)
        try:
            assert all(isinstance(x, np.ndarray) for x in reader(path).values())
        except errors.InputError as error:
            assert str(error)

    check()


def test_a_file_of_weights_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setitem(models.BACKBONES, "mine", models.BackboneSpec(models.ConvNet, refuse))
    with pytest.raises(errors.InputError, match="pretrained: .*weights cannot be read .Permission denied"):
        models.load_pretrained("mine", tmp_path / "weights")
