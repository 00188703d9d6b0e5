"""The section on models of real shape with random weights, which `nearfield synth` writes: nothing has to be downloaded."""

import shutil
import subprocess

QWEN, GEMMA, MIXTURE = "qwen3.5-0.8b", "gemma4-e2b", "qwen3.6-35b-a3b"
SHAPES = (QWEN, GEMMA)
# Bytes that the largest takes, and what stays free besides.
MIXTURE_BYTES, SPARE_BYTES = 20 << 30, 2 << 30


def made(context, shape, form, ending):
    """A file or folder of a shape, with embeddings and head in the same form as the layers."""
    path = context.options.files / f"{shape}-{form}{ending}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [context.options.nearfield, "synth", shape, path, "--format", form, "--tables", form, "--quiet"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return path


def beside(context, shape, form, speed_of, both):
    """A GGUF file of the shape on both sides."""
    path, count = made(context, shape, form, ".gguf"), 16 if context.quick else 64
    length = 64 if context.quick else 512
    report = context.own(path, "--prompt-tokens", length, "--max-tokens", count)
    prefill = context.peer(path, "-p", length, "-n", "0", attention=("0",))
    decode = context.peer(path, "-p", "0", "-n", count, attention=("0",))
    return both(decode=(speed_of(report, "decode"), decode), prefill=(speed_of(report, "prefill"), prefill))


def shares(context, shape, speed_of):
    """The published form, a checkpoint in NVFP4, against reads of the bytes that a token needs."""
    path = made(context, shape, "nvfp4", "")
    runs, rows = (2, 64) if context.quick else (10, 512)
    report = context.own(path, "--limits", "--runs", runs, "--prompt-tokens", 16, "--max-tokens", 48, speculation=True)
    limits = report["limits"]
    ratio = limits["share_of_reads"]
    own = speed_of(report, "decode")
    metrics = {"decode, tok/s and reads/s": {"own": own, "peer": limits["reads_per_second"]["median"], "ratio": ratio}}
    prompt = context.own(path, "--prompt-tokens", rows, "--max-tokens", 1)
    metrics["prefill, tok/s"] = {"own": speed_of(prompt, "prefill")}
    metrics["bytes a token, MB"] = {"own": limits["token_bytes"] / 1e6}
    metrics["plan, MiB"] = {"own": report["plan_bytes"] / 2**20}
    metrics["peak memory, MiB"] = {"own": report["peak_bytes"] / 2**20}
    return {"metrics": metrics, "weights": report["weights"]}


def cases(context, case, speed_of, both):
    for shape in [QWEN] if context.quick else SHAPES:
        for form in ("nvfp4", "q4_0"):
            name = f"{shape}, {form.upper()} GGUF"
            yield case(name, lambda c, s=shape, f=form: beside(c, s, f, speed_of, both), 3)
        yield case(f"{shape}, NVFP4 checkpoint", lambda c, s=shape: shares(c, s, speed_of), 2)
    folder = context.options.files
    there = (folder / f"{MIXTURE}-nvfp4").exists()
    room = folder.exists() and shutil.disk_usage(folder).free > MIXTURE_BYTES + SPARE_BYTES
    if not context.quick and (there or room):
        yield case(f"{MIXTURE}, NVFP4 checkpoint", lambda c: shares(c, MIXTURE, speed_of), 1)


TARGETS = {
    **{(f"{shape}, NVFP4 GGUF", phase): (">=", least) for shape in SHAPES for phase, least in (("decode", 1.5), ("prefill", 2))},
    **{(f"{shape}, Q4_0 GGUF", phase): (">=", least) for shape in SHAPES for phase, least in (("decode", 1.1), ("prefill", 1.2))},
    **{(f"{shape}, NVFP4 checkpoint", "decode, tok/s and reads/s"): (">=", 0.8) for shape in SHAPES},
}
