"""Archives are read in place. Errors name malicious and damaged archives, and nothing is written to disk."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symm_jax import errors
from symm_jax.data import archives
from symm_jax.data.tree import Tree, digest, files_below

FILES = {"a/1.jpg": b"one" * 400, "a/2.jpg": b"two" * 500, "readme.txt": os.urandom(3000)}


def tar(path, members=FILES, mode="w"):
    """Members are bytes, or a TarInfo for a member that is not a file."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if isinstance(content, bytes) else info.size
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def zip_(path, members=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack(folder, kind, members=FILES):
    path = folder / f"x.{kind}"
    return zip_(path, members) if kind == "zip" else tar(path, members, "w" if kind == "tar" else "w:gz")


def special(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


KINDS = ("tar", "tgz", "tar.gz", "zip")


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_in_place(kind, tmp_path):
    path = pack(tmp_path, kind)
    members = archives.members(path)
    assert list(members) == list(FILES)
    with archives.reader(path) as read:
        for name in reversed(FILES):
            assert read(members[name]) == FILES[name]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\\..\\..\\x.jpg", "C:\\x.jpg"])
def test_members_outside_the_folder_are_rejected(kind, name, tmp_path):
    path = pack(tmp_path, kind, {"ok.jpg": b"1", name: b"2"})
    with pytest.raises(errors.InputError, match="is rejected: member .* is outside the archive's folder"):
        archives.members(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"\x00S"]
)
def test_links_devices_and_sparse_files_are_rejected(kind, tmp_path):
    with pytest.raises(errors.InputError, match="is rejected: member 'odd' is a link"):
        archives.members(tar(tmp_path / "x.tar", {"odd": special("odd", kind[-1:])}))


def test_links_and_encrypted_members_of_a_zip_are_rejected(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(errors.InputError, match="member 'link' is a link"):
        archives.members(tmp_path / "x.zip")
    content = bytearray(zip_(tmp_path / "y.zip", {"a.jpg": b"1"}).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    (tmp_path / "y.zip").write_bytes(content)
    with pytest.raises(errors.InputError, match="member 'a.jpg' is encrypted"):
        archives.members(tmp_path / "y.zip")


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_bombs_are_rejected_before_they_expand(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "EXPANSION_ALLOWED", 100_000)
    path = pack(tmp_path, kind, {"small.jpg": b"1", "zeros.jpg": bytes(10_000_000)})
    with pytest.raises(errors.InputError, match="is rejected: with member 'zeros.jpg' it expands to more than 0 MB"):
        archives.members(path)


def test_a_bomb_in_a_header_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_READ", 100_000)
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5_000_000
    with gzip.open(tmp_path / "x.tgz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(5_000_192))
    with pytest.raises(errors.InputError, match="is rejected: one of its headers asks for 5,000,"):
        archives.members(tmp_path / "x.tgz")


def test_too_many_or_too_large_members_are_rejected(tmp_path, monkeypatch):
    path = pack(tmp_path, "zip")
    members = archives.members(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(errors.InputError, match="more than 2 members"):
        archives.members(path)
    monkeypatch.setattr(archives, "MAX_READ", 1200)
    with archives.reader(path) as read, pytest.raises(errors.InputError, match="member 'a/2.jpg' has 0 MB"):
        assert read(members["a/1.jpg"]) and read(members["a/2.jpg"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_named(kind, tmp_path):
    path = pack(tmp_path, kind)
    complete = path.read_bytes()
    for length in (0, 100, len(complete) // 2, 2048, len(complete) - 9 if kind != "tar" else len(complete) // 2 + 512):
        path.write_bytes(complete[:length])
        with pytest.raises(errors.InputError, match=f"x.{kind} (cannot be read as an archive|is damaged or truncated)"):
            archives.members(path)


def test_a_tar_truncated_between_members_is_named(tmp_path):
    path = pack(tmp_path, "tar")
    with tarfile.open(path) as archive:
        ends = [m.offset_data + -(-m.size // 512) * 512 for m in archive]
    complete = path.read_bytes()
    for end in ends:
        path.write_bytes(complete[:end])
        with pytest.raises(errors.InputError, match="truncated. Download it again"):
            archives.members(path)


def test_a_web_page_instead_of_an_archive_is_named(tmp_path):
    for kind in KINDS:
        (tmp_path / f"x.{kind}").write_bytes(b"<html>not found</html>" * 100)
        with pytest.raises(errors.InputError, match="Download it again"):
            archives.members(tmp_path / f"x.{kind}")


def test_a_flipped_bit_in_a_zip_is_found_when_it_is_read(tmp_path):
    path = pack(tmp_path, "zip")
    members = archives.members(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"readme.txt") + 100] ^= 1
    path.write_bytes(content)
    with archives.reader(path) as read, pytest.raises(errors.InputError, match="x.zip cannot be read as an archive"):
        read(members["readme.txt"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from(["tar", "zip", "tgz"]))
def test_damaged_archives_are_read_or_named_and_never_written_out(data, kind, tmp_path_factory):
    """Bytes of the headers and of the content are overwritten, removed or inserted."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = pack(folder, kind)
    content = bytearray(path.read_bytes())
    if kind == "tgz":  # damaged before compression, so that gzip's checksum does not detect it
        content = bytearray(gzip.decompress(content))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        bytes_ = data.draw(st.binary(max_size=12))
        content[start : start + data.draw(st.integers(0, 12))] = bytes_
    path.write_bytes(gzip.compress(content) if kind == "tgz" else content)
    try:
        members = archives.members(path)
        with archives.reader(path) as read:
            for member in members.values():
                assert len(read(member)) == member.size
    except errors.InputError as error:
        assert str(path) in str(error)
    assert [p.name for p in folder.iterdir()] == [path.name]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(name=st.text(min_size=1, max_size=30), kind=st.sampled_from(["tar", "zip"]))
def test_any_name_stays_below_the_folder_or_is_rejected(name, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        path = pack(folder, kind, {name: b"x"})
    except (UnicodeEncodeError, ValueError, IndexError):  # no archive can have that name
        return
    try:
        paths = list(archives.members(path))
    except errors.InputError:
        return
    for path in paths:
        inside = os.path.normpath(folder / "target" / path)
        assert inside.startswith(f"{folder / 'target'}{os.sep}"), path


def test_a_tree_joins_folders_and_archives(tmp_path):
    (tmp_path / "sub").mkdir()
    tar(tmp_path / "sub/x.tar", {"a/1.jpg": b"packed", "a/2.jpg": b"packed", "__MACOSX/a/1.jpg": b"", "a/._1.jpg": b""})
    (tmp_path / "sub/a").mkdir()
    (tmp_path / "sub/a/1.jpg").write_bytes(b"plain")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "y.zip.partial").write_bytes(b"")
    (tmp_path / "again").symlink_to(tmp_path)  # a cycle
    tree = Tree(tmp_path)
    assert sorted(tree.entries) == ["sub/a/1.jpg", "sub/a/2.jpg"]
    with tree.opened() as read:
        assert read("sub/a/1.jpg") == b"plain" and read("sub/a/2.jpg") == b"packed"
    assert tree.find("2.jpg") == "sub/a/2.jpg" and tree.find("3.jpg") is None
    assert tree.locate(["a/1.jpg", "a/3.jpg"]) == ["sub/a/1.jpg", None]
    assert tree.locate(["b/1.jpg"]) == [None]


def test_a_digest_follows_names_sizes_and_times(tmp_path):
    tar(tmp_path / "x.tar")
    found = files_below(tmp_path)
    first = digest(tmp_path, found)
    assert digest(tmp_path, found) == first
    os.utime(tmp_path / "x.tar", ns=(1, 1))
    assert digest(tmp_path, found) != first
