"""Every path inside a workdir. No other file spells one."""

from pathlib import Path


def config(workdir: Path) -> Path:
    """The config that the run was started with, as JSON."""
    return workdir / "config.json"


def data(workdir: Path) -> Path:
    """Fingerprints of the images that the run is trained and measured on, as JSON."""
    return workdir / "data.json"


def finished(workdir: Path) -> Path:
    """The step at which training ended. The file is absent while training runs."""
    return workdir / "finished"


def training_lock(workdir: Path) -> Path:
    """Held by the process that trains."""
    return workdir / ".lock"


def evaluation_lock(workdir: Path) -> Path:
    """Held by the process that evaluates, from its start to its end."""
    return workdir / "eval" / ".lock"


def reading_lock(workdir: Path) -> Path:
    """Held while an evaluator still needs checkpoints that it has listed. Training deletes none meanwhile."""
    return workdir / "eval" / ".reading.lock"


def checkpoints(workdir: Path) -> Path:
    """The folder of all checkpoints."""
    return workdir / "checkpoints"


def checkpoint(workdir: Path, step: int) -> Path:
    """The folder of one checkpoint."""
    return checkpoints(workdir) / str(step)


def metrics(workdir: Path, kind: str) -> Path:
    """The metric file of `kind`, "train" or "eval": one JSON object per line."""
    return workdir / kind / "metrics.jsonl"


def tensorboard(workdir: Path, kind: str) -> Path:
    """The TensorBoard event files of `kind`, "train" or "eval"."""
    return workdir / "tensorboard" / kind


def best(workdir: Path) -> Path:
    """A copy of the best checkpoint, laid out like a workdir."""
    return workdir / "best"


def choice(workdir: Path) -> Path:
    """Which checkpoint `best` holds and how it was selected, as JSON."""
    return best(workdir) / "choice.json"


def embeddings(workdir: Path) -> Path:
    """Embeddings of the test images by the best checkpoint, (n, dim) float32."""
    return best(workdir) / "embeddings.npy"


def report(workdir: Path) -> Path:
    """The page of the run."""
    return workdir / "report.html"


def figures(workdir: Path) -> Path:
    """The folder of PNG figures."""
    return workdir / "figures"


def pairs_figure(workdir: Path) -> Path:
    """The sheet of augmented pairs, or of images of a shuffled epoch, that --mode=prepare draws."""
    return figures(workdir) / "pairs.png"


def comparison(workdir: Path) -> Path:
    """The results of a comparison, as JSON."""
    return workdir / "comparison.json"


def comparison_figure(workdir: Path) -> Path:
    """The plot of a comparison."""
    return workdir / "comparison.png"
