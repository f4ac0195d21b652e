"""The page of duplicates and probable label errors: one HTML file without a script."""

import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from symm_jax import web
from symm_jax.data.tree import as_text

SIDE = 96  # pixels of a thumbnail
_WEB = Path(__file__).parent / "web"


class Card(NamedTuple):
    """A picture as it is shown.

    path: below the folder of pictures.
    label: its class, or "".
    note: text below it.
    odd: whether it is marked as what the group is about.
    image: (SIDE, SIDE, 3) uint8 RGB, or None for a picture that cannot be shown.
    file: the file, to be linked; None for a picture in an archive and for one that is gone.
    """

    path: str
    label: str
    note: str
    odd: bool
    image: np.ndarray | None
    file: Path | None


class Group(NamedTuple):
    """Pictures that are shown next to each other, with a title."""

    title: str
    cards: Sequence[Card]


class Section(NamedTuple):
    """A part of the page: its title, an explanation, and its groups."""

    title: str
    text: str
    groups: Sequence[Group]


def render(name: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """One self-contained HTML document.

    Args:
      name: the heading.
      facts: lines of text below it.
      sections: what is shown.
    """
    return string.Template((_WEB / "duplicates.html").read_text()).substitute(
        name=_escape(name),
        facts="".join(f"<li>{_escape(fact)}</li>" for fact in facts),
        style=web.style() + (_WEB / "page.css").read_text() + (_WEB / "duplicates.css").read_text(),
        sections="".join(map(_section, sections)),
    )


def _section(section: Section) -> str:
    groups = "".join(map(_group, section.groups))
    head = f"<h2>{_escape(section.title)}</h2><p>{_escape(section.text)}</p>"
    return f'<section>{head}<div class="groups">{groups}</div></section>\n'


def _group(group: Group) -> str:
    cards = "".join(f"<li>{_card(card)}</li>" for card in group.cards)
    return f'<article><h3>{_escape(group.title)}</h3><ul class="cards">{cards}</ul></article>\n'


def _card(card: Card) -> str:
    name = _escape(card.path)
    if card.image is None:
        picture = '<div class="thumb absent">gone or changed</div>'
    else:
        picture = f'<img class="thumb" alt="{name}" width="{SIDE}" height="{SIDE}" src="{web.to_uri(card.image)}">'
    path = f'<a href="{_escape(card.file.as_uri())}">{name}</a>' if card.file else name
    return (
        f'<figure class="{"odd" if card.odd else "plain"}">{picture}<figcaption>'
        f"<b>{_escape(card.label) or 'no class'}</b><span>{_escape(card.note)}</span>"
        f'<span class="path">{path}</span></figcaption></figure>'
    )


def _escape(text: str) -> str:
    return html.escape(as_text(text))
