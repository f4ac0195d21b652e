"""Stanford Online Products (Oh Song et al., CVPR 2016) as a tfds builder."""

from collections.abc import Callable

from symm_jax.data import tables
from symm_jax.data.builder import Counts, Example, PhotographBuilder, require_file
from symm_jax.data.tree import Tree


class Sop(PhotographBuilder):
    """120,053 photographs of 22,634 products, one class per product; half of the classes are "train", half "test"."""

    name = "sop"
    NUM_CLASSES = 22_634
    PROTOCOL = {"train": Counts(59_551, 11_318), "test": Counts(60_502, 11_316)}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "`Ebay_train.txt`, `Ebay_test.txt` and the folders of Stanford_Online_Products"
    CITATION = """
@inproceedings{song2016deep, title={Deep Metric Learning via Lifted Structured Feature Embedding},
  author={Oh Song, Hyun and Xiang, Yu and Jegelka, Stefanie and Savarese, Silvio}, booktitle={CVPR}, year={2016}}
"""

    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """See `PhotographBuilder.read`."""
        splits = {}
        for split in ("train", "test"):
            path = require_file(tree, f"Ebay_{split}.txt", self)
            # Columns: image_id class_id super_class_id path. The first line has these words.
            parsers = (tables.parse_int, tables.parse_int, tables.parse_int, tables.parse_relative_path)
            rows = tables.rows(open_file(path), path, parsers, header=1)
            splits[split] = [Example(name, label - 1) for _, label, _, name in rows]
        return splits
