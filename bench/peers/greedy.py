#!/usr/bin/env python3
"""Greedy answers of Nearfield and llama.cpp side by side: 20 prompts a model, 64 tokens each.

Two engines that round differently may part where two tokens are nearly as likely. Asked is that they part only there:
llama.cpp's token must be Nearfield's second best at that place, less than 0.3 (in logits) behind, and at least 15 of
the 20 answers must agree for their first 16 tokens. Prints every parting; the exit status says whether all held.

    python3 bench/peers/greedy.py
"""

import sys

from common import Server, arguments, free_port, pulled

TOKENS = 64
PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea,",
    "The three primary colours are",
    "In 1969, astronauts landed on",
    "A good recipe for pancakes begins with",
    "The theory of evolution explains",
    "To change a bicycle tyre, first",
    "The difference between a virus and a bacterium is",
    "Photosynthesis is the process by which",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: What is the largest planet of the solar system?\nA:",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n",
    "import json\n\ndef read_config(path):\n",
    "SELECT name, COUNT(*) FROM orders",
    "# How to install Python on Linux\n\n1.",
    "<!DOCTYPE html>\n<html>\n<head>\n",
    "class Stack:\n    def __init__(self):\n",
    "for (int i = 0; i < n; i++) {\n",
]
NEAR = 0.3


def peer_answer(server, prompt):
    body = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False, "n_probs": 1, "ignore_eos": False}
    reply = server.post("/completion", body)
    return [entry["token"] for entry in reply["completion_probabilities"]]


def own_answer(server, model, prompt):
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 5}
    found = server.post("/v1/completions", body)["choices"][0]["logprobs"]
    best = [sorted(top.items(), key=lambda item: -item[1]) for top in found["top_logprobs"]]
    return found["tokens"], best


def compare(model, prompt, own, best, peer):
    """The first difference: None, or (place, our token, its token, rank, gap)."""
    for place, (ours, theirs) in enumerate(zip(own, peer)):
        if ours != theirs:
            names = [name for name, _ in best[place]]
            rank = names.index(theirs) + 1 if theirs in names else None
            gap = best[place][0][1] - best[place][rank - 1][1] if rank else None
            return place, ours, theirs, rank, gap
    if len(own) != len(peer):
        # One ended: the end-of-text token has no text to compare.
        return min(len(own), len(peer)), "(end)" if len(own) < len(peer) else own[len(peer)], "(end)", None, None
    return None


def check(options, model):
    path = pulled(options.nearfield, model)
    own_port, peer_port = free_port(), free_port()
    own = [options.nearfield, "serve", "--port", str(own_port), "--threads", str(options.threads)]
    peer = [options.peer / "llama-server", "-m", path, "--port", str(peer_port), "-t", str(options.threads), "-c", "2048"]
    alike, held = 0, True
    environment = {"NEARFIELD_API_KEY": "nf-bench-only-on-loopback-0123456789"}
    with Server(own, own_port, environment["NEARFIELD_API_KEY"], environment) as own_server, Server(peer, peer_port) as peer_server:
        for prompt in PROMPTS:
            tokens, best = own_answer(own_server, model, prompt)
            theirs = peer_answer(peer_server, prompt)
            parting = compare(model, prompt, tokens, best, theirs)
            alike += parting is None or parting[0] >= 16
            if parting is None:
                continue
            place, ours, its, rank, gap = parting
            ends = "(end)" in (ours, its)
            near = ends or (rank == 2 and gap < NEAR)
            held &= near
            said = "one ends" if ends else f"rank {rank}, {gap:.3f} behind" if rank else "not among our best 5"
            print(f"{model}  {prompt[:32]!r:36} token {place:2}: {ours!r} / {its!r}: {said}{'' if near else '  TOO FAR'}")
    enough = alike >= 15
    print(f"{model}  {alike} of {len(PROMPTS)} agree for 16 tokens or more{'' if enough else '  TOO FEW'}\n")
    return held and enough


def main():
    options = arguments(__doc__).parse_args()
    results = [check(options, model) for model in options.models]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
