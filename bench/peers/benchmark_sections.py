"""The sections of bench/peers/benchmarks.py: what is run on either side, and what was to be reached.

A round of a case is {"metrics": {name: {"own": x, "peer": y}}}; what is measured against no peer has no "peer".
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import benchmark_serving
import benchmark_shapes
import mistral
from common import MODELS, ROOT, pulled
from start import commands, first_byte

sys.path.insert(0, str(ROOT / "bench/load"))

SMALL, GEMMA, HALF, LARGE = MODELS
WINDOWS_OF = {SMALL: 8192, GEMMA: 32768, HALF: 32768, LARGE: 32768}


@dataclass
class Case:
    name: str
    measure: Callable
    most_rounds: int | None = None


@dataclass
class Section:
    """`targets`: (case, metric) to (">=" or "<=", bound of own / peer[, bound of own alone])."""

    title: str
    text: str
    cases: Callable
    rounds: int = 5
    targets: dict = field(default_factory=dict)
    peer: str = "llama.cpp"


class Context:
    def __init__(self, options, results):
        self.options, self.quick, self.results = options, options.quick, results
        self.models = [SMALL] if options.quick else options.models
        self.paths = {}

    def path(self, model):
        if model not in self.paths:
            self.paths[model] = pulled(self.options.nearfield, model) if ":" in str(model) else model
        return self.paths[model]

    def own(self, model, *flags, speculation=False):
        """`nearfield bench`, as JSON."""
        off = [] if speculation else ["--runs", "1"]
        command = [self.options.nearfield, "bench", model, "--threads", self.options.threads, "--json", *off, *flags]
        return self.json(command)

    def peer(self, model, *flags, attention=("0", "1")):
        """The best speed that llama-bench finds, with and without flash attention."""
        command = [self.options.peer / "llama-bench", "-m", self.path(model), "-t", self.options.threads, "-r", "1"]
        found = self.json([*command, "-fa", ",".join(attention), "-o", "json", *flags])
        best = max(found, key=lambda entry: entry["avg_ts"])
        return best["avg_ts"]

    def json(self, command):
        found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=580)
        return json.loads(found.stdout)


def both(**metrics):
    return {"metrics": {name: {"own": own, "peer": peer} for name, (own, peer) in metrics.items()}}


def speed_of(report, phase):
    return report[phase]["tokens_per_second"]["median"]


def decode(context, model, depth, count):
    flags = ["--prompt-tokens", depth, "--max-tokens", count]
    own = speed_of(context.own(model, *flags), "decode")
    # Reading thousands of tokens first takes the peer minutes: flash attention only, which is its better choice there.
    attention = ("1",) if depth > 4096 else ("0", "1")
    peer = context.peer(model, "-p", "0", "-n", count, "-d", depth, attention=attention)
    metrics = both(decode=(own, peer))
    if depth > 128 and depth >= 16384 or context.quick:
        near = speed_of(context.own(model, "--prompt-tokens", 128, "--max-tokens", count), "decode")
        metrics["metrics"]["own speed at 128"] = {"own": own, "peer": near}
    return metrics


def decode_cases(context):
    depths = [128] if context.quick else [128, 4096, 16384]
    for depth in depths:
        for model in context.models:
            if depth < WINDOWS_OF[model]:
                count = 16 if context.quick else 128 if depth == 128 else 48
                most = {128: None, 4096: 3, 16384: 2}[depth]
                yield Case(f"{model}, {depth}", lambda c, m=model, d=depth, n=count: decode(c, m, d, n), most)


def prefill(context, model, count):
    own = speed_of(context.own(model, "--prompt-tokens", count, "--max-tokens", 1), "prefill")
    return both(prefill=(own, context.peer(model, "-p", count, "-n", "0")))


def prefill_cases(context):
    for count in [128] if context.quick else [512, 4096]:
        for model in context.models:
            most = None if count < 4096 else 3
            yield Case(f"{model}, {count}", lambda c, m=model, n=count: prefill(c, m, n), most)


def forget(path):
    """Takes the files of a folder, or one file, out of the system's cache."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def start(context, model, cold):
    path = Path(context.path(model))
    own, peer = commands(context.options, model, path)
    times = []
    for command in (own, peer):
        if cold:
            forget(path.parent)
        else:
            first_byte(command)
        times.append(1e3 * first_byte(command))
    return both(**{"exec to first byte, ms": times})


