"""CRC-32, by ISA-L where it is installed: the same values as zlib's, several times as fast."""

try:
    from isal.isal_zlib import crc32  # pyright: ignore[reportMissingImports]  it has no wheels for some machines
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
