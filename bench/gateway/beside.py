#!/usr/bin/env python3
"""Nearfield as a gateway beside redact-gateway, Portkey's gateway and LiteLLM: CPU, latency, throughput, streams."""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import environment  # noqa: E402
from serving import BINARY, Serve  # noqa: E402

ROOT, HERE = environment.ROOT, Path(__file__).resolve().parent
TOOLS = ROOT / "target/bench-gateway"
SHIPPED = ROOT / "target/dist/nearfield"
LOAD = TOOLS / "release/nearfield-bench-gateway"
REDACT, PORTKEY, HONO = "0.12.7", "1.15.2", "1.3.3"
LOCAL_MODEL = "smollm2:135m"
TEXT = "Please summarise the minutes of the meeting on the new bicycle shed and list what was decided. " * 10
PERSONAL = "Anna Lind (anna.lind@example.org, +1 212 555 0187) asks for the minutes of last month. " * 3 + TEXT[:400]
NAMES = ["n", "errors", "seconds", "first50", "first99", "end50", "end99", "way50", "way99", "pieces", "lost"]
POLICY = """
[backend.mock]
processor = "mock"
dpa = true

[key.env]
subject = "bench"
purpose = "bench"
class = "internal"

[[rule]]
name = "personal data is masked"
when = { class = ["personal"] }
backends = ["mock"]
mask = ["personal"]

[[rule]]
name = "everything else"
backends = ["mock"]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare(wanted):
    TOOLS.mkdir(parents=True, exist_ok=True)
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", HERE / "Cargo.toml"]
    subprocess.run([*build, "--target-dir", TOOLS], check=True)
    if any("shipped" in name for name in wanted) and not SHIPPED.exists():
        raise SystemExit(f"{SHIPPED} is missing: cargo xtask dist")
    if "redact-gateway" in wanted and not (TOOLS / "bin/redact-gateway").exists():
        install = ["cargo", "install", "--quiet", "--locked", "--no-default-features", "--root", TOOLS]
        subprocess.run([*install, f"redact-gateway@{REDACT}"], check=True)
    if "portkey" in wanted and not (TOOLS / "node_modules").exists():
        # Streams are a 500 with later servers.
        (TOOLS / "package.json").write_text(json.dumps({
            "private": True, "dependencies": {"@portkey-ai/gateway": PORTKEY, "@hono/node-server": HONO},
            "overrides": {"@hono/node-server": HONO}}))
        subprocess.run(["npm", "install", "--silent", "--prefix", TOOLS], check=True)
    if "litellm" in wanted:
        environment.installed("litellm", "litellm[proxy]")


class Gateway:
    """A gateway in front of the mock, as a process of its own."""

    def __init__(self, name, mock, folder, binary=BINARY):
        self.name, self.mock, self.folder, self.port, self.binary = name, mock, folder, free_port(), binary
        self.path, self.process, self.text = "/v1/chat/completions", None, TEXT
        self.headers = {"Authorization": "Bearer sk-bench"}
        self.quiet = {**os.environ, "OTEL_SDK_DISABLED": "true", "RUST_LOG": "warn"}

    def __enter__(self):
        command = getattr(self, "start_" + self.name.split()[0].replace("-", "_"))()
        if command:
            self.log = (self.folder / f"{self.name}.log").open("wb")
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=self.log, stderr=self.log, env=self.quiet, cwd=self.folder
            )
        self.wait()
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def wait(self):
        deadline, body = time.monotonic() + 90, self.body(False).encode()
        while True:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}{self.path}", body, {"Content-Type": "application/json", **self.headers}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert json.load(answer)
                    return
            except OSError as error:
                if time.monotonic() > deadline or (self.process and self.process.poll() is not None):
                    text = getattr(error, "read", lambda: b"")().decode()
                    log = (self.folder / f"{self.name}.log").read_text()[-1500:] if self.process else ""
                    raise SystemExit(f"{self.name} does not answer: {error} {text}\n{log}") from error
                time.sleep(0.2)

    def start_direct(self):
        self.port = self.mock

    def start_relay(self):
        """Copies bytes and looks at none: what any process between two others adds on this machine."""
        return [LOAD, "relay", self.port, self.mock]

    def start_nearfield(self):
        translated = "translated" in self.name
        folder = self.folder / self.name.replace(" ", "-")
        folder.mkdir()
        key = "nf-" + "0123456789abcdef" * 2
        kind = 'kind = "anthropic"' if translated else 'kind = "openai-compatible"'
        (folder / "nearfield.toml").write_text(
            f'[policy]\nfile = "policy.toml"\n\n[local]\nenabled = false\n\n[backend.mock]\n{kind}\n'
            f'base_url = "http://127.0.0.1:{self.mock}/v1"\nkey = "env:MOCK_KEY"\nmodels = ["m", "paced"]\n'
        )
        self.quiet |= {"NEARFIELD_API_KEY": key, "MOCK_KEY": "sk-mock"}
        self.headers = {"Authorization": f"Bearer {key}"}
        base = [SHIPPED if "shipped" in self.name else self.binary, "--data-dir", folder]
        (folder / "policy.toml").write_text(POLICY)
        return [*base, "serve", "--port", self.port, "--config", folder / "nearfield.toml"]

    def start_redact_gateway(self):
        provider = f"http://127.0.0.1:{self.mock}"
        # Otherwise it keeps a stream back to its end.
        self.quiet["CENSGATE_STREAM_MODE"] = "incremental"
        return [TOOLS / "bin/redact-gateway", "--host", "127.0.0.1", "--port", self.port,
                "--provider-base-url", provider]

    def start_portkey(self):
        self.headers |= {
            "x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{self.mock}/v1"
        }
        script = TOOLS / "node_modules/@portkey-ai/gateway/build/start-server.js"
        return [shutil.which("node"), script, f"--port={self.port}", "--headless"]

    def start_litellm(self):
        file = self.folder / "litellm.yaml"
        file.write_text(json.dumps({"model_list": [{"model_name": name, "litellm_params": {
            "model": f"openai/{name}", "api_key": "sk-mock", "api_base": f"http://127.0.0.1:{self.mock}/v1"}}
            for name in ("m", "paced")]}))
        key = "sk-" + "0123456789abcdef" * 4
        self.headers = {"Authorization": f"Bearer {key}"}
        self.quiet |= {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        python = environment.installed("litellm", "litellm[proxy]")
        return [python.parent / "litellm", "--config", file, "--host", "127.0.0.1", "--port", self.port]

    def body(self, stream):
        body = {"model": "paced" if stream else "m", "messages": [{"role": "user", "content": self.text}], "stream": stream}
        return json.dumps({**body, "max_tokens": 200})

    def load(self, connections, seconds, kind="whole"):
        """One run; what the load generator prints, and the gateway's CPU time per request in milliseconds."""
        headers = "\n".join(f"{name}: {value}" for name, value in self.headers.items())
        command = [LOAD, "load", str(self.port), self.path, str(connections), str(seconds), kind]
        before = self.cpu()
        done = subprocess.run(
            command, input=f"{headers}\n\n{self.body(kind == 'stream')}", capture_output=True, text=True, check=True
        )
        result = dict(zip(NAMES, map(float, done.stdout.split())))
        result["cpu"] = (self.cpu() - before) * 1e3 / max(1, result["n"])
        result["rate"] = result["n"] / result["seconds"]
        return result

    def cpu(self):
        if not self.process:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        if not self.process:
            return 0.0
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024


