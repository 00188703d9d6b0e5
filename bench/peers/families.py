#!/usr/bin/env python3
"""Tiny models of each family, converted to GGUF by the test kit and run by llama.cpp, beside what transformers computes.

Our converter and our reader could share one misreading of the format; a third program would not. Prints, for each
fixture, the mean difference of the logarithms of probabilities over whole vocabularies at six places of a prompt, and
the noise of transformers' own run in BF16 on the same fixture; asked is at most twice that noise. Shapes of which llama.cpp
assumes something else are named. The exit status says whether all others held.

    cargo build --release -p nearfield-testkit --example to_gguf
    python3 bench/peers/families.py
"""

import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, Server, arguments, free_port

FIXTURES = ROOT / "crates/nearfield-engine/tests/fixtures"
PLACES = [1, 9, 17, 26, 37, 48]
# What llama.cpp takes from the published models of a family and not from the file.
ASSUMED = {
    "gemma3": "it takes every sixth layer as global, whatever the file says",
    "gemma4_ple": "it takes the last layers with keys and values of their own as a sliding one and then a global one",
}


def read(path, name):
    """A tensor of four-byte numbers: its shape and values."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + length])[name]
    start, end = (8 + length + offset for offset in entry["data_offsets"])
    kind = {"F32": "f", "I32": "i"}[entry["dtype"]]
    return entry["shape"], struct.unpack(f"<{(end - start) // 4}{kind}", data[start:end])


def log_softmax(row):
    largest = max(row)
    total = math.log(sum(math.exp(x - largest) for x in row))
    return [x - largest - total for x in row]


def difference(peer, file, folder, threads):
    """The mean difference, or `None` where llama.cpp does not take the file."""
    reference = folder / "reference.safetensors"
    tokens = list(read(reference, "a.input_ids")[1])
    (_, vocabulary), logits = read(reference, "a.logits")
    port = free_port()
    command = [peer / "llama-server", "-m", file, "--port", str(port), "-t", str(threads), "-c", "256", "-np", "1"]
    off = []
    try:
        with Server(command + ["--no-warmup", "-ctk", "f32", "-ctv", "f32", "-fa", "off"], port) as server:
            for place in PLACES:
                body = {"prompt": tokens[:place], "n_predict": 1, "n_probs": vocabulary, "temperature": 0, "cache_prompt": False}
                found = server.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
                wanted = log_softmax(logits[(place - 1) * vocabulary : place * vocabulary])
                off += [abs(entry["logprob"] - wanted[entry["id"]]) for entry in found]
    except (SystemExit, OSError):
        return None
    return sum(off) / len(off)


def main():
    options = arguments(__doc__.splitlines()[0]).parse_args()
    convert, held = ROOT / "target/release/examples/to_gguf", True
    with tempfile.TemporaryDirectory() as temporary:
        for folder in sorted(FIXTURES.iterdir()):
            file = Path(temporary) / f"{folder.name}.gguf"
            subprocess.run([convert, folder, file], check=True)
            noise = json.loads((folder / "meta.json").read_text()).get("noise_bf16_run_mean_abs")
            off = difference(options.peer, file, folder, options.threads)
            good = off is not None and off <= 2 * noise
            said = "does not load" if off is None else f"mean difference {off:.6f}, noise in BF16 {noise}"
            if not good and folder.name in ASSUMED:
                said += f" (llama.cpp: {ASSUMED[folder.name]})"
            else:
                held &= good
            print(f"{folder.name:14} {said}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
