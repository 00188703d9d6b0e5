#!/usr/bin/env python3
"""Prefill and decode of Nearfield and llama.cpp on the same files, alternating in one run.

Machines are noisy, so the two take turns and the medians are compared as a ratio.

    python3 bench/peers/speed.py --rounds 5
"""

import json
import statistics
import subprocess

from common import arguments, pulled

PROMPT, ANSWER = 512, 128


def own(options, model):
    command = [options.nearfield, "bench", model, "--threads", str(options.threads), "--runs", "1", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return tuple(found[phase]["tokens_per_second"]["median"] for phase in ("prefill", "decode"))


def peer(options, path):
    command = [options.peer / "llama-bench", "-m", path, "-t", str(options.threads), "-p", str(PROMPT), "-n", str(ANSWER), "-r", "1", "-o", "json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    speed = {("prefill" if entry["n_gen"] == 0 else "decode"): entry["avg_ts"] for entry in found}
    return speed["prefill"], speed["decode"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"tok/s, medians of {options.rounds} alternating rounds, {options.threads} threads")
    print("| model | prefill, 512 tokens | llama.cpp | ratio | decode, 128 tokens | llama.cpp | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for model in options.models:
        path = pulled(options.nearfield, model)
        rounds = [(own(options, model), peer(options, path)) for _ in range(options.rounds)]
        cells = []
        for phase in range(2):
            ours, theirs = (statistics.median(entry[side][phase] for entry in rounds) for side in range(2))
            cells += [f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"]
        print(f"| {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
