"""Requests that come together, and processes that decode: batches, and what is killed, hangs or is too much."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from serving import COLOURS, LIMITS, RED, Colours, draw, encode, paths, post

from symm_jax.serve.engine import Engine, Query

pytestmark = pytest.mark.usefixtures("no_temporary_files")


def test_requests_that_come_together_are_one_batch(client, served):
    contents = [encode(draw(colour, number)) for colour in COLOURS for number in range(4)]
    served.embedder.batches.clear()
    alone = [post(client, content, k=3).json() for content in contents[:2]]
    assert set(served.embedder.batches) == {1}
    served.embedder.batches.clear()
    plain = served.embedder.embed

    def slow(squares):
        time.sleep(0.3)
        return plain(squares)

    served.embedder.embed = slow
    try:
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda content: post(client, content, k=3), contents))
    finally:
        served.embedder.embed = plain
    assert len(served.embedder.batches) < 8 and set(served.embedder.batches) <= {1, 4, 16}
    assert [answer.json() for answer in answers[:2]] == alone
    assert [paths(answer)[0] for answer in answers] == [f"{c}/{n}.png" for c in COLOURS for n in range(4)]


def test_a_batch_answers_each_as_if_alone(served):
    engine = Engine(served.service.index, Colours())
    queries = [Query(None, 3, 2), Query(np.zeros((16, 16, 3), np.uint8), None, 5, "red"), Query(None, 9, 1, "red")]
    for together, alone in zip(engine.answer(queries), [engine.answer([query])[0] for query in queries], strict=True):
        assert together.rows == alone.rows
        np.testing.assert_allclose(together.similarities, alone.similarities, atol=1e-6)


def stopped(served):
    """Stops the processes that decode, so that a picture waits in one of them. Returns them."""
    pids = served.service.pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_process_loses_its_own_picture_only(client, served):
    content, pool = encode(draw("red", 1)), served.service.pool
    before, pids = pool.restarts, stopped(served)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        requests = [threads.submit(post, client, content, k=1) for _ in range(2)]
        wait_for(lambda: served.service.pool._idle.empty())
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGCONT)
        answers = sorted((request.result() for request in requests), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].headers["retry-after"] == "1" and "Try again" in answers[1].json()["error"]
    wait_for(lambda: len(pool.pids) == 2 and pids[0] not in pool.pids)
    assert pool.restarts == before + 1 and paths(post(client, content, k=1)) == [RED]


def test_a_process_that_hangs_is_killed(client, served):
    pids = stopped(served)
    start = time.monotonic()
    response = post(client, encode(draw("red", 1)))
    assert response.status_code == 504 and "longer than 3 seconds" in response.json()["error"]
    assert time.monotonic() - start < 15
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_too_many_requests_at_once_are_refused(client, served):
    served.service.busy += LIMITS.requests
    try:
        response = post(client, encode(draw("red", 1)))
    finally:
        served.service.busy -= LIMITS.requests
    assert response.status_code == 503 and response.headers["retry-after"] == "1"


def test_workers_need_neither_jax_nor_tensorflow():
    program = "import sys, symm_jax.serve.worker; sys.exit(bool({'jax', 'tensorflow', 'starlette'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], check=True)
