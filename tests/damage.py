"""Damaged versions of a file, for property tests."""

from hypothesis import strategies as st


def of(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` after one to three changes: a byte set, a part cut out, bytes put in, a part repeated, or the end cut."""
    place = st.integers(0, len(whole) - 1)
    change = st.tuples(
        st.sampled_from(["set", "cut", "put", "repeat", "end"]), place, st.binary(min_size=1, max_size=8)
    )
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _apply(whole, changes))


def _apply(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in changes:
        before, after = content[:place], content[place:]
        content = {
            "set": before + new[:1] + after[1:],
            "cut": before + after[len(new) :],
            "put": before + new + after,
            "repeat": before + after[: 4 * len(new)] + after,
            "end": before,
        }[kind]
    return content
