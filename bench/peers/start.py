#!/usr/bin/env python3
"""From exec to the first byte of an answer on standard output: Nearfield and llama.cpp's llama-completion, no resident
process, files in the system's cache, alternating in one run.

Each program is started anew with the same prompt, threads and file; the clock stops when the first byte of the answer can
be read from its standard output. llama.cpp has its warm-up run left out (--no-warmup), which only delays the first byte.

    python3 bench/peers/start.py --rounds 11
"""

import os
import statistics
import subprocess
import time

from common import arguments, pulled

PROMPT = "Why is the sky blue?"


def first_byte(command):
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first = os.read(process.stdout.fileno(), 1)
    took = time.perf_counter() - began
    process.stdout.read()
    if process.wait() != 0 or not first:
        raise SystemExit(f"no answer, status {process.returncode}: {' '.join(map(str, command))}")
    return took


def commands(options, model, path):
    threads = str(options.threads)
    own = [options.nearfield, "run", model, "--no-pull", "--threads", threads, "--temperature", "0", "--max-tokens", "4", PROMPT]
    peer = [options.peer / "llama-completion", "-m", path, "-t", threads, "-p", PROMPT, "-n", "4", "--temp", "0"]
    # Outside of conversation mode, which would wait for a second turn. Its prompt is then the shorter one: no template.
    return own, [*peer, "-no-cnv", "--no-display-prompt", "--no-warmup"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    print(f"exec to first byte in ms, median (worst) of {options.rounds} alternating rounds, {options.threads} threads")
    print("| model | Nearfield | llama.cpp | ratio |")
    print("|---|---:|---:|---:|")
    for model in options.models:
        own, peer = commands(options, model, pulled(options.nearfield, model))
        first_byte(own), first_byte(peer)
        rounds = [(first_byte(own), first_byte(peer)) for _ in range(options.rounds)]
        ours, theirs = ([1000 * entry[side] for entry in rounds] for side in range(2))
        cells = [f"{statistics.median(times):.0f} ({max(times):.0f})" for times in (ours, theirs)]
        print(f"| {model} | {' | '.join(cells)} | {statistics.median(ours) / statistics.median(theirs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
