"""Which similarity is a match: thresholds measured on the pairs of pictures of an index with class folders.

Every pair is compared once, and its similarity is counted in a bin of 2**-20. A threshold is the edge of a bin, so the
fractions that are reported for it are exact. The memory does not depend on the number of pictures.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import tqdm

from symm_jax import errors, files
from symm_jax.errors import InputError
from symm_jax.search.index import Index

FILE, FIGURE = "calibration.json", "calibration.png"
LEVELS = {"0.01": 100, "0.001": 1000}  # FMR -> one pair in so many, which is also the fewest pairs that it needs
MATCH = "0.01"  # the level of `Thresholds.is_match`
MAX_PICTURES = 100_000  # of more, so many are drawn
SCALE = 2**20  # bins per unit of similarity. A float32 times a power of two is exact.
_TILE = 2048  # pictures that are compared with as many at a time
_VERSION = 1


class Thresholds(NamedTuple):
    """Similarities that tell classes apart.

    at: false match rate as text, "0.01" and, where it could be measured, "0.001" -> cosine similarity.
    pictures: how many pictures it was measured on.
    classes: their number of classes.
    """

    at: dict[str, float]
    pictures: int = 0
    classes: int = 0

    def is_match(self, similarity: float) -> bool:
        """Whether so similar pictures count as one class: 1 % of the pairs of different classes do."""
        return similarity >= self.at[MATCH]


class Counts(NamedTuple):
    """Numbers of pairs by similarity s. Bin i counts i <= (s + 1) * SCALE < i + 1.

    same: (2 * SCALE + 1,) int64, pairs of one class.
    different: the same for pairs of different classes.
    """

    same: np.ndarray
    different: np.ndarray


class Level(NamedTuple):
    """What passes at a threshold. A pair passes when its similarity is not below the threshold.

    similarity: the threshold.
    fmr: false match rate, the fraction of the pairs of different classes that pass.
    fnmr: false non-match rate, the fraction of the pairs of one class that fail.
    """

    similarity: float
    fmr: float
    fnmr: float


class Calibration(NamedTuple):
    """What was measured.

    pictures: pictures that were compared.
    classes: their number of classes.
    without_class: pictures that are in no class folder, and were left out.
    labelled: pictures that are in a class folder; more than `pictures` where these were drawn from them.
    at: key of LEVELS -> `Level`; None where there are too few pairs.
    equal_error_rate: FMR and FNMR where they are equal, or the mean of both where they are nearest.
    counts: the pairs by similarity.
    """

    pictures: int
    classes: int
    without_class: int
    labelled: int
    at: dict[str, Level | None]
    equal_error_rate: float
    counts: Counts


def measure(index: Index) -> Calibration:
    """Measures the thresholds of the network of an index, on all pairs of its pictures in class folders.

    The threshold at a false match rate is the lowest multiple of 2**-20 at which no more pairs of different classes
    pass. Of more than MAX_PICTURES pictures, so many are drawn with a fixed seed.

    Raises:
      InputError: there are no two classes, no class has two pictures, or there are too few pairs.
    """
    names = np.array(index.labels)
    labelled = np.flatnonzero(names != "")
    rows = labelled
    if len(labelled) > MAX_PICTURES:
        rows = np.sort(np.random.default_rng(0).choice(labelled, MAX_PICTURES, replace=False))
    classes, labels = np.unique(names[rows], return_inverse=True)
    _require_pairs(index, len(rows), np.bincount(labels))
    counts = count_pairs(index.embeddings, rows, labels)
    fmr, fnmr = rates(counts)
    balanced = int(np.abs(fmr - fnmr).argmin())
    return Calibration(
        pictures=len(rows),
        classes=len(classes),
        without_class=len(names) - len(labelled),
        labelled=len(labelled),
        at={name: _level(counts, fmr, fnmr, one_in) for name, one_in in LEVELS.items()},
        equal_error_rate=float(fmr[balanced] + fnmr[balanced]) / 2,
        counts=counts,
    )


def count_pairs(embeddings: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> Counts:
    """Counts all pairs of different rows by their cosine similarity.

    Args:
      embeddings: (n, dim) float32 or float16, rows of unit length, also a memory map.
      rows: (m,) integer, the rows that are compared.
      labels: (m,) integer classes of these rows.
    """
    size = 2 * SCALE + 1  # similarities from -1 to 1, and 1 itself
    every, same = np.zeros(size, np.int64), np.zeros(size, np.int64)
    tiles = range(0, len(rows), _TILE)
    total = len(rows) * (len(rows) - 1) // 2
    with tqdm.tqdm(
        total=total,
        desc="compare",
        unit="pair",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=len(tiles) < 3,
    ) as progress:
        for bins, alike in (_compare(embeddings, rows, labels, i, j) for i in tiles for j in tiles if j >= i):
            every += np.bincount(bins, minlength=size)
            same += np.bincount(bins[alike], minlength=size)
            progress.update(len(bins))
    return Counts(same, every - same)


def rates(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """FMR and FNMR, (2 * SCALE + 2,) float64 each, at the threshold i / SCALE - 1."""
    return _passing(counts.different) / counts.different.sum(), 1 - _passing(counts.same) / counts.same.sum()


def write(index: Index, found: Calibration) -> None:
    """Writes calibration.json into the folder of an index."""
    content = {
        "version": _VERSION,
        "pictures": found.pictures,
        "classes": found.classes,
        "without_class": found.without_class,
        "drawn_from": found.labelled,
        "pairs_of_one_class": int(found.counts.same.sum()),
        "pairs_of_different_classes": int(found.counts.different.sum()),
        "at": {name: level._asdict() if level else None for name, level in found.at.items()},
        "equal_error_rate": found.equal_error_rate,
        "network": _network(index),
    }
    files.write_text(index.folder / FILE, json.dumps(content, indent=2) + "\n")


def read(index: Index) -> Thresholds | None:
    """The thresholds that were measured for the network of an index.

    A threshold is a property of the network, so it stays valid when pictures are added or dropped. None, with a
    warning, when calibration.json is damaged or of another network; None when there is none.
    """
    path = index.folder / FILE
    if not path.exists():
        return None
    again = f"It is ignored. To measure again: --mode=calibrate --index={index.folder}"
    try:
        content = files.read_json_object(path)
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        levels, network = content["at"], dict(content["network"])
        at = {name: float(levels[name]["similarity"]) for name in LEVELS if levels[name]}
        found = Thresholds(at, int(content["pictures"]), int(content["classes"]))
        if MATCH not in at or not all(map(np.isfinite, at.values())):
            raise ValueError(f"no similarity at {MATCH}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        errors.warn(f"{path} is damaged ({error}). {again}")
        return None
    if network != _network(index):
        theirs, ours = network.get("sha256"), _network(index)["sha256"]
        what = f"other weights: SHA-256 {theirs}, and {ours} here" if theirs != ours else "another network"
        errors.warn(f"{path} was measured with {what}. {again}")
        return None
    return found


def _network(index: Index) -> dict[str, Any]:
    """What thresholds depend on."""
    about = index.about
    others = {key: about.get(key) for key in ("network", "preprocessing")}
    return {"sha256": about["weights"]["sha256"], **others}


def _require_pairs(index: Index, pictures: int, sizes: np.ndarray) -> None:
    """Raises InputError when pairs of both kinds are not there, or are too few for the first level."""
    needed = "It needs pictures in the folders of two or more classes, and several pictures per class."
    if not pictures:
        fact = "none of its pictures is in a class folder"
    elif len(sizes) == 1:
        fact = "its pictures are all of one class"
    elif sizes.max() == 1:
        fact = f"each of its {len(sizes):,} classes has a single picture"
    else:
        different = (pictures**2 - int((sizes.astype(np.int64) ** 2).sum())) // 2
        if different >= LEVELS[MATCH]:
            return
        fact = f"it has {different:,} pairs of different classes, and a false match rate of 1 % needs {LEVELS[MATCH]:,}"
        needed = "Add pictures or classes, and run --mode=embed again."
    raise InputError(f"{index.folder} cannot be calibrated: {fact}. {needed}", argument="index")


def _compare(
    embeddings: np.ndarray, rows: np.ndarray, labels: np.ndarray, i: int, j: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bins of the pairs of the tile at (i, j), and which pairs are of one class."""
    left, right = (np.asarray(embeddings[rows[k : k + _TILE]], np.float32) for k in (i, j))
    products = left @ right.T
    alike = labels[i : i + _TILE, None] == labels[None, j : j + _TILE]
    if i == j:
        upper = np.triu_indices(len(left), 1)
        products, alike = products[upper], alike[upper]
    np.clip(products, -1, 1, out=products)  # rounding passes 1
    products *= np.float32(SCALE)
    bins = np.floor(products, out=products).astype(np.intp).ravel()
    return np.add(bins, SCALE, out=bins), alike.ravel()


def _passing(bins: np.ndarray) -> np.ndarray:
    """How many pairs pass at each edge of a bin, the one above all of them included."""
    return np.append(np.cumsum(bins[::-1])[::-1], 0)


def _level(counts: Counts, fmr: np.ndarray, fnmr: np.ndarray, one_in: int) -> Level | None:
    """The lowest threshold at which at most one pair of different classes in `one_in` passes."""
    allowed = int(counts.different.sum()) // one_in
    if not allowed:
        return None
    edge = int(np.argmax(_passing(counts.different) <= allowed))
    return Level(edge / SCALE - 1, float(fmr[edge]), float(fnmr[edge]))
