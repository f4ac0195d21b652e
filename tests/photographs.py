"""Tiny artificial copies of the data sets in their published layouts, as folders or archives."""

import shutil
import tarfile
import zipfile

import numpy as np
import PIL.Image
import scipy.io

CARS_CLASSES = (1, 2, 3, 4, 98, 99, 100, 196)
CARS_BOX = (4, 2, 60, 46)


def photograph(path, grey, size=(64, 48)):
    """A photograph (width, height) of one grey level, plus 0 .. 39."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(grey).integers(0, 40, (*size[::-1], 3), dtype=np.uint8)
    PIL.Image.fromarray(np.full_like(noise, grey) + noise).save(path, quality=95)


def structs(path, variable, rows, fields, **others):
    """A MATLAB file with a struct array of these fields, and other variables."""
    array = np.zeros((1, len(rows)), dtype=[(field, "O") for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {variable: array, **others})


def write_annotations(folder, rows):
    """cars_annos.mat of rows (file, x1, y1, x2, y2, class, test)."""
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    names = np.array([f"Make Model {i + 1} 2012" for i in range(196)], object)
    structs(folder / "cars_annos.mat", "annotations", rows, fields, class_names=names)


def cars_original(folder, photographs_per_class=3, classes=CARS_CLASSES):
    """`car_ims/` and `cars_annos.mat`, whose rows are returned. The grey level of a photograph is its class number."""
    rows = []
    for label in classes:
        for _ in range(photographs_per_class):
            name = f"car_ims/{len(rows) + 1:06d}.jpg"
            photograph(folder / name, label)
            rows.append((name, *CARS_BOX, label, 0))
    write_annotations(folder, rows)
    return rows


def _halves(photographs_per_class=3):
    """(half, file, class): the two halves share their classes, as in the devkit."""
    count = {"train": 0, "test": 0}
    for label in CARS_CLASSES:
        for i in range(photographs_per_class):
            half = "test" if i == 2 else "train"
            count[half] += 1
            yield half, f"{count[half]:05d}.jpg", label


def cars_devkit(folder):
    """`cars_train/`, `cars_test/`, `devkit/*.mat` and `cars_test_annos_withlabels.mat`."""
    rows = {"train": [], "test": []}
    for half, name, label in _halves():
        photograph(folder / f"cars_{half}" / name, label)
        rows[half].append((*CARS_BOX, label, name))
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    structs(folder / "devkit/cars_train_annos.mat", "annotations", rows["train"], fields)
    unlabelled = [(*row[:4], row[5]) for row in rows["test"]]
    structs(folder / "devkit/cars_test_annos.mat", "annotations", unlabelled, (*fields[:4], "fname"))
    structs(folder / "cars_test_annos_withlabels.mat", "annotations", rows["test"], fields)


def cars_by_classes(folder):
    """`car_data/car_data/{train,test}/NAME/*.jpg`, `anno_*.csv` and `names.csv`."""
    rows = {"train": [], "test": []}
    for half, name, label in _halves():
        photograph(folder / "car_data/car_data" / half / f"Make Model {label} 2012" / name, label)
        rows[half].append(",".join(map(str, (name, *CARS_BOX, label))))
    for half, lines in rows.items():
        (folder / f"anno_{half}.csv").write_text("\n".join(lines) + "\n")
    (folder / "names.csv").write_text("\n".join(f"Make Model {i + 1} 2012" for i in range(196)) + "\n")


def cub(folder, classes=(1, 2, 100, 101, 102)):
    """`CUB_200_2011/` with `images.txt`, `image_class_labels.txt` and `bounding_boxes.txt`."""
    images, labels, boxes = [], [], []
    for label in classes:
        for _ in range(2):
            key = len(images) + 1
            name = f"{label:03d}.Some_Bird/Some_Bird_{key:04d}.jpg"
            photograph(folder / "CUB_200_2011/images" / name, label)
            images.append(f"{key} {name}")
            labels.append(f"{key} {label}")
            boxes.append(f"{key} 4.0 2.0 56.0 44.0")
    tables = {"images.txt": images, "image_class_labels.txt": labels, "bounding_boxes.txt": boxes}
    for name, lines in tables.items():
        (folder / "CUB_200_2011" / name).write_text("\n".join(lines) + "\n")
    (folder / "attributes.txt").write_text("1 has_bill_shape::curved\n")


def sop(folder):
    """`Stanford_Online_Products/` with `Ebay_train.txt` and `Ebay_test.txt`."""
    root = folder / "Stanford_Online_Products"
    key = 0
    for split, classes in {"train": (1, 2, 11_318), "test": (11_319, 11_320, 22_634)}.items():
        lines = ["image_id class_id super_class_id path"]
        for label in classes:
            for view in range(2):
                key += 1
                name = f"bicycle_final/{label}_{view}.JPG"
                photograph(root / name, key)
                lines.append(f"{key} {label} 1 {name}")
        (root / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")


def inshop(folder):
    """`Eval/list_eval_partition.txt` and `img/`. One photograph of an item is a query, and two are in the gallery."""
    lines = []
    for item, status in {7: "train", 2: "train", 5: "test", 1: "test", 9: "test"}.items():
        for view in range(3):
            name = f"img/WOMEN/Dresses/id_{item:08d}/{view + 1:02d}_1_front.jpg"
            photograph(folder / name, 20 * item + view)
            of_test = "query" if view == 0 else "gallery"
            lines.append(f"{name}   id_{item:08d}   {status if status == 'train' else of_test}")
    (folder / "Eval").mkdir()
    head = [str(len(lines)), "image_name item_id evaluation_status"]
    (folder / "Eval/list_eval_partition.txt").write_text("\n".join(head + lines) + "\n")


def pack(folder, archive, root="", keep=()):
    """Moves the files below `folder` / root into an archive in `folder`, except those named in `keep`."""
    inside = folder / root
    names = sorted(p.relative_to(folder) for p in inside.rglob("*") if p.is_file() and p.name not in keep)
    if archive.endswith(".zip"):
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name in names:
                file.write(folder / name, name.as_posix())
    else:
        with tarfile.open(folder / archive, "w:gz" if archive.endswith("gz") else "w") as file:
            for name in names:
                file.add(folder / name, name.as_posix())
    for name in names:
        (folder / name).unlink()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
            shutil.rmtree(path)
