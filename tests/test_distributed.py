"""Several processes as one run: as users start them, on CPU devices that talk through gloo."""

import contextlib
import json
import signal
import socket
import sys
import time

import jax
import numpy as np
import pytest

from symm_jax import distributed, errors
from symm_jax.run import checkpoints, metric_log, paths
from symm_jax.run import workdir as workdirs
from symm_jax.training.recipe import create_recipe
from symm_jax.training.step import create_state


@pytest.fixture
def start(tiny, config_flag, tmp_path, launch):
    """A function (number of processes, flags, devices each) -> the processes, killed at the end of the test."""
    tiny.recall_ks, tiny.optimizer.learning_rate = (1, 2), 1e-4
    tiny.optimizer.eps = 1e-2  # with a small one, Adam turns the rounding of gradients near 0 into whole steps
    command = [config_flag(tiny), f"--workdir={tmp_path / 'run'}"]
    everyone = []

    def go(count, *flags, devices=1, own=lambda process: ()):
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        for process in range(count):
            several = [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={process}"]
            flags_of_process = [*flags, *own(process), *(several if count > 1 else [])]
            everyone.append(launch.start(*command, *flags_of_process, devices=devices))
        return everyone[-count:]

    yield go
    for process in everyone:
        process.kill()


def ends(processes, timeout=150):
    """Exit codes and what the processes printed."""
    return [process.wait(timeout) for process in processes], [process.output() for process in processes]


def params(tiny_config, workdir, step):
    shapes = jax.eval_shape(lambda: create_state(create_recipe(tiny_config)).params)
    return checkpoints.restore(workdir, step, params=shapes)["params"]


def test_four_processes_then_two_are_one(start, tiny, tmp_path):
    codes, said = ends(start(4, "--mode=train", "--config.num_steps=3"))
    assert codes == [0] * 4, said
    assert "devices   4 x cpu in 4 processes" in said[0]
    assert "devices" not in said[1]  # one process speaks
    shares = {p.name for p in (tmp_path / "run/checkpoints/3/params").glob("ocdbt.process_*")}
    assert shares == {f"ocdbt.process_{process}" for process in range(4)}
    codes, said = ends(start(2))
    assert codes == [0, 0], said
    assert "resumed from step 3" in said[0]
    assert "recall@1" in said[0]
    assert "recall@1" not in said[1]
    assert workdirs.finished(tmp_path / "run") == 6
    assert [row["step"] for row in metric_log.read(paths.metrics(tmp_path / "run", "train"))] == [1, 2, 3, 4, 5, 6]
    (tmp_path / "run").rename(tmp_path / "several")
    codes, said = ends(start(1, devices=2))
    assert codes == [0], said
    alone, several = (params(tiny, tmp_path / name, 6) for name in ("run", "several"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-5), alone, several)
    for kind, metric, tolerance in (("train", "loss", 1e-5), ("eval", "recall@2", 1 / 9)):  # one of nine images
        rows = [metric_log.read(paths.metrics(tmp_path / name, kind)) for name in ("run", "several")]
        np.testing.assert_allclose(*([row[metric] for row in some] for some in rows), rtol=tolerance)


def wait_for_step(workdir, step):
    deadline = time.monotonic() + 120
    while not any(s >= step for s in checkpoints.steps(workdir)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_signal_to_one_stops_all_and_a_death_ends_all(start, tmp_path):
    run = tmp_path / "run"
    long = ("--mode=train", "--config.num_steps=1000000", "--config.checkpoint_every=100", "--config.log_every=20")
    processes = start(2, *long)
    wait_for_step(run, 100)
    processes[1].send_signal(signal.SIGTERM)
    codes, said = ends(processes)
    assert codes == [143, 143], said
    stopped = checkpoints.steps(run)[-1]
    assert f"stopped by SIGTERM at step {stopped}; the same command continues" in said[0]
    processes = start(2, *long)
    wait_for_step(run, stopped + 1)
    time.sleep(0.5)  # not in the middle of saving, where the other waits for it until JAX ends it
    processes[1].kill()
    codes, said = ends(processes, timeout=90)
    assert codes == [1, -signal.SIGKILL], said
    last = said[0].strip().splitlines()[-1]
    assert last.startswith("error: process 0 of 2 has lost another")
    assert "Start all again: the run goes on from its newest checkpoint" in last
    newest = checkpoints.steps(run)[-1]
    assert newest > stopped
    assert json.loads((run / "config.json").read_text())["num_steps"] == 1000000


def test_processes_that_differ_are_all_refused(start, tmp_path):
    processes = start(2, "--mode=train", own=lambda process: (f"--config.seed={process}",))
    codes, said = ends(processes)
    assert codes == [2, 2], said
    for text in said:
        assert "do not agree" in text
        assert "\n  config.seed: 0 in process 0, 1 in process 1\n" in text + "\n"
    assert not (tmp_path / "run").exists()


def test_nobody_at_the_coordinators_address():
    with pytest.raises(errors.InputError, match=r"coordinator: 127.0.0.1:1: no answer within 0 s .* process 1 of 2"):
        distributed.join("127.0.0.1:1", 2, 1, timeout=0)


@pytest.mark.parametrize("kind", [ValueError, jax.errors.JaxRuntimeError])
def test_a_lost_process_is_told_however_jax_raises_it(kind, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "exit_process", sys.exit)
    with pytest.raises(SystemExit, match="1"), distributed.exit_on_peer_failure():
        raise kind("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    assert capsys.readouterr().err.startswith("error: process 0 of 2 has lost another")
    with pytest.raises(ValueError, match="a mistake"), distributed.exit_on_peer_failure():
        raise ValueError("a mistake of our own")