def start_cases(context):
    for cold in (False, True):
        for model in context.models:
            name = f"{model}, {'cold' if cold else 'warm'}"
            yield Case(name, lambda c, m=model, d=cold: start(c, m, d), 5 if cold else None)


def serving_cases(context):
    for count in [2] if context.quick else [1, 4, 8, 32]:
        for model in [SMALL] if context.quick else [GEMMA]:
            yield Case(f"{model}, {count} streams", lambda c, m=model, n=count: benchmark_serving.measure(c, m, n))


def fp4_file(context, model, head):
    """The model with weights in NVFP4, made by the peer's quantizer."""
    source = Path(context.path(model))
    made = context.options.files / f"{model.replace(':', '-')}-nvfp4-{head}-head.gguf"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".part")
        command = [context.options.peer / "llama-quantize", "--allow-requantize", "--token-embedding-type", head]
        command += ["--output-tensor-type", head, "--tensor-type", "attn_=nvfp4", "--tensor-type", "ffn_=nvfp4"]
        subprocess.run([*command, source, partial, "Q8_0"], check=True, capture_output=True, text=True)
        partial.replace(made)
    return made


def fp4(context, model, head):
    path, count = fp4_file(context, model, head), 128
    report = context.own(path, "--prompt-tokens", 512, "--max-tokens", count)
    prefill_peer = context.peer(path, "-p", "512", "-n", "0")
    decode_peer = context.peer(path, "-p", "0", "-n", count)
    return both(decode=(speed_of(report, "decode"), decode_peer), prefill=(speed_of(report, "prefill"), prefill_peer))


def fp4_cases(context):
    pairs = [(SMALL, "nvfp4")] if context.quick else [(GEMMA, "nvfp4"), (GEMMA, "q8_0"), (SMALL, "nvfp4")]
    for model, head in pairs:
        yield Case(f"{model}, {head.upper()} head", lambda c, m=model, h=head: fp4(c, m, h))


def batch(context, model, count):
    length = 32 if context.quick else 128
    own = context.own(model, "--batch", count, "--prompt-tokens", length, "--max-tokens", length)
    command = [context.options.peer / "llama-batched-bench", "-m", context.path(model), "-c", 2 * length * count]
    threads = context.options.threads
    command += ["-npp", length, "-ntg", length, "-npl", count, "-t", threads, "-tb", threads, "--output-format", "jsonl"]
    found = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=580)
    peer = next(json.loads(line) for line in found.stdout.splitlines() if line.startswith("{"))
    return both(decode=(speed_of(own, "decode"), peer["speed_tg"]))


def batch_cases(context):
    for model in context.models:
        yield Case(f"{model}, batch 8", lambda c, m=model: batch(c, m, 8), 3)


def edit(context, model):
    most = {GEMMA: 400, SMALL: 100 if context.quick else 768}.get(model, 768)
    found = context.own(model, "--edit", "--runs", 1, "--max-tokens", most, speculation=True)["edit"]
    speeds = [found[f"{way}_tokens_per_second"]["median"] for way in ("speculating", "plain")]
    return {**both(decode=speeds), "accepted": found["accepted"], "drafted": found["drafted"]}


def edit_cases(context):
    for model in context.models:
        yield Case(model, lambda c, m=model: edit(c, m), 3)


def fairness(context, model, streams):
    from fairness import measure
    from serving import Serve, data_folder

    flags = ["--model", model, "--slots", "8", "--context", "8192", "--speculation", "off"]
    flags += ["--threads", str(context.options.threads)]
    with Serve(context.options.nearfield.resolve(), data_folder(), *flags) as server:
        found = measure(server, model, streams, 1024 if context.quick else 4096, 1, seed=random.randrange(2**32))
    quiet, busy = found["quiet_ms"], found["busy_ms"]
    return both(**{f"between tokens, {share}, ms": (busy[share], quiet[share]) for share in ("median", "95%")})


