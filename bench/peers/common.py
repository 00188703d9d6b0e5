"""What the comparisons with llama.cpp share."""

import argparse
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["smollm2:135m", "gemma3:270m", "qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b"]


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--nearfield", type=Path, default=ROOT / "target/release/nearfield")
    parser.add_argument("--peer", type=Path, default=ROOT / "bench/.peers/build/bin", help="folder of llama.cpp's programs")
    parser.add_argument("--models", nargs="+", default=MODELS, help="catalogue names; they are pulled when missing")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def pulled(nearfield, model):
    """Pulls a model and returns its path."""
    subprocess.run([nearfield, "pull", model], check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.run([nearfield, "show", model, "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(shown)["installed"]["path"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server on loopback that is stopped at the end."""

    def __init__(self, command, port, key=None, environment=None):
        self.base, self.key = f"http://127.0.0.1:{port}", key
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
        )

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with status {self.process.returncode}")
            try:
                self.get("/health")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit("the server did not start in a minute")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    def get(self, path):
        return self._open(urllib.request.Request(self.base + path))

    def post(self, path, body):
        request = urllib.request.Request(self.base + path, data=json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        return self._open(request)

    def _open(self, request):
        if self.key:
            request.add_header("authorization", f"Bearer {self.key}")
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.loads(response.read())
