"""Writes the report of a run: reads a workdir and the test images, selects what to show, writes figures and page."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from symm_jax import errors, files, losses
from symm_jax.data import datasets, splits
from symm_jax.errors import InputError
from symm_jax.report import curves, figures, gallery, page, planes
from symm_jax.run import best, checkpoints, config_json, metric_log, paths
from symm_jax.run import workdir as workdirs

_POINT_CLASSES = 6  # classes in the figure of points: so many colours can be told apart
_FAILURES_DRAWN = 10


def write(config: ml_collections.ConfigDict, workdir: Path, config_file: str = "") -> Path:
    """Writes WORKDIR/report.html and the same figures as PNG files to WORKDIR/figures.

    It shows the checkpoint that evaluation selected: it reads best/choice.json, best/embeddings.npy and the metric
    files. points.png is drawn only when a loss of the config has a synthesis.

    Args:
      config: the config of the run.
      workdir: the folder of the run.
      config_file: the file that the config is from, for the heading; by default the workdir's config.json.

    Returns:
      The path of the page.

    Raises:
      InputError: the config is not that of the run; or a file that evaluation writes is missing or does not fit. The
        message names the fields or the file.
    """
    choice = best.read(workdir)
    if choice is None:
        raise InputError(
            f"{paths.choice(workdir)} is missing: evaluate first, which selects a checkpoint (--mode=eval)"
        )
    workdirs.check_config(workdir, config_json.to_dict(config))
    source = datasets.Source.from_section(config.data)
    test = datasets.load(source, "test", config.data.image_size)
    workdirs.check_data(workdir, splits.fingerprint("test", test), note=False)
    embeddings = _read_embeddings(paths.embeddings(workdir), len(test.labels))
    best.require_same_embeddings(workdir, choice)
    evaluated = best.results(workdir)
    measured = [line for line in evaluated if line["step"] == choice["step"]]
    if not measured:
        path = paths.metrics(workdir, "eval")
        raise InputError(
            f"{path} has no line of step {choice['step']}, which was selected; evaluate again (--mode=eval)"
        )
    trained = paths.metrics(workdir, "train")
    last_step = max(line["step"] for line in evaluated)  # later than the selected one, as a rule
    metric_log.warn_of_lost_lines(trained, last_step, config.log_every)
    if absent := sorted({*checkpoints.steps(workdir)} - {line["step"] for line in evaluated}):
        errors.warn(f"the checkpoints of the steps {absent} are not in the page: --mode=eval measures them")

    pairs = _pairs(test.labels)
    limits = gallery.limits_for(page.thumbnail_side(test.images))
    shown = gallery.select(embeddings, test.labels, test.query, limits=limits, also=pairs.ravel().tolist())
    charts = curves.charts(metric_log.read(trained), evaluated)
    map_ = planes.lay_out(embeddings[shown.sample])
    synthesis = losses.find_synthesis(config.losses)
    anchor, positive = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
    points = None
    if synthesis is not None and len(pairs):
        points = page.describe_points(planes.synthesise(anchor, positive, synthesis), shown, pairs)
    head = {
        "name": f"{Path(config_file or paths.config(workdir)).name} in {_short_path(workdir)}",
        "facts": [
            f"{source.name}: {len(test.labels):,} test images of {len(np.unique(test.labels)):,} classes",
            f"{config.model.name}, embeddings of {config.model.dim:,} numbers",
            *(_describe_loss(spec) for spec in config.losses),
        ],
        "chosen": _explain_choice(choice, source.validation_classes, is_last=choice["step"] == evaluated[-1]["step"]),
        "figures": curves.figures(measured[-1]),
        "commands": [
            f"python launch.py --mode=embed --workdir={shlex.quote(_short_path(workdir))} --images=FOLDER --out=INDEX",
            "python launch.py --mode=serve --index=INDEX",
        ],
    }
    sheet = page.thumbnails(test.images, shown.rows)
    data = page.describe(charts, choice["step"], shown, test.labels, sheet, map_, points, test.names)
    document = page.render(head, data)

    # Nothing is written before everything is known, so a report that fails leaves the earlier one.
    path, folder = paths.report(workdir), paths.figures(workdir)
    folder.mkdir(exist_ok=True)
    if points is not None and synthesis is not None:
        figures.draw_points(folder / "points.png", anchor, positive, synthesis)
    figures.draw_curves(folder / "curves.png", charts, choice["step"])
    figures.draw_map(folder / "map.png", map_, test.labels[shown.sample])
    _draw_neighbours(folder / "neighbours.png", shown, test)
    files.write_text(path, document)
    print(f"report    {path} ({path.stat().st_size / 1e6:.1f} MB), and its figures in {folder}")
    return path


def _short_path(workdir: Path) -> str:
    """A folder as one would type it here."""
    path, here = workdir.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _read_embeddings(path: Path, n: int) -> np.ndarray:
    if not path.exists():
        raise InputError(f"{path} is missing: evaluate first (--mode=eval)")
    remedy = f"Move {path.parent} away, then evaluate again (--mode=eval)."
    try:
        with path.open("rb") as file:
            embeddings = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        raise InputError(f"{path} is damaged ({error}). {remedy}") from error
    if embeddings.ndim != 2 or len(embeddings) != n or not np.issubdtype(embeddings.dtype, np.floating):
        raise InputError(
            f"{path} must hold a floating embedding of each of the {n} test images, got {embeddings.dtype} of shape "
            f"{embeddings.shape}. {remedy}"
        )
    if not np.isfinite(embeddings).all():
        raise InputError(f"{path} holds NaN or infinity: the network has diverged. {remedy}")
    return embeddings


def _pairs(labels: np.ndarray) -> np.ndarray:
    """Two rows per class, (classes, 2), of the first few classes that have two images."""
    classes, counts = np.unique(labels, return_counts=True)
    pairs = [np.flatnonzero(labels == c)[:2] for c in classes[counts >= 2][:_POINT_CLASSES]]
    return np.array(pairs, int).reshape(-1, 2)


def _draw_neighbours(path: Path, shown: gallery.Gallery, test: Any) -> None:
    place = np.searchsorted(shown.rows, shown.starts[:_FAILURES_DRAWN])
    grid = np.concatenate([shown.rows[place, None], shown.neighbours[place]], axis=1)
    figures.draw_neighbours(
        path, test.images[grid], test.labels[grid], shown.ahead[place], shown.similarity[place], test.names
    )


def _describe_loss(spec: Mapping) -> str:
    options = dict(spec)
    name, weight, synthesis = options.pop("name"), options.pop("weight", 1), options.pop("synthesis", None)
    kind = synthesis if isinstance(synthesis, str) or not synthesis else dict(synthesis)["name"]
    words = [f"{name} loss" + (f" with {kind} synthesis" if kind else "")]
    words += [f"weight {weight:g}"] if weight != 1 else []
    return ", ".join(words + [f"{key}={value}" for key, value in options.items()])


def _explain_choice(choice: Mapping, validation_classes: int, is_last: bool) -> str:
    metric = curves.title(choice["metric"].split("/")[-1])
    leads = f"of all checkpoints it has the best {metric}, {100 * choice['value']:.2f} %,"
    if choice["chosen_by"] == best.VALIDATION:
        return (
            f"Selected without the test classes: {leads} on {validation_classes} held-out training classes. The values "
            "below are of classes that had no part in training or in the selection."
        )
    fair = (
        "It is also the last checkpoint, which involves no selection: the values below are fair."
        if is_last
        else "That makes the values below optimistic. The values of the last checkpoint are fair."
    )
    return f"Selected on the test classes, as in the paper: {leads} on the classes that it is measured on. {fair}"
