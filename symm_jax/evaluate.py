"""Evaluation: embeds the test classes with each saved checkpoint and measures Recall@k. Only reads checkpoints."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from symm_jax import checkpoint, logs, losses, metrics, report, train, workdirs
from symm_jax.data.arrays import Arrays
from symm_jax.errors import InputError

_PICTURE_CLASSES = 6  # in the figure of real and synthetic points: as many as colours that can be told apart


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> list[dict]:
    """Evaluates every checkpoint in `workdir` that has not been, and prints the table of all.

    Results go to eval/metrics.jsonl and TensorBoard; the last checkpoint's real and synthetic points of a few
    test classes are drawn to points.png.

    Returns:
      The lines of eval/metrics.jsonl by step: {"step": ..., "recall@1": ..., ...}.

    Raises:
      InputError: there are no checkpoints, or they are another config's.
    """
    steps = checkpoint.steps(workdir)
    if not steps:
        raise InputError(f"--workdir: {workdir} holds no checkpoints; train first, with --mode=train")
    workdirs.check_config(workdir, config)
    model = train.create_model(config)
    test = train.load_test(config)
    print(f"test      {len(test.images):,} images of {len(np.unique(test.labels))} classes")
    shapes = jax.eval_shape(functools.partial(train.init_params, config, model), jax.random.key(0))
    embed = embedder(model)
    path = logs.metrics_path(workdir, "eval")
    done = {line["step"]: line for line in logs.read(path) if line["step"] in steps}
    todo = [step for step in steps if step not in done or _missing(done[step], config.recall_ks)]
    with logs.MetricLog(workdir, "eval", last_step=steps[-1]) as log:
        for step in todo:
            params = checkpoint.restore(workdir, step, params=shapes)["params"]
            embeddings = embed_all(embed, params, test, config.eval_batch_size, f"evaluate step {step}")
            recall = metrics.recall_at_k(embeddings, test.labels, config.recall_ks)
            values = {f"recall@{k}": value for k, value in recall.items()}
            log.write(step, values)
            done[step] = {"step": step} | values
    if steps[-1] in todo:
        _draw_points(config, workdir, embeddings, test.labels)
    rows = [done[step] for step in steps]
    print("\n" + report.table(rows, [f"recall@{k}" for k in config.recall_ks]))
    print(f"\nwritten to {workdir}: checkpoints/ train/metrics.jsonl eval/metrics.jsonl tensorboard/")
    return rows


def embedder(model: Any) -> Any:
    """pmapped (params, images (devices, n, side, side, 3) uint8) -> embeddings (devices, n, dim) float32."""

    def embed(params, images):
        return model.apply({"params": params}, images).astype(jnp.float32)

    return jax.pmap(embed, axis_name=train.AXIS)


def embed_all(embed: Any, params: Any, arrays: Arrays, batch_size: int, label: str) -> np.ndarray:
    """Embeds all images in batches of one size, the last one filled up: (n, dim) float32, raw."""
    devices = jax.local_device_count()
    params = train.replicate(params)
    n, side = len(arrays.images), arrays.images.shape[1:]
    size = devices * min(batch_size, -(-n // devices))
    out = []
    for start in tqdm.tqdm(range(0, n, size), desc=label, unit="batch", leave=False, dynamic_ncols=True):
        images = arrays.images[start : start + size]
        filled = np.zeros((size, *side), np.uint8)
        filled[: len(images)] = images
        embeddings = embed(params, filled.reshape(devices, -1, *side))
        out.append(np.asarray(embeddings).reshape(size, -1)[: len(images)])
    return np.concatenate(out)


def _missing(line: dict, ks: tuple[int, ...]) -> bool:
    return any(f"recall@{k}" not in line for k in ks)


def _draw_points(config, workdir: Path, embeddings: np.ndarray, labels: np.ndarray) -> None:
    synthesis = losses.synthesis_of(config.losses)
    if synthesis is None:
        return
    classes = [c for c in np.unique(labels) if np.sum(labels == c) >= 2][:_PICTURE_CLASSES]
    first, second = np.array([np.flatnonzero(labels == c)[:2] for c in classes]).T
    report.draw_points(workdir / "points.png", embeddings[first], embeddings[second], synthesis)
    print(f"drawn     {workdir / 'points.png'}: real and synthetic points of {len(classes)} test classes")