def fairness_cases(context):
    for model in [SMALL] if context.quick else [GEMMA, HALF]:
        for streams in [1] if context.quick else [1, 4]:
            yield Case(f"{model}, {streams} running", lambda c, m=model, n=streams: fairness(c, m, n), 3)


def limits(context, model):
    """Ten pairs of a run and a measurement of the machine in one process, their median; another round is another process."""
    runs = 2 if context.quick else 10
    decoding = context.own(model, "--limits", "--runs", runs, "--prompt-tokens", 16, "--max-tokens", 48, speculation=True)
    reading = context.own(model, "--limits", "--runs", runs, "--prompt-tokens", 512, "--max-tokens", 1, speculation=True)
    decoding_limits, reading_limits = decoding["limits"], reading["limits"]
    gigabytes = decoding_limits["token_bytes"] / 1e9
    metrics = {
        "decode, tok/s and reads/s": {
            "own": speed_of(decoding, "decode"),
            "peer": decoding_limits["reads_per_second"]["median"],
            "ratio": decoding_limits["share_of_reads"],
        }
    }
    if reading_limits["share_of_operations"]:
        metrics["prefill, G operations/s"] = {
            "own": speed_of(reading, "prefill") * reading_limits["token_operations"] / 1e9,
            "peer": reading_limits["operations_per_second"]["median"] / 1e9,
            "ratio": reading_limits["share_of_operations"],
        }
    return {"metrics": metrics, "gigabytes_per_second": decoding_limits["reads_per_second"]["median"] * gigabytes}


def limit_cases(context):
    for model in context.models:
        yield Case(model, lambda c, m=model: limits(c, m), 2)


def quality(context, model):
    windows = 2 if context.quick else 32
    command = [context.options.nearfield, "eval", "kld", model, "--text", context.options.text, "--windows", windows, "--json"]
    return {"metrics": {}, "report": context.json([*command, "--threads", context.options.threads])}


def quality_cases(context):
    for model in context.models:
        # The same bytes each time: a second round would show nothing.
        yield Case(model, lambda c, m=model: quality(c, m), 1)


def mistral_cases(context):
    yield Case(f"{SMALL}, 512 in, 128 out", lambda c: both(**mistral.measure(c, SMALL)), 3)


def at_least(**bounds):
    return {tuple(key.split("|")): (">=", bound) for key, bound in bounds.items()}


