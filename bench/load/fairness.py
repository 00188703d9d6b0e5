#!/usr/bin/env python3
"""Running streams while a long prompt comes in: the time between two tokens with and without it.

Starts `nearfield serve`, lets streams run, sends a prompt of thousands of tokens beside them, and compares the times
between the streams' tokens while it is read with those before and after. Rounds alternate, so that what else the machine
does falls on both. Without speculation: with it, tokens come in bunches, and times between them say little.
"""

import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import BINARY, Serve, data_folder, has_model  # noqa: E402

# Tokens that end an answer: streams shall go on to their limit.
END_TOKENS = {"smollm2:135m": [0, 2], "gemma3:270m": [1, 106], "qwen2.5-coder:0.5b": [151643, 151645]}
# Every model here has at least so many tokens.
VOCABULARY = 30_000


def stream(server, model, prompt, tokens, on_token):
    """One streamed completion; calls `on_token` with the time of each token."""
    address = urllib.parse.urlsplit(server.base_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=600)
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 1,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {str(token): -100 for token in END_TOKENS.get(model, [])},
    }
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    connection.request("POST", f"{address.path}/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    if reply.status != 200:
        raise SystemExit(f"status {reply.status}: {reply.read(500)!r}")
    usage = {}
    for line in reply:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if event["choices"] and not event["choices"][0].get("finish_reason"):
                if on_token(time.monotonic()) is False:
                    break
    connection.close()
    return usage


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


class Streams:
    """Streams that run until they are told to stop, and the times of their tokens."""

    def __init__(self, server, model, count):
        self.times, self.stop = [[] for _ in range(count)], False
        rng = random.Random(0)
        prompts = [[rng.randrange(1000, VOCABULARY) for _ in range(16)] for _ in range(count)]
        run = lambda prompt, times: stream(server, model, prompt, 3000, lambda now: times.append(now) or not self.stop)
        self.threads = [threading.Thread(target=run, args=pair) for pair in zip(prompts, self.times)]
        for thread in self.threads:
            thread.start()
        while not all(len(times) > 16 for times in self.times):
            time.sleep(0.05)

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join()

    def gaps(self, windows):
        """Times between tokens that lie in one of the windows."""
        inside = lambda a, b: any(start <= a and b <= end for start, end in windows)
        return [b - a for times in self.times for a, b in zip(times, times[1:]) if inside(a, b)]


def measure(server, model, count, length, rounds, seed=0):
    """Times between tokens in ms, in quiet and while a prompt comes in, and the worst ratio of the two."""
    # No two prompts begin alike, so that none is cached.
    rng = random.Random(f"{model} {count} {seed}")
    first = []

    def prompt(_=None):
        begun = time.monotonic()
        tokens = [rng.randrange(1000, VOCABULARY) for _ in range(length)]
        stream(server, model, tokens, 1, lambda now: first.append(now - begun))

    prompt()
    alone = first.pop()
    streams = Streams(server, model, count)
    quiet, busy = [], []
    for _ in range(rounds):
        begun = time.monotonic()
        time.sleep(2)
        half = time.monotonic()
        prompt()
        quiet.append((begun, half))
        busy.append((half, time.monotonic()))
    streams.end()
    without, beside = streams.gaps(quiet), streams.gaps(busy)
    ratios = {share: quantile(beside, share) / quantile(without, share) for share in (0.5, 0.95)}
    print(
        f"{model}, {count} streams: between tokens {1e3 * quantile(without, 0.5):.1f} ms (median), "
        f"{1e3 * quantile(without, 0.95):.1f} ms (95%); while {length} tokens come in {1e3 * quantile(beside, 0.5):.1f} ms, "
        f"{1e3 * quantile(beside, 0.95):.1f} ms: {ratios[0.5]:.2f}x, {ratios[0.95]:.2f}x of {len(without)} and {len(beside)}; "
        f"longest {1e3 * max(beside):.0f} ms; the prompt took {statistics.median(first):.1f} s, alone {alone:.1f} s",
        flush=True,
    )
    names = {0.5: "median", 0.95: "95%"}
    return {
        "quiet_ms": {name: 1e3 * quantile(without, share) for share, name in names.items()},
        "busy_ms": {name: 1e3 * quantile(beside, share) for share, name in names.items()},
        "worst": max(ratios.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nearfield", type=Path, default=BINARY, help="the program [default: target/release/nearfield]")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder that holds the models")
    parser.add_argument("--model", action="append", help="[default: gemma3:270m and qwen2.5-coder:0.5b]")
    parser.add_argument("--streams", type=int, action="append", help="[default: 1 and 4]")
    parser.add_argument("--prompt", type=int, default=4096, help="tokens of the long prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flag", action="append", default=[], help="a further argument for serve, as --flag=--threads=1")
    arguments = parser.parse_args()
    worst = 0
    for model in arguments.model or ["gemma3:270m", "qwen2.5-coder:0.5b"]:
        if not has_model(arguments.nearfield, arguments.data, model):
            parser.error(f"{model} is not in {arguments.data}; pull it first")
        flags = ["--model", model, "--slots", "8", "--context", "8192", "--speculation", "off", *arguments.flag]
        with Serve(arguments.nearfield.resolve(), arguments.data, *flags) as server:
            for count in arguments.streams or [1, 4]:
                found = measure(server, model, count, arguments.prompt, arguments.rounds)
                worst = max(worst, found["worst"])
    print(f"{'ok' if worst <= 2 else 'FAILED'}: at most {worst:.2f}x, wanted within 2x")
    return 0 if worst <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