SHAPES = {"1": (1, "whole"), "64": (64, "whole"), "256": (256, "whole"), "streams": (64, "stream")}


def alternate(names, mock, folder, rounds, seconds):
    """The medians of each gateway's results by shape; the gateways take turns."""
    results = {name: {shape: [] for shape in SHAPES} for name in names}
    memory = {}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory(dir=folder) as inner, Gateway(name, mock, Path(inner)) as gateway:
                idle = gateway.resident()
                for shape, (connections, kind) in SHAPES.items():
                    results[name][shape].append(gateway.load(connections, seconds, kind))
                memory[name] = (idle, gateway.resident())
    medians = {
        name: {shape: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for shape, runs in of.items()}
        for name, of in results.items()
    }
    for name, of in results.items():
        medians[name]["streams"]["lost"] = sum(run["lost"] for run in of["streams"])
        medians[name]["errors"] = sum(run["errors"] for runs in of.values() for run in runs)
    return medians, memory


def table(medians, memory):
    direct = medians["direct"]
    print("| gateway | added p50 / p99 ms, c=1 | CPU ms a request, c=1 / 64 | req/s at 64 / 256 (p99 ms) | "
          "64 streams: added TTFT p50, on the way p50 / p99 ms, lost | MiB idle / after | errors |")
    print("|---|---|---|---|---|---|---|")
    for name, of in medians.items():
        one, many, most, streams = (of[shape] for shape in SHAPES)
        added = [one[key] - direct["1"][key] for key in ("end50", "end99")]
        print(f"| {name} | {added[0]:.2f} / {added[1]:.2f} | {one['cpu']:.2f} / {many['cpu']:.2f} | "
              f"{many['rate']:.0f} ({many['end99']:.0f}) / {most['rate']:.0f} ({most['end99']:.0f}) | "
              f"{streams['first50'] - direct['streams']['first50']:.2f}, {streams['way50']:.2f} / "
              f"{streams['way99']:.2f}, {streams['lost']:.0f} | "
              f"{memory[name][0]:.0f} / {memory[name][1]:.0f} | {of['errors']:.0f} |")


