"""Streams of `nearfield serve` and of llama-server: speed in all, time to the first token, time between tokens, memory."""

import http.client
import json
import random
import re
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from common import ROOT, Server, free_port

sys.path.insert(0, str(ROOT / "bench"))
from serving import Serve, data_folder  # noqa: E402

# Every model here has at least so many tokens.
VOCABULARY = 30_000
SLOTS, CONTEXT = 8, 8192


def stream(base, key, body, times):
    """One streamed completion of token ids; the times of its tokens."""
    address = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=580)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    connection.request("POST", f"{address.path}/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    if reply.status != 200:
        raise OSError(f"status {reply.status}: {reply.read(500)!r}")
    for line in reply:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            choices = event.get("choices") or []
            if choices and not choices[0].get("finish_reason"):
                times.append(time.perf_counter())
            times.usage = event.get("usage") or times.usage
    connection.close()


class Times(list):
    usage = {}


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def load(base, key, model, count, length, extra):
    """Sends all streams at once; what clients saw of them."""
    rng = random.Random()
    answers, began = [Times() for _ in range(count)], time.perf_counter()
    bodies = [
        {
            "model": model, "prompt": [rng.randrange(1000, VOCABULARY) for _ in range(length)], "max_tokens": length,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **extra,
        }
        for _ in range(count)
    ]
    threads = [threading.Thread(target=stream, args=(base, key, *pair)) for pair in zip(bodies, answers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    tokens = [times.usage.get("completion_tokens", 0) for times in answers]
    if min(tokens) < length - 1:
        raise OSError(f"answers of {sorted(set(tokens))} tokens instead of {length}")
    first = [1e3 * (times[0] - began) for times in answers]
    gaps = [1e3 * (b - a) for times in answers for a, b in zip(times, times[1:])]
    return {
        "tokens/s in all": sum(tokens) / took,
        "TTFT p50, ms": quantile(first, 0.5),
        "TTFT p99, ms": quantile(first, 0.99),
        "between tokens p50, ms": quantile(gaps, 0.5),
        "between tokens p99, ms": quantile(gaps, 0.99),
    }


def peak_memory(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def own(context, model, count, length, end_tokens):
    threads = str(context.options.threads)
    flags = ["--model", model, "--slots", str(SLOTS), "--context", str(CONTEXT // SLOTS), "--queue", "64", "--threads", threads]
    flags += ["--speculation", "off", "--prefix-cache", "off"]
    extra = {"logit_bias": {str(token): -100 for token in end_tokens}}
    with Serve(context.options.nearfield.resolve(), data_folder(), *flags) as server:
        load(server.base_url, server.key, model, 1, 16, extra)
        found = load(server.base_url, server.key, model, count, length, extra)
        return {**found, "peak memory, MiB": peak_memory(server.process)}


def peer(context, model, count, length):
    port, threads = free_port(), str(context.options.threads)
    command = [context.options.peer / "llama-server", "-m", context.path(model), "-t", threads, "-tb", threads, "-np", str(SLOTS)]
    command += ["-c", str(CONTEXT), "--port", str(port), "--no-cache-prompt", "-cram", "0", "--no-webui"]
    extra = {"ignore_eos": True, "cache_prompt": False}
    with Server(command, port) as server:
        load(f"{server.base}/v1", None, model, 1, 16, extra)
        found = load(f"{server.base}/v1", None, model, count, length, extra)
        return {**found, "peak memory, MiB": peak_memory(server.process)}


# Tokens that end an answer: streams shall go on to their limit.
END_TOKENS = {"smollm2:135m": [0, 2], "gemma3:270m": [1, 106], "qwen2.5-coder:0.5b": [151643, 151645]}


def measure(context, model, count):
    length = 32 if context.quick else 128
    ours = own(context, model, count, length, END_TOKENS.get(model, []))
    theirs = peer(context, model, count, length)
    return {"metrics": {name: {"own": ours[name], "peer": theirs[name]} for name in ours}}
