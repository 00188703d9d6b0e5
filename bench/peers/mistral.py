"""mistral.rs from its package `mistralrs`: as a module, the comparison; as a program, one measurement in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

VERSION = "0.9.5"
LENGTHS = (512, 128)


def interpreter(context):
    """A Python that has the package; made where none was given."""
    if context.options.mistralrs:
        return context.options.mistralrs
    folder = context.options.files / f"mistralrs-{VERSION}"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, text=True)
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", f"mistralrs=={VERSION}"]
        subprocess.run(install, check=True, capture_output=True, text=True)
        (folder / "ready").touch()
    return folder / "bin/python"


def measure(context, model):
    """{metric: (ours, theirs)} in tokens a second."""
    prompt, answer = (64, 16) if context.quick else LENGTHS
    report = context.own(model, "--prompt-tokens", prompt, "--max-tokens", answer)
    command = [interpreter(context), __file__, context.path(model), str(prompt), str(answer)]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=580)
    # Its log is on standard output too.
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        phase: (report[phase]["tokens_per_second"]["median"], found[phase]) for phase in ("prefill", "decode")
    }


def main():
    import mistralrs

    path, prompt, answer = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    which = mistralrs.Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=path.name)
    runner = mistralrs.Runner(which=which, num_device_layers=None, prefix_cache_n=0)
    # Words that are a token each, numbered so that no beginning is met twice.
    text = lambda number, count: f"{number} " + "the " * (count - 2)
    ask = lambda number, count, most: runner.send_completion_request(
        mistralrs.CompletionRequest(
            model="default", prompt=text(number, count), max_tokens=most, temperature=0, logit_bias={0: -100.0, 2: -100.0}
        )
    )
    ask(1, 16, 4)
    usage = ask(2, prompt, answer).usage
    speeds = {"prefill": usage.avg_prompt_tok_per_sec, "decode": usage.avg_compl_tok_per_sec}
    print(json.dumps({**speeds, "tokens": [usage.prompt_tokens, usage.completion_tokens]}))


if __name__ == "__main__":
    main()