SECTIONS = {
    "decode": Section(
        "Decode, one stream",
        "Tokens a second after a prompt of so many tokens; keys and values in f16 on both sides. Beside a context of 16384 "
        "stands the share of the engine's own speed at 128.",
        decode_cases,
        targets=at_least(**{
            f"{GEMMA}, 128|decode": 1.65, f"{SMALL}, 128|decode": 1.7, f"{HALF}, 128|decode": 1.6, f"{LARGE}, 128|decode": 1.16,
            f"{LARGE}, 16384|decode": 1.5, f"{LARGE}, 16384|own speed at 128": 0.6,
        }),
    ),
    "prefill": Section(
        "Prefill",
        "Tokens of a prompt a second.",
        prefill_cases,
        targets=at_least(**{
            f"{GEMMA}, 512|prefill": 2.3, f"{SMALL}, 512|prefill": 4, f"{HALF}, 512|prefill": 2.3, f"{LARGE}, 512|prefill": 2,
        }),
    ),
    "start": Section(
        "From exec to the first byte",
        "A new process for each answer, `llama-completion --no-warmup` on the other side. Warm: the files are in the system's "
        "cache. Cold: they were taken out of it.",
        start_cases,
        rounds=9,
        targets={
            (f"{model}, warm", "exec to first byte, ms"): ("<=", 0.35, alone) for model, alone in ((GEMMA, 250), (SMALL, 100))
        },
    ),
    "serving": Section(
        "Streams of a server",
        "128 tokens in and 128 out for each stream, all sent at once, distinct prompts of random tokens, 8 slots and 8192 "
        "tokens of context in all on both sides (`llama-server -t 2 -tb 2 -np 8 -c 8192`), no prompt cache and no speculation on either. "
        "With 32 streams, 24 wait. Memory is the server process's peak.",
        serving_cases,
        rounds=3,
        targets={
            (f"{GEMMA}, 8 streams", "tokens/s in all"): (">=", 2.5),
            (f"{GEMMA}, 8 streams", "TTFT p50, ms"): ("<=", 0.4),
            (f"{GEMMA}, 8 streams", "peak memory, MiB"): ("<=", 1.0),
        },
        peer="llama-server",
    ),
    "nvfp4": Section(
        "NVFP4",
        "Files made by `llama-quantize` from the same models, the head in NVFP4 too or in Q8_0; prompts of 512 tokens, answers "
        "of 128.",
        fp4_cases,
        rounds=3,
        targets=at_least(**{f"{GEMMA}, NVFP4 head|decode": 2.4, f"{GEMMA}, NVFP4 head|prefill": 5}),
    ),
    "shapes": Section(
        "Qwen3.5, Qwen3.6 and Gemma 4 by their shapes",
        "Files of real shape with random weights, written by `nearfield synth`; embeddings and head in the same format as the "
        "layers; prompts of 512 tokens, answers of 64. The same tensors in GGUF on both sides; and the checkpoint form against plain "
        "reads of the bytes that a token needs: of experts only the chosen ones, of the table for single layers one row.",
        lambda context: benchmark_shapes.cases(context, Case, speed_of, both),
        rounds=3,
        targets=benchmark_shapes.TARGETS,
    ),
    "batch": Section(
        "Decode of eight at once, engines alone",
        "`nearfield bench --batch 8` and `llama-batched-bench -npl 8`, 128 tokens in and 128 out each; tokens a second of all.",
        batch_cases,
        rounds=3,
        targets=at_least(**{f"{GEMMA}, batch 8|decode": 3}),
    ),
    "edit": Section(
        "Guessing ahead in an edit",
        "`nearfield bench --edit`: a file of 58 lines is repeated with a method renamed, with and without speculation, "
        "alternating; the command fails unless the answers are the same. (gemma3, a base model, continues the file and its task as a comment.)",
        edit_cases,
        rounds=3,
        targets={(model, "decode"): (">=", 2) for model in MODELS},
        peer="without",
    ),
    "fairness": Section(
        "Running streams while a prompt of 4096 tokens comes in",
        "`bench/load/fairness.py`: the time between the streams' tokens meanwhile, and before.",
        fairness_cases,
        rounds=3,
        targets={
            (f"{model}, {streams} running", f"between tokens, {share}, ms"): ("<=", 2)
            for model in (GEMMA, HALF) for streams in (1, 4) for share in ("median", "95%")
        },
        peer="before",
    ),
    "limits": Section(
        "Shares of the machine's limits",
        "`nearfield bench --limits`, ten pairs a round. Decode against plain reads, by the same threads from the same kind of pages, of as "
        "many bytes as the file's tensors have that a token needs; prefill of 512 tokens, its products in the layers, against the measured "
        "peak of the 512-bit dot product of bytes.",
        limit_cases,
        rounds=2,
        targets=at_least(**{f"{model}|decode, tok/s and reads/s": 0.9 for model in (HALF, LARGE)}),
        peer="the limit",
    ),
    "quality": Section(
        "What the default arithmetic costs",
        "`nearfield eval kld`: 8-bit activations and 16-bit keys and values against `--arithmetic exact --kv f32`, on the first 32 windows of "
        "512 tokens of WikiText-2's raw test split.",
        quality_cases,
        rounds=1,
    ),
    "mistral.rs": Section(
        "mistral.rs",
        "The package `mistralrs` of Python's index, from its Python interface, as it comes (no build for this processor), on the same GGUF.",
        mistral_cases,
        rounds=3,
        peer="mistral.rs",
    ),
}
