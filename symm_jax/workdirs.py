"""The folder of a run: whose it is, who writes in it, and the config it was started with."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_collections

from symm_jax import checkpoint, distributed, files
from symm_jax import config as configs
from symm_jax.errors import InputError


@contextlib.contextmanager
def writing(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Claims `workdir` for training `config` and writes config.json; only one run trains in it at a time.

    Of several processes of a run the main one does so, and the others wait for it.

    Raises:
      InputError: another process trains there, it holds another config's run, or it cannot be written.
    """
    if not distributed.is_main():
        distributed.require_shared(workdir / "config.json")
        yield
        return
    create(workdir)
    with files.lock(workdir / ".lock", busy=f"--workdir: another process trains in {workdir}"):
        check_config(workdir, config)
        files.write_text(workdir / "config.json", json.dumps(configs.to_dict(config), indent=2) + "\n")
        checkpoint.remove_unfinished(workdir)
        distributed.require_shared(workdir / "config.json")
        yield


def finished(workdir: Path) -> int | None:
    """The step at which training in `workdir` ended as its config says; None while it runs, or was cut short."""
    path = workdir / "finished"
    return int(path.read_text()) if path.exists() else None


def mark_finished(workdir: Path, step: int | None) -> None:
    """Leaves the mark that `finished` reads, or with None takes it away."""
    (workdir / "finished").unlink(missing_ok=True)
    if step is not None:
        files.write_text(workdir / "finished", f"{step}\n")


def check_config(workdir: Path, config: ml_collections.ConfigDict, *, any_seed: bool = False) -> None:
    """Raises InputError when the checkpoints in `workdir` are another config's, naming the fields that differ.

    `any_seed`: another seed will do, as for evaluation.
    """
    path = workdir / "config.json"
    if not checkpoint.steps(workdir):
        return
    if not path.exists():
        raise InputError(f"--workdir: {workdir} holds checkpoints but no config.json; use another folder")
    ours, theirs = configs.to_dict(config), json.loads(path.read_text())
    if any_seed:
        ours["seed"] = theirs["seed"]
    if different := configs.differences(ours, theirs):
        raise InputError(
            f"--workdir: {workdir} holds checkpoints of another config:\n  " + "\n  ".join(different) + "\n"
            "use another --workdir, or delete it to start anew"
        )


def check_data(workdir: Path, data: Mapping[str, str], *, note: bool = True) -> None:
    """Compares what the checkpoints in `workdir` were trained and measured on, as data.json has it, and notes it there.

    Args:
      workdir: of the run.
      data: {what: its fingerprint}.
      note: False only compares.

    Raises:
      InputError: it has checkpoints, and others were noted before.
    """
    path = workdir / "data.json"
    noted = json.loads(path.read_text()) if path.exists() and checkpoint.steps(workdir) else {}
    for what, fingerprint in data.items():
        if noted.get(what, fingerprint) != fingerprint:
            raise InputError(
                f"--workdir: {workdir} has a run on other data: its {what} was {noted[what]}, and that of "
                f"config.data.dir is {fingerprint}; give back the data, or use another --workdir"
            )
    if note and data.items() - noted.items() and distributed.is_main():
        files.write_text(path, json.dumps(noted | dict(data), indent=2) + "\n")


def create(workdir: Path) -> None:
    """Makes the folder; InputError when it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / ".lock").touch()
    except OSError as error:
        raise InputError(f"--workdir: {workdir} cannot be written ({error.strerror}); use another folder") from error
