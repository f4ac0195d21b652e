"""Runs launch.py in forks of one process that has imported what the program imports: 0.1 s a start instead of 6 s."""

import gc
import importlib.metadata
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def xla_flags(devices, *, optimised=False):
    """Flags for so many devices. Without LLVM's optimisations and XLA's newer emitters, compilation is 6 times as fast.

    Rounding is another then. Tests that compare two programs bit by bit, or nearly so, use optimised ones, as users do.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    if not optimised:
        flags += ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
        major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
        if (int(major), int(minor)) < (0, 11):  # later ones end the process: they do not know this flag
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


class Program:
    """A launch.py that runs, or has run. It prints to one file."""

    def __init__(self, launcher, pid, path):
        self._launcher, self.pid, self._path, self.returncode = launcher, pid, path, None

    def output(self):
        """What it has printed so far."""
        return self._path.read_text()

    def poll(self):
        """Its exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._launcher.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            self.wait(30)


class Launcher:
    """Calls run launch.py to its end and return a subprocess.CompletedProcess. `start` does not wait."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._started = 0
        command = [sys.executable, __file__]
        # With huge pages from the start: a fork that started itself again would import everything again.
        environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __call__(self, *arguments, devices=2, timeout=300):
        paths = [self._path("out"), self._path("err")]
        program = self._start(arguments, *paths, xla_flags(devices))
        program.wait(timeout)
        return subprocess.CompletedProcess(arguments, program.returncode, *(path.read_text() for path in paths))

    def start(self, *arguments, devices=1, optimised=False):
        path = self._path("all")
        return self._start(arguments, path, path, xla_flags(devices, optimised=optimised))

    def ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def __exit__(self, *_):
        self._server.communicate(timeout=30)
        self._folder.cleanup()

    def _path(self, name):
        self._started += 1
        return Path(self._folder.name, f"{self._started}-{name}")

    def _start(self, arguments, out, err, flags):
        out.touch()
        request = {"arguments": [*map(str, arguments)], "out": str(out), "err": str(err), "flags": flags}
        return Program(self, self.ask(request), out)


def _serve():
    # What programs import later is imported once for all of them.
    import sklearn.cluster  # noqa: F401

    import symm_jax.app.compare
    import symm_jax.app.modes
    import symm_jax.app.prepare  # noqa: F401

    gc.freeze()  # what is imported is no garbage: no program looks through it
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        child = os.fork()
        if not child:
            _run(**request)
        print(child, flush=True)


def _run(arguments, out, err, flags):
    os.environ["XLA_FLAGS"] = flags  # read when JAX first looks for devices, which has not happened yet
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = ["launch.py", *arguments]
    code = 1
    try:
        runpy.run_path("launch.py", run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
