"""Starts `nearfield serve` for the checks that talk to it over HTTP."""

import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARY = ROOT / "target/release/nearfield"


def data_folder():
    """Where models are looked for and pulled to."""
    set_by_hand = os.environ.get("NEARFIELD_DATA_DIR")
    return Path(set_by_hand) if set_by_hand else Path.home() / ".local/share/nearfield"


def has_model(binary, data, model):
    shown = subprocess.run([binary, "--data-dir", data, "show", model, "--json"], capture_output=True)
    return shown.returncode == 0


class Serve:
    """One server on loopback: its models from `data`, its keys and its ledger in a folder of its own."""

    def __init__(self, binary, data, *arguments, config=None, environment=None):
        self.binary, self.key = binary, f"nf-{secrets.token_hex(16)}"
        self.folder = tempfile.TemporaryDirectory(prefix="nearfield-check-")
        self.data = Path(self.folder.name)
        models = Path(data).resolve() / "models"
        models.mkdir(parents=True, exist_ok=True)
        (self.data / "models").symlink_to(models)
        # A file in any case, so that the configuration of whoever runs this plays no part.
        file = self.data / "nearfield.toml"
        file.write_text(config or "")
        self.command = [binary, "--data-dir", self.data, "serve", "--port", "0", "--json", "--config", file, *arguments]
        self.environment = {**os.environ, "NEARFIELD_API_KEY": self.key, **(environment or {})}
        for name in ("RUST_LOG", "NEARFIELD_HOST", "NEARFIELD_CONTEXT"):
            self.environment.pop(name, None)
        self.log = self.data / "log"

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, env=self.environment, text=True
            )
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        self.base_url = json.loads(line)["base_url"]
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()

    def ledger(self):
        """All rows. The ledger can be read while the server runs."""
        command = [self.binary, "--data-dir", self.data, "ledger", "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def settled_ledger(self, seconds=10):
        """All rows, once none is running any more."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.ledger()
            if all(row["outcome"] for row in rows) or time.monotonic() > deadline:
                return rows
            time.sleep(0.1)

    def plan(self):
        """What the server printed of its memory and its slots: (bytes, requests at once)."""
        found = re.search(r"(\d+) MiB in all; (\d+) requests at once", self.log.read_text())
        return (int(found[1]) << 20, int(found[2])) if found else None

    def peak_memory(self):
        """The most memory that was resident so far, and what of the present is not of mapped files, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        value = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", status, re.M)}
        return value["VmHWM"], value["RssAnon"]
