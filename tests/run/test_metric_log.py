"""Metric files: what a killed writer, a full disk or a wrong byte leaves."""

import contextlib
import resource
import signal

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from symm_jax import errors
from symm_jax.run import best, metric_log, paths

LINES = b'{"step": 1, "recall@1": 0.5}\n{"step": 2, "recall@1": 0.25, "map@r": NaN}\n'


@pytest.fixture
def path(tmp_path):
    path = paths.metrics(tmp_path, "eval")
    path.parent.mkdir()
    path.write_bytes(LINES)
    return path


def test_an_incomplete_last_line_is_dropped_with_a_warning(path, tmp_path, capsys):
    path.write_bytes(LINES[:-5])
    assert [line["step"] for line in metric_log.read(path)] == [1]  # its writer may still be writing it
    assert capsys.readouterr().err == ""
    with metric_log.MetricLog(tmp_path, "eval") as log:
        log.write(2, {"recall@1": 0.75})
    assert [line["recall@1"] for line in metric_log.read(path)] == [0.5, 0.75]
    assert f"warning: {path}: its last line was incomplete" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[1]",
        b"{}",
        b'{"step": NaN}',
        b'{"step": "3"}',
        b'{"step": true}',
        b'{"step": 3, "recall@1": "x"}',
        b"\xff",
        b'{"step": 999999999999999999999999999999}',
        100_000 * b"[",
    ],
)
def test_a_damaged_line_is_named(path, line):
    path.write_bytes(LINES + line + b"\n" + LINES)
    with pytest.raises(
        errors.InputError, match=r"eval/metrics.jsonl, line 3 is damaged \(.*Move the line to another file"
    ):
        metric_log.read(path)


def test_a_digit_that_changed_is_noticed_and_lost_lines_are_told(path, tmp_path, capsys):
    with metric_log.MetricLog(tmp_path, "train") as log:
        log.write(20, {"loss": 0.5, "b": float("nan")})
    train = paths.metrics(tmp_path, "train")
    assert str(metric_log.read(train)) == "[{'step': 20, 'loss': 0.5, 'b': nan}]"
    metric_log.warn_of_lost_lines(train, 39, every=20)
    assert capsys.readouterr().err == ""
    train.write_text(train.read_text().replace("0.5", "0.4"))
    with pytest.raises(errors.InputError, match="train/metrics.jsonl, line 1 is damaged .its checksum differs"):
        metric_log.read(train)
    train.write_text("")
    metric_log.warn_of_lost_lines(train, 40, every=20)
    assert "train/metrics.jsonl has no line of the steps 21 to 40: unless" in capsys.readouterr().err
    metric_log.warn_of_lost_lines(train, 10, every=20)  # such a run has none yet
    assert capsys.readouterr().err == ""


@given(position=strategies.floats(0, 1, exclude_max=True), bit=strategies.integers(0, 7), cut=strategies.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wrong_byte_gives_lines_or_our_error(path, tmp_path, position, bit, cut):
    content = bytearray(LINES)
    index = int(position * len(content))
    content[index] ^= 1 << bit
    path.write_bytes(content[: index + 1] if cut else content)
    with contextlib.suppress(errors.InputError):
        best.select(best.results(tmp_path))
        metric_log.truncate(path, 1)


@contextlib.contextmanager
def largest_file(size):
    """Files can grow to `size` bytes: the error is that of a full disk, without a disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("metrics", "full"), [({"a": 0.5, "b": 0.5}, "tensorboard/train"), ({}, "train/metrics")])
def test_a_full_disk_is_an_error_with_the_path_and_the_same_run_goes_on(tmp_path, metrics, full):
    step = 0
    with largest_file(2000), pytest.raises(OSError, match=full), metric_log.MetricLog(tmp_path, "train", 0) as log:
        for step in range(1, 1000):
            log.write(step, metrics)
    with metric_log.MetricLog(tmp_path, "train", step - 1) as log:
        log.write(step, metrics)
    lines = metric_log.read(paths.metrics(tmp_path, "train"))
    assert lines == [{"step": n, **metrics} for n in range(1, step + 1)]
