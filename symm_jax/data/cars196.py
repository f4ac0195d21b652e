"""Cars196 (Krause et al., 2013) as a tfds builder: the class-disjoint split of metric learning.

Reads the original archive's layout, `car_ims/*.jpg` beside `cars_annos.mat`. The builder that ships with
tensorflow-datasets reads other files, whose links are dead, and splits every class over both halves.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
import tensorflow_datasets as tfds

from symm_jax.errors import InputError

NUM_CLASSES = 196
TRAIN_CLASSES = 98  # classes 1-98 train, 99-196 test
_CITATION = """
@inproceedings{krause2013cars, title={3D Object Representations for Fine-Grained Categorization},
  author={Krause, Jonathan and Stark, Michael and Deng, Jia and Fei-Fei, Li}, booktitle={ICCV Workshops}, year={2013}}
"""


class Annotation(NamedTuple):
    """One photograph: file relative to the data folder, class 1..196, box x1, y1, x2, y2 in pixels."""

    filename: str
    label: int
    box: tuple[int, int, int, int]


class Cars196(tfds.core.GeneratorBasedBuilder):
    """JPEG bytes as they are, label 0..195 and box; "train" holds classes 1-98, "test" 99-196."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put `car_ims/` and `cars_annos.mat` of the original archive into the folder."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
                    # Pixels, not tfds's relative BBox: the crop must be exact.
                    "box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
                    "filename": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = Path(dl_manager.manual_dir)
        annotations = read_annotations(folder)
        train = [a for a in annotations if a.label <= TRAIN_CLASSES]
        test = [a for a in annotations if a.label > TRAIN_CLASSES]
        return {"train": self._generate_examples(folder, train), "test": self._generate_examples(folder, test)}

    def _generate_examples(self, folder: Path, annotations: list[Annotation]):
        for a in annotations:
            features = {"image": folder / a.filename, "label": a.label - 1, "box": a.box, "filename": a.filename}
            yield a.filename, features


def read_annotations(folder: Path) -> list[Annotation]:
    """Reads `cars_annos.mat` and checks it against the files beside it.

    Raises:
      InputError: the folder, the file or one of its fields is missing or unreadable; a class or a box out of
        range; a photograph that is named but absent.
    """
    path = folder / "cars_annos.mat"
    if not path.is_file() or not (folder / "car_ims").is_dir():
        state = "holds no" if folder.is_dir() else "does not exist; it should hold"
        raise InputError(
            f"config.data.dir: {folder} {state} `cars_annos.mat` and `car_ims/`. Unpack the Cars196 archive there, or "
            "pass the folder that has them as --config.data.dir=FOLDER"
        )
    try:
        records = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)["annotations"])
        boxes = np.stack([records[f"bbox_{side}"].astype(np.int64) for side in ("x1", "y1", "x2", "y2")], axis=1)
        rows = zip(records["relative_im_path"], records["class"].astype(int), boxes.tolist(), strict=True)
        annotations = [Annotation(str(name), int(label), tuple(box)) for name, label, box in rows]
    except Exception as error:  # scipy raises half a dozen unrelated types for damaged files
        raise InputError(f"{path} is not the annotations file of Cars196 ({error}); get it anew") from error
    if not annotations:
        raise InputError(f"{path} holds no annotations; get it anew")
    present = {f"car_ims/{p.name}" for p in (folder / "car_ims").iterdir()}
    if missing := [a.filename for a in annotations if a.filename not in present]:
        raise InputError(
            f"{path} names {len(missing)} of {len(annotations)} images that are not in {folder}, first {missing[0]}; "
            "unpack the whole archive"
        )
    for a in annotations:
        x1, y1, x2, y2 = a.box
        if not (1 <= a.label <= NUM_CLASSES and 0 <= x1 < x2 and 0 <= y1 < y2):
            raise InputError(f"{path}: {a.filename} has class {a.label} and box {a.box}, which cannot be")
    return annotations


def source_digest(folder: Path) -> str:
    """A digest of the annotations and of each photograph's name, size and time, without reading the photographs."""
    digest = hashlib.sha256((folder / "cars_annos.mat").read_bytes())
    for path in sorted((folder / "car_ims").iterdir()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
