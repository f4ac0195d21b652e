"""Several programs at once: two trainers, two evaluators, an evaluator beside a deleter, two builders, a lost peer."""

import contextlib
import shutil
import socket
import time

from fault_parts import tiny
from fault_parts.table import FAULT, Table
from symm_jax.run import checkpoints

_LONG = {"num_steps": 800, "checkpoint_every": 5, "log_every": 5}


def together(runs: tiny.Tiny, tries: int) -> Table:
    """Each row: what ran at once, exit codes, what came of it."""
    rows = []
    for part in (_two_trainers, _two_evaluators, _evaluator_beside_a_deleter, _two_builders, _lost_peer):
        rows.append(part(runs))
        print(*rows[-1], sep="; ", flush=True)
    return Table(("at once", "exit codes", "outcome"), rows, "Each was tried once.")


def _tracebacks(*programs) -> str:
    count = sum("Traceback (most recent" in program.output() for program in programs)
    return f"; {FAULT} {count} tracebacks" if count else ""


def _two_trainers(runs: tiny.Tiny) -> tuple[str, ...]:
    folder = runs.new()
    first = runs.start(*runs.flags(folder))
    tiny.wait_until(lambda: (folder / "run/config.json").exists(), first)
    second = runs.start(*runs.flags(folder))
    codes = [tiny.end(first).code, tiny.end(second).code]
    different = tiny.differences(tiny.state(folder / "run"), runs.reference())
    outcome = f'the second: "{tiny.first_message(second.output())}"; the first: same state'
    if codes[0] != 0 or codes[1] != 2 or different:
        outcome = f"{FAULT} {tiny.first_message(first.output())}, {outcome}, {sorted(different)[:2]}"
    return "two trainers in one workdir", _codes(codes), outcome + _tracebacks(first, second)


def _two_evaluators(runs: tiny.Tiny) -> tuple[str, ...]:
    folder = runs.new()
    assert runs.run(*runs.flags(folder, "train")).code == 0
    both = [runs.start(*runs.flags(folder, "eval")) for _ in range(2)]
    codes = [tiny.end(program).code for program in both]
    expected = {name: x for name, x in runs.reference().items() if not name.startswith(("report", "figures"))}
    different = tiny.differences(tiny.state(folder / "run"), expected)
    outcome = (
        f"{FAULT} {sorted(different)[:2]}" if different or any(codes) else "each checkpoint measured once; same numbers"
    )
    return "two evaluators of one workdir", _codes(codes), outcome + _tracebacks(*both)


def _evaluator_beside_a_deleter(runs: tiny.Tiny) -> tuple[str, ...]:
    whole, folder = runs.new(), runs.new()
    for mode in ("train", "eval"):
        assert runs.run(*runs.flags(whole, mode, **_LONG)).code == 0
    shutil.copytree(whole / "cache", folder / "cache")
    trainer = runs.start(*runs.flags(folder, "train", keep_checkpoints=1, **_LONG))
    evaluator = runs.start(*runs.flags(folder, "eval", keep_checkpoints=1, **_LONG), "--watch")
    codes = [tiny.end(trainer).code, tiny.end(evaluator).code]
    expected, found = tiny.state(whole / "run"), tiny.state(folder / "run")
    measured = [name for name in found if name.startswith("eval metrics")]
    wrong = [name for name in measured if found[name] != expected.get(name)]
    wrong += [name for name in found if name.startswith("checkpoint") and found[name] != expected.get(name)]
    last = f"eval metrics {_LONG['num_steps']}"
    kept = checkpoints.steps(folder / "run")
    outcome = (
        f"{len(measured)} of {_LONG['num_steps'] // _LONG['checkpoint_every']} checkpoints measured, the last one too, "
        f"all with the same numbers; {len(kept)} checkpoints left"
    )
    if any(codes) or wrong or last not in found:
        why = tiny.first_message(evaluator.output()) or tiny.first_message(trainer.output())
        outcome = f"{FAULT} {outcome}; wrong: {wrong[:2]}; {why}"
    name = "an evaluator that follows a trainer with keep_checkpoints=1"
    return name, _codes(codes), outcome + _tracebacks(trainer, evaluator)


def _two_builders(runs: tiny.Tiny) -> tuple[str, ...]:
    folder, other = runs.new(), runs.new()
    (other / "cache").symlink_to(folder / "cache")
    both = [runs.start(*runs.flags(x, "train_and_eval", data__cache_dir=folder / "cache")) for x in (folder, other)]
    codes = [tiny.end(program).code for program in both]
    different = [tiny.differences(tiny.state(x / "run"), runs.reference()) for x in (folder, other)]
    built = sum("building " in program.output() for program in both)
    outcome = f"{built} built the records; both: same state"
    if any(codes) or any(different):
        outcome = f"{FAULT} {different[0][:2]}, {different[1][:2]}, {[tiny.first_message(p.output()) for p in both]}"
    return "two runs that make the same cache", _codes(codes), outcome + _tracebacks(*both)


def _lost_peer(runs: tiny.Tiny) -> tuple[str, ...]:
    """One of two processes is killed while a checkpoint is being written."""
    folder = runs.new()
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = runs.flags(folder, "train", num_steps=10**6, checkpoint_every=20)
    meeting = [f"--coordinator={address}", "--num_processes=2"]
    both = [runs.start(*flags, *meeting, f"--process_id={process}") for process in range(2)]
    path = folder / "run/checkpoints"
    tiny.wait_until(lambda: checkpoints.steps(folder / "run"), both[0])
    saving = tiny.wait_until(lambda: any("tmp" in p.name for p in path.glob("*")), both[0])
    both[1].kill()
    begin = time.monotonic()
    code = tiny.end(both[0], 200).code
    seconds = time.monotonic() - begin
    newest = checkpoints.steps(folder / "run")[-1:]
    ended = runs.run(*runs.flags(folder, "eval"))
    message = tiny.first_message(both[0].output())
    outcome = f'the other ended after {seconds:.0f} s: "{message}"; the newest checkpoint (step {newest}) is whole'
    if code != 1 or "has lost another" not in message or ended.code or not saving:
        outcome = f"{FAULT} {outcome}; {tiny.first_message(ended.output)}; {both[0].output()[-300:]}"
    return "one of two processes is killed during a save", _codes([code, 137]), outcome


def _codes(codes: list) -> str:
    return ", ".join("no end" if code is None else str(code if code >= 0 else 128 - code) for code in codes)
