"""Cars196 (Krause et al., 2013) as a tfds builder: the class-disjoint split of metric learning.

The builder of tensorflow-datasets reads only one of the layouts below, its links are dead, and its splits share every
class.
"""

from collections.abc import Callable, Iterator

from symm_jax.data import tables
from symm_jax.data.builder import Counts, Example, PhotographBuilder, absence_error
from symm_jax.data.tree import Tree
from symm_jax.errors import InputError

TRAIN_CLASSES = 98  # classes 1-98 train, 99-196 test
_BOX = {f"bbox_{side}": tables.parse_int for side in ("x1", "y1", "x2", "y2")}


class Cars196(PhotographBuilder):
    """16,185 photographs of 196 models of cars with boxes; "train" holds classes 1-98, "test" 99-196.

    Read from any of

    - the original archive: `cars_annos.mat` and `car_ims/`;
    - the devkit: `cars_train_annos.mat`, `cars_test_annos_withlabels.mat`, `cars_train/`, `cars_test/`;
    - the copy by classes: `anno_train.csv`, `anno_test.csv`, `train/NAME/`, `test/NAME/`.
    """

    name = "cars196"
    NUM_CLASSES = 196
    PROTOCOL = {"train": Counts(8_054, 98), "test": Counts(8_131, 98)}  # noqa: RUF012
    BOXES = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "`cars_annos.mat` and `car_ims/`, or the devkit's files with `cars_test_annos_withlabels.mat`, or the copy by "
        "classes with `anno_train.csv` and `anno_test.csv`"
    )
    CITATION = """
@inproceedings{krause2013cars, title={3D Object Representations for Fine-Grained Categorization},
  author={Krause, Jonathan and Stark, Michael and Deng, Jia and Fei-Fei, Li}, booktitle={ICCV Workshops}, year={2013}}
"""

    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """See `PhotographBuilder.read`. The annotation files determine the layout."""
        layouts = {
            ("cars_annos.mat",): _original,
            ("cars_train_annos.mat", "cars_test_annos_withlabels.mat"): _devkit,
            ("anno_train.csv", "anno_test.csv"): _by_classes,
        }
        for names, layout in layouts.items():
            paths = [tree.find(name) for name in names]
            if None not in paths:
                examples = list(layout(tree, open_file, *paths))
                return {
                    "train": [e for e in examples if e.label < TRAIN_CLASSES],
                    "test": [e for e in examples if e.label >= TRAIN_CLASSES],
                }
        raise absence_error(tree, self)

    def class_names(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[int, str]:
        """See `PhotographBuilder.class_names`. The original annotations have them, and the devkit in a file apart."""
        path = tree.find("cars_annos.mat") or tree.find("cars_meta.mat")
        try:
            return dict(enumerate(tables.strings(open_file(path), path, "class_names"))) if path else {}
        except InputError:  # nothing else needs the devkit's file
            return {}


def _original(tree: Tree, open_file, path: str) -> Iterator[Example]:
    parsers = {"relative_im_path": tables.parse_relative_path, "class": tables.parse_int, **_BOX}
    for name, label, *box in tables.structs(open_file(path), path, "annotations", parsers):
        yield Example(name, label - 1, tuple(box))


def _devkit(tree: Tree, open_file, train: str, test: str) -> Iterator[Example]:
    parsers = {"fname": tables.parse_relative_path, "class": tables.parse_int, **_BOX}
    for folder, path in {"cars_train": train, "cars_test": test}.items():
        for name, label, *box in tables.structs(open_file(path), path, "annotations", parsers):
            yield Example(f"{folder}/{name}", label - 1, tuple(box))


def _by_classes(tree: Tree, open_file, train: str, test: str) -> Iterator[Example]:
    """Rows of file, x1, y1, x2, y2, class. Folders have the names of classes, and no table gives their numbers."""
    for half, path in {"train": train, "test": test}.items():
        by_file_name = {}
        for photograph in tree.entries:
            *_, parent, _, name = ("", "", *photograph.split("/"))
            if parent == half:
                by_file_name[name] = "/".join(photograph.split("/")[-3:])
        parsers = (tables.parse_relative_path, *[tables.parse_int] * 5)
        for name, *box, label in tables.rows(open_file(path), path, parsers, separator=","):
            yield Example(by_file_name.get(name, f"{half}/{name}"), label - 1, tuple(box))
