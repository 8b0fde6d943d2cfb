"""A Triton server of the tests' own, and a client of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.http as triton
from oslic.serving.triton.repository import SERVER_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("OSLIC_TRITON", ROOT / "build" / "triton")).resolve()
READY = HOME / ".ready"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Server:
    """`tritonserver` on a model repository.

    Args:
        repository: of models.
        log: file for what it prints.
        ports: for HTTP and metrics; None: free ones.
    """

    def __init__(self, repository: Path, log: Path, ports: tuple[int, int] | None = None) -> None:
        self.repository = repository
        self.log = log
        self.http, self.metrics = ports or free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http}"

    @property
    def process_group(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        return [
            str(HOME / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            "--model-repository", str(self.repository), "--backend-directory", str(HOME / "backends"),
            "--http-address", "127.0.0.1", "--http-port", str(self.http), "--metrics-port", str(self.metrics),
            "--metrics-address", "127.0.0.1", "--allow-grpc", "false", "--exit-timeout-secs", "10",
            *SERVER_OPTIONS,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        libraries = [str(HOME / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PATH": f"{HOME / 'env' / 'bin'}:{os.environ['PATH']}",
            "ORT_DISABLE_TELEMETRY": "1",
        }

    def start(self, timeout: float = 120.0) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            # A session of its own: its stubs end with it.
            self._process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"tritonserver ended with {self._process.returncode}: {self.last_lines()}")
            if self.is_ready():
                return
            time.sleep(0.2)
        raise TimeoutError(f"tritonserver was not ready in {timeout} s: {self.last_lines()}")

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def is_ready(self) -> bool:
        try:
            with triton.InferenceServerClient(self.address) as client:
                return bool(client.is_server_ready())
        except OSError:
            return False

    def kill(self) -> None:
        """As a machine that goes away does it: no goodbyes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and all its processes
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(60)
        finally:
            self.kill()

    def memory(self) -> int:
        """Bytes of memory of the server and of all its processes, those that they share counted once (PSS)."""
        assert self._process is not None
        group, total = self._process.pid, 0
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    if os.getpgid(int(folder.name)) != group:
                        continue
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                except OSError:
                    continue
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        return total

    def figures(self) -> str:
        """What the metrics' port says."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            return answer.read().decode()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Client:
    """Calls the two models."""

    def __init__(self, address: str, timeout: float = 120.0, prefix: str = "oslic") -> None:
        self._client = triton.InferenceServerClient(
            address, network_timeout=timeout, connection_timeout=timeout
        )
        self._prefix = prefix

    def encode(self, image: bytes, **parameters: Any) -> tuple[bytes, dict[str, Any]]:
        return self._call("encode", "IMAGE", "STREAM", image, parameters)

    def decode(self, stream: bytes, **parameters: Any) -> tuple[bytes, dict[str, Any]]:
        return self._call("decode", "STREAM", "IMAGE", stream, parameters)

    def _call(
        self, model: str, given: str, made: str, data: bytes, parameters: dict[str, Any]
    ) -> tuple[bytes, dict[str, Any]]:
        source = triton.InferInput(given, [1, 1], "BYTES")
        source.set_data_from_numpy(np.array([[data]], object))
        answer = self._client.infer(f"{self._prefix}_{model}", [source], parameters=parameters)
        return answer.as_numpy(made).item(), json.loads(answer.as_numpy("INFO").item())

    def close(self) -> None:
        self._client.close()
