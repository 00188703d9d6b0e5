#!/usr/bin/env python3
"""Perplexity of Nearfield and llama.cpp on the same windows of the same text.

    python3 bench/peers/perplexity.py --text ../shared/data/text/wiki.test.raw --windows 32
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from common import ROOT, arguments, pulled


def own(options, model):
    command = [options.nearfield, "eval", "perplexity", model, "--text", options.text, "--windows", str(options.windows), "--json"]
    command += ["--threads", str(options.threads)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["ppl"], found["standard_error"]


def peer(options, path):
    command = [options.peer / "llama-perplexity", "-m", path, "-f", options.text, "-c", "512", "--chunks", str(options.windows)]
    command += ["-t", str(options.threads)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", found.stdout + found.stderr)[1])


def main():
    parser = arguments(__doc__)
    parser.add_argument("--text", type=Path, default=ROOT / "../shared/data/text/wiki.test.raw")
    parser.add_argument("--windows", type=int, default=32)
    options = parser.parse_args()
    print(f"| model | Nearfield (+- of the text) | llama.cpp | difference |\n|---|---:|---:|---:|")
    far = False
    for model in options.models:
        path = pulled(options.nearfield, model)
        (ours, error), theirs = own(options, model), peer(options, path)
        difference = ours / theirs - 1
        far |= abs(difference) > 0.01
        print(f"| {model} | {ours:.4f} (+- {error:.2f}) | {theirs:.4f} | {difference:+.2%} |", flush=True)
    sys.exit(1 if far else 0)


if __name__ == "__main__":
    main()