def soak(name, mock, folder, minutes):
    """Resident memory while 256 connections and 256 streams are busy, each second, and its slope after a quarter."""
    with Gateway(name, mock, folder) as gateway, concurrent.futures.ThreadPoolExecutor(2) as pool:
        begun, points = time.monotonic(), []
        while time.monotonic() - begun < minutes * 60:
            loads = [pool.submit(gateway.load, 256, 10, kind) for kind in ("whole", "stream")]
            while concurrent.futures.wait(loads, 1).not_done:
                points.append(((time.monotonic() - begun) / 60, gateway.resident()))
            whole, streams = (load.result() for load in loads)
            assert whole["errors"] == streams["errors"] == 0, f"{whole['errors']} and {streams['errors']} errors"
            assert streams["lost"] == 0, f"{streams['lost']} pieces lost"
        late = points[len(points) // 4 :]
        x, y = [p[0] for p in late], [p[1] for p in late]
        slope = statistics.linear_regression(x, y).slope if len(late) > 2 else float("nan")
        print(f"{name}, {minutes} minutes: {max(p[1] for p in points):.1f} MiB at most, {statistics.median(y):.1f} by the "
              f"median, {gateway.resident():.1f} at the end, {slope:.2f} MiB/min")


def train(mock, folder, binary):
    """What `cargo xtask dist` counts: the loads of the table with and without translation, and answers of this machine."""
    for name in ("nearfield", "nearfield translated"):
        with Gateway(name, mock, folder, binary) as gateway:
            for gateway.text in (TEXT, PERSONAL):
                for connections, kind in SHAPES.values():
                    assert gateway.load(connections, 3, kind)["errors"] == 0
    data = TOOLS / "data"
    subprocess.run([binary, "--data-dir", data, "pull", "--quiet", LOCAL_MODEL], check=True)
    with Serve(binary, data, "--model", LOCAL_MODEL) as server:
        for stream in [True, False] * 8:
            body = {"model": LOCAL_MODEL, "messages": [{"role": "user", "content": TEXT}], "stream": stream, "max_tokens": 32}
            headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
            request = urllib.request.Request(
                f"{server.base_url}/chat/completions", json.dumps(body).encode(), headers
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert answer.read()


def main():
    everything = ["direct", "direct again", "relay", "nearfield", "nearfield as shipped", "nearfield as shipped, translated",
                  "redact-gateway", "portkey", "litellm"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load [default: %(default)s]")
    parser.add_argument("--only", nargs="+", help=f"some of {everything}")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="memory of the first of them under load instead")
    parser.add_argument("--train", type=Path, metavar="BINARY", help="only the loads that a build's profile is made of")
    arguments = parser.parse_args()
    names = arguments.only or (["nearfield"] if arguments.soak else everything)
    prepare([] if arguments.train else names)
    port = free_port()
    mock = subprocess.Popen([LOAD, "mock", str(port)], stdout=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory(prefix="nearfield-gateway-") as folder:
            time.sleep(0.2)
            if arguments.train:
                train(port, Path(folder), arguments.train.resolve())
            elif arguments.soak:
                soak(names[0], port, Path(folder), min(arguments.soak, 15))
            else:
                table(*alternate(names, port, Path(folder), arguments.rounds, arguments.seconds))
    finally:
        mock.terminate()
        mock.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
