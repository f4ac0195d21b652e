"""CUB-200-2011 (Wah et al., 2011) as a tfds builder: the class-disjoint split of metric learning."""

from collections.abc import Callable
from pathlib import PurePosixPath

from symm_jax.data import tables
from symm_jax.data.builder import Counts, Example, PhotographBuilder, require_file
from symm_jax.data.tree import Tree
from symm_jax.errors import InputError

TRAIN_CLASSES = 100  # classes 1-100 train, 101-200 test


class Cub2002011(PhotographBuilder):
    """11,788 photographs of 200 species of birds with boxes; "train" holds classes 1-100, "test" 101-200."""

    name = "cub200_2011"
    NUM_CLASSES = 200
    PROTOCOL = {"train": Counts(5_864, 100), "test": Counts(5_924, 100)}  # noqa: RUF012
    BOXES = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "`images.txt`, `image_class_labels.txt`, `bounding_boxes.txt` and `images/` of CUB_200_2011"
    )
    CITATION = """
@techreport{wah2011caltech, title={The Caltech-UCSD Birds-200-2011 Dataset}, institution={California Institute of
  Technology}, author={Wah, Catherine and Branson, Steve and Welinder, Peter and Perona, Pietro and Belongie, Serge},
  number={CNS-TR-2011-001}, year={2011}}
"""

    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """See `PhotographBuilder.read`."""

        # A copy may have other files with these names. Those in the folder of images.txt count.
        folder = PurePosixPath(require_file(tree, "images.txt", self)).parent

        def table(name, *parsers):
            path = (folder / name).as_posix()
            if path not in tree.entries:
                path = require_file(tree, name, self)
            return path, {
                key: values for key, *values in tables.rows(open_file(path), path, (tables.parse_int, *parsers))
            }

        path, names = table("images.txt", tables.parse_relative_path)
        splits = {"train": [], "test": []}
        labels_path, labels = table("image_class_labels.txt", tables.parse_int)
        boxes_path, boxes = table("bounding_boxes.txt", *[tables.parse_float] * 4)
        for key, (name,) in names.items():
            for other_path, other in ((labels_path, labels), (boxes_path, boxes)):
                if key not in other:
                    raise InputError(f"{other_path} has no line for image {key} of {path}. Download it again.")
            (label,), (x, y, width, height) = labels[key], boxes[key]
            box = (int(x), int(y), int(x + width), int(y + height))
            splits["train" if label <= TRAIN_CLASSES else "test"].append(Example(f"images/{name}", label - 1, box))
        return splits
