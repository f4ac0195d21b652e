"""DeepFashion In-Shop Clothes Retrieval (Liu et al., CVPR 2016) as a tfds builder, with its query and gallery."""

from collections.abc import Callable

from symm_jax.data import tables
from symm_jax.data.builder import Counts, Example, PhotographBuilder, require_file
from symm_jax.data.tree import Tree
from symm_jax.errors import InputError

_STATUSES = ("train", "query", "gallery")


class Inshop(PhotographBuilder):
    """52,712 photographs of 7,982 clothing items; "test" consists of queries and the gallery that they search."""

    name = "inshop"
    NUM_CLASSES = 7_982
    PROTOCOL = {"train": Counts(25_882, 3_997), "test": Counts(26_830, 3_985, queries=14_218)}  # noqa: RUF012
    QUERIES = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "`list_eval_partition.txt` and `img/` (or `img.zip`) of the In-shop Clothes Retrieval Benchmark, which its "
        "authors give to those who sign their agreement"
    )
    CITATION = """
@inproceedings{liu2016deepfashion, title={DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
  Annotations}, author={Liu, Ziwei and Luo, Ping and Qiu, Shi and Wang, Xiaogang and Tang, Xiaoou}, booktitle={CVPR},
  year={2016}}
"""

    def read(self, tree: Tree, open_file: Callable[[str], bytes]) -> dict[str, list[Example]]:
        """See `PhotographBuilder.read`. A class is an item; items are numbered in the order of their names."""
        path = require_file(tree, "list_eval_partition.txt", self)
        # The header is the number of images, then the words image_name item_id evaluation_status.
        rows = list(tables.rows(open_file(path), path, (tables.parse_relative_path, str, _status), header=2))
        if not rows:
            raise InputError(f"{path} names no images. Download it again.")
        labels = {item: label for label, item in enumerate(sorted({item for _, item, _ in rows}))}
        train = [Example(name, labels[item], query=False) for name, item, status in rows if status == "train"]
        test = [Example(name, labels[item], query=s == "query") for name, item, s in rows if s != "train"]
        return {"train": train, "test": test}


def _status(text: str) -> str:
    if text not in _STATUSES:
        raise ValueError(f"{text!r} is not one of {', '.join(_STATUSES)}")
    return text
