"""--mode=duplicates: lists pictures that show the same shot, and probable label errors, and shows them in a page."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from symm_jax import files
from symm_jax.app.use_flags import Use
from symm_jax.data.tree import as_text
from symm_jax.report import duplicates as page
from symm_jax.search import Index, thumbnails
from symm_jax.search import duplicates as search
from symm_jax.search.duplicates import Found, Set, Suspect

PAGE = "duplicates.html"
_MAX_GROUPS, _MAX_CARDS = 100, 12  # that a page shows of each kind, and of a group


def duplicates(given: Use) -> list[str]:
    """Prints what was found as tables or as lines of JSON, and writes the page into the index.

    Raises:
      InputError: the index is damaged.
    """
    assert given.index is not None
    index = Index(given.index)
    found = search.find(index)
    if given.json:
        for line in _describe(index, found):
            print(json.dumps(line))
    else:
        _print(index, found)
    files.write_text(index.folder / PAGE, _render(index, found))
    print(f"page      {index.folder / PAGE}", file=sys.stderr if given.json else sys.stdout)
    return []


def _describe(index: Index, found: Found) -> Iterable[dict[str, Any]]:
    """What was found, one JSON object each."""
    paths = index.paths

    def picture(row: int, similarity: float | None = None, **others: Any) -> dict[str, Any]:
        known = {} if similarity is None else {"similarity": round(similarity, 6)}
        return {"path": paths[row], "class": index.rows[row].label, **known, **others}

    for each in found.sets:
        pictures = [
            picture(row, similarity, sha256=index.rows[row].sha256)
            for row, similarity in zip(each.rows, each.similarity, strict=True)
        ]
        yield {"kind": _kind(index, each), "conflict": each.conflict, "pictures": pictures}
    for each in found.suspects:
        neighbours = [picture(row, s) for row, s in zip(each.neighbours, each.similarity, strict=True)]
        yield {
            "kind": "label",
            **picture(each.row),
            "neighbours_class": each.label,
            "margin": round(each.margin, 6),
            "neighbours": neighbours,
        }


def _kind(index: Index, each: Set) -> str:
    if len({index.rows[row].sha256 for row in each.rows}) == 1:
        return "identical"
    return "mixed" if each.identical else "near"


def _print(index: Index, found: Found) -> None:
    print(f"index     {index.folder}: {len(index):,} pictures in {as_text(str(index.images))}")
    for fact in _facts(found):
        print(f"found     {fact}")
    if found.sets:
        rows = [
            (str(number), f"{similarity:.3f}", _label(index, row), as_text(index.rows[row].path))
            for number, each in enumerate(found.sets, 1)
            for row, similarity in zip(each.rows, each.similarity, strict=True)
        ]
        _print_table("the same shot", ("set", "similarity", "class", "picture"), rows)
    if found.suspects:
        rows = [
            (f"{each.margin:.3f}", _label(index, each.row), as_text(each.label), as_text(index.rows[each.row].path))
            for each in found.suspects
        ]
        _print_table("probable label errors", ("margin", "class", "class of its neighbours", "picture"), rows)
    print()


def _print_table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"\n{title}")
    for row in (head, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _facts(found: Found) -> list[str]:
    identical = sum(each.identical > 0 for each in found.sets)
    conflicts = sum(each.conflict for each in found.sets)
    pictures = sum(len(each.rows) for each in found.sets)
    facts = [
        f"sets of pictures of the same shot: {len(found.sets):,}, with pictures: {pictures:,}; "
        f"with identical files: {identical:,}, in several classes: {conflicts:,}",
        f"probable label errors: {len(found.suspects):,}, where the {search.NEIGHBOURS} nearest pictures are all of "
        "one other class",
    ]
    if found.unread:
        facts.append(f"gone or changed, and not compared by look: {found.unread:,}. Embed the pictures again")
    return facts


def _render(index: Index, found: Found) -> str:
    """The page. The first sets and label errors are shown, and how many are left out is said."""
    sets, suspects = found.sets[:_MAX_GROUPS], found.suspects[:_MAX_GROUPS]
    rows = {row for each in sets for row in each.rows[:_MAX_CARDS]}
    rows |= {row for each in suspects for row in (each.row, *each.neighbours)}
    images = dict(thumbnails.read_again(index, sorted(rows), page.SIDE, "page"))
    return page.render(
        f"{index.images.name}: {len(index):,} pictures",
        [f"index {index.folder}", f"pictures in {index.images}", *_facts(found)],
        [
            page.Section(
                "The same shot",
                "Pictures with the same content, and pictures that are similar and whose thumbnails are nearly the "
                "same. The number is the similarity to the most similar other one of the set."
                + _left_out(len(found.sets) - len(sets)),
                [_set_group(index, images, number, each) for number, each in enumerate(sets, 1)],
            ),
            page.Section(
                "Probable label errors",
                f"Each picture with a dashed frame has {search.NEIGHBOURS} nearest neighbours of one other class, the "
                "surest first. The margin is how much more similar the last of them is than the nearest picture of "
                "its own class." + _left_out(len(found.suspects) - len(suspects)),
                [_suspect_group(index, images, each) for each in suspects],
            ),
        ],
    )


def _set_group(index: Index, images: Mapping[int, np.ndarray | None], number: int, each: Set) -> page.Group:
    words = {"identical": "identical files", "mixed": f"the same shot, {each.identical:,} of them identical files"}
    kind = words.get(_kind(index, each), "the same shot")
    title = f"{number}. {len(each.rows):,} pictures, {kind}" + (", in several classes" if each.conflict else "")
    shown = list(zip(each.rows, each.similarity, strict=True))[:_MAX_CARDS]
    title += f", {len(each.rows) - len(shown):,} of them not shown" if len(each.rows) > len(shown) else ""
    return page.Group(title, [_card(index, images, row, f"{similarity:.3f}") for row, similarity in shown])


def _suspect_group(index: Index, images: Mapping[int, np.ndarray | None], each: Suspect) -> page.Group:
    cards = [_card(index, images, each.row, "suspected", odd=True)]
    cards += [_card(index, images, row, f"{s:.3f}") for row, s in zip(each.neighbours, each.similarity, strict=True)]
    return page.Group(f"{_label(index, each.row)}, or {each.label}? margin {each.margin:.3f}", cards)


def _card(
    index: Index, images: Mapping[int, np.ndarray | None], row: int, note: str, *, odd: bool = False
) -> page.Card:
    image, (path, *_, label) = images[row], index.rows[row]
    file = index.images / path
    return page.Card(path, label, note, odd, image, file if image is not None and file.is_file() else None)


def _label(index: Index, row: int) -> str:
    return as_text(index.rows[row].label) or "-"


def _left_out(count: int) -> str:
    return f" {count:,} more are not shown here." if count else ""
