#!/usr/bin/env python3
"""A small model first, a larger one where the small one is unsure: GSM8K, greedy, thresholds fitted on other questions.

`qwen2.5-coder:0.5b` answers on "this machine", `qwen2.5-coder:1.5b` behind a second server as its "cloud". Every question is
put to both, once; what a router would have cost and gained follows from that. Then the questions go through a real gateway
with an `escalate` rule, and its answers must be the ones that were foreseen.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import math
import os
import random
import re
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import BINARY, ROOT, Serve, data_folder  # noqa: E402

SMALL, LARGE = "qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b"
ASK = "\n\nThink step by step. End with one line: The answer is N."
LENGTHS = (8, 16, 32, 64, 1024)
SAMPLES, SAMPLE_TOKENS = 4, 48
SHARES = (0.25, 0.5, 0.75)
STREAMS = 8


def questions(first, count):
    folder = Path(os.environ.get("NEARFIELD_TEST_DATA", ROOT / "../shared/data"))
    lines = (folder / "tasks/gsm8k_test.jsonl").read_text().splitlines()[first : first + count]
    items = [json.loads(line) for line in lines]
    return [(item["question"], number(item["answer"].rsplit("####", 1)[1])) for item in items]


def number(text):
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def post(server, body):
    request = urllib.request.Request(
        f"{server.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def ask(server, model, question, tokens, **more):
    body = {"model": model, "messages": [{"role": "user", "content": question + ASK}], "max_tokens": tokens, **more}
    return post(server, {"temperature": 0, **body})


def everyone(work, items, words):
    began, done = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        for at, result in enumerate(pool.map(work, items), 1):
            done.append(result)
            if at % 50 == 0:
                print(f"{words}: {at} of {len(items)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return done


def entropy(token):
    chances = [math.exp(other["logprob"]) for other in token["top_logprobs"]]
    rest = 1 - sum(chances)
    return -sum(p * math.log(p) for p in chances if p > 0) - (rest * math.log(rest) if rest > 1e-9 else 0)


def alike(one, other):
    """Shared words of two texts, as F1 over their counts."""
    one, other = (collections.Counter(re.findall(r"\w+", text.lower())) for text in (one, other))
    shared, both = sum((one & other).values()), sum(one.values()) + sum(other.values())
    return 2 * shared / both if both else 1.0


def small_answers(server, items, tokens):
    """Of each question: whether the small model is right, its answer, and how doubtful it is by each signal."""

    def one(item):
        question, gold = item
        choice = ask(server, SMALL, question, tokens, logprobs=True, top_logprobs=20)["choices"][0]
        text, told = choice["message"]["content"], choice["logprobs"]["content"]
        doubts = {"first-token entropy": entropy(told[0])}
        for length in LENGTHS:
            part = [token["logprob"] for token in told[:length]]
            doubts[f"mean log probability of {length} tokens"] = -sum(part) / len(part)
        more = ask(server, SMALL, question, SAMPLE_TOKENS, temperature=0.7, n=SAMPLES, seed=1)["choices"]
        texts = [choice["message"]["content"] for choice in more]
        pairs = [alike(a, b) for a, b in itertools.combinations(texts, 2)]
        doubts[f"agreement of {SAMPLES} samples"] = -sum(pairs) / len(pairs)
        doubts["prompt length"] = len(question)
        return number(text) == gold, text, doubts

    return everyone(one, items, "small")


def large_answers(server, items, tokens):
    def one(item):
        question, gold = item
        text = ask(server, LARGE, question, tokens)["choices"][0]["message"]["content"]
        return number(text) == gold, text

    return everyone(one, items, "large")


def interval(values, statistic, rounds=2000):
    draw = random.Random(7)
    got = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(rounds))
    return got[int(rounds * 0.025)], got[int(rounds * 0.975) - 1]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def apgr(rows, thresholds):
    """The area under the part of the large model's lead over the share of its calls; 0.5 by chance."""
    lead = mean(large for _, large, _ in rows) - mean(small for small, _, _ in rows)
    points = [(0.0, 0.0)]
    for threshold in reversed(thresholds):
        share = mean(doubt > threshold for *_, doubt in rows)
        gain = mean((large - small) * (doubt > threshold) for small, large, doubt in rows)
        points.append((share, gain / lead if lead else 0.0))
    points.append((1.0, 1.0))
    points.sort()
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(points, points[1:]))


def threshold(doubts, share):
    """Above it lies about this share of them."""
    ordered = sorted(doubts, reverse=True)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def judged(fit, test):
    """Every signal on the questions, with thresholds from the others."""
    report = {}
    for signal in fit["small"][0][2]:
        rows = {
            name: [(a[0], b[0], a[2][signal]) for a, b in zip(part["small"], part["large"])]
            for name, part in (("fit", fit), ("test", test))
        }
        levels = [threshold([doubt for *_, doubt in rows["fit"]], 1 - at / 10) for at in range(1, 10)]
        at_share = {}
        for share in SHARES:
            bar = threshold([doubt for *_, doubt in rows["fit"]], share)
            quality = lambda rows: mean(large if doubt > bar else small for small, large, doubt in rows)  # noqa: E731
            called = lambda rows: mean(doubt > bar for *_, doubt in rows)  # noqa: E731
            blind = lambda rows: (1 - called(rows)) * mean(r[0] for r in rows) + called(rows) * mean(r[1] for r in rows)  # noqa: E731
            at_share[share] = {
                "threshold": bar,
                "quality": [quality(rows["test"]), *interval(rows["test"], quality)],
                "large_share": [called(rows["test"]), *interval(rows["test"], called)],
                "random_quality": blind(rows["test"]),
                "over_random": [
                    quality(rows["test"]) - blind(rows["test"]),
                    *interval(rows["test"], lambda drawn: quality(drawn) - blind(drawn)),
                ],
            }
        area = lambda drawn: apgr(drawn, levels)  # noqa: E731
        report[signal] = {
            "fit_apgr": apgr(rows["fit"], levels),
            "apgr": [apgr(rows["test"], levels), *interval(rows["test"], area, 500)],
            "at_share": at_share,
        }
    return report


def through_gateway(options, large, items, best, bar, tokens):
    """The questions through a real gateway with the rule that was fitted."""
    length = re.search(r"of (\d+) tokens", best)
    rule = f"tokens = {length[1]}, mean_logprob_below = {-bar!r}" if length else f"tokens = 1, first_entropy_above = {bar!r}"
    config = (
        '[policy]\nfile = "policy.toml"\n[backend.large]\nkind = "openai-compatible"\nkey = "env:LARGE_KEY"\n'
        f'base_url = "{large.base_url}"\nmodel_map = {{ "{SMALL}" = "{LARGE}" }}\n'
    )
    with_rule = Serve(
        options.binary, options.data, "--model", SMALL, config=config, environment={"LARGE_KEY": large.key}
    )
    (with_rule.data / "policy.toml").write_text(
        '[key.env]\nclass = "public"\n[[rule]]\nname = "small first"\nbackends = ["local", "large"]\n'
        f"escalate = {{ {rule} }}\n"
    )
    with with_rule as server:

        def one(item):
            reply = ask(server, SMALL, item[0], tokens)
            return reply["nearfield"]["backend"], reply["choices"][0]["message"]["content"]

        answers = everyone(one, items, "gateway")
        rows = server.settled_ledger()
    attempts = sum(len(row["attempts"]) for row in rows)
    return answers, {"rows": len(rows), "attempts": attempts, "rule": rule}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder with both models")
    parser.add_argument("--items", type=int, default=300, help="questions, the first of GSM8K's test set")
    parser.add_argument("--fit", type=int, default=200, help="questions after those, for the thresholds")
    parser.add_argument("--tokens", type=int, default=320, help="the most tokens of an answer")
    parser.add_argument("--out", type=Path, help="write the report here")
    options = parser.parse_args()
    items, others = questions(0, options.items), questions(options.items, options.fit)
    parts = {"test": {}, "fit": {}}
    with Serve(options.binary, options.data, "--model", SMALL) as small:
        got = small_answers(small, items + others, options.tokens)
        parts["test"]["small"], parts["fit"]["small"] = got[: len(items)], got[len(items) :]
    with Serve(options.binary, options.data, "--model", LARGE) as large:
        got = large_answers(large, items + others, options.tokens)
        parts["test"]["large"], parts["fit"]["large"] = got[: len(items)], got[len(items) :]
        report = judged(parts["fit"], parts["test"])
        usable = [name for name in report if "log probability" in name or "entropy" in name]
        best = max(usable, key=lambda name: report[name]["fit_apgr"])
        bar = report[best]["at_share"][0.5]["threshold"]
        answers, ledger = through_gateway(options, large, items, best, bar, options.tokens)
    foreseen = [
        ("large", b[1]) if a[2][best] > bar else ("local", a[1])
        for a, b in zip(parts["test"]["small"], parts["test"]["large"])
    ]
    same = sum(one == other for one, other in zip(answers, foreseen))
    right = [number(text) == gold for (_, text), (_, gold) in zip(answers, items)]
    result = {
        "items": len(items),
        "fit": len(others),
        "small": [mean(a[0] for a in parts["test"]["small"]), *interval([a[0] for a in parts["test"]["small"]], mean)],
        "large": [mean(b[0] for b in parts["test"]["large"]), *interval([b[0] for b in parts["test"]["large"]], mean)],
        "signals": report,
        "chosen_on_fit": best,
        "gateway": {
            **ledger,
            "quality": [mean(right), *interval(right, mean)],
            "large_share": mean(backend == "large" for backend, _ in answers),
            "same_as_foreseen": same,
        },
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if same < len(items):
        raise SystemExit(f"{len(items) - same} answers of the gateway were not the foreseen ones")


def show(result):
    span = lambda three: f"{three[0]:.3f} [{three[1]:.3f}, {three[2]:.3f}]"  # noqa: E731
    print(f"{result['items']} questions, thresholds from {result['fit']} others")
    print(f"{SMALL} alone {span(result['small'])}, {LARGE} alone {span(result['large'])}")
    print("| signal | APGR (chance 0.5) | quality at half the calls | large share | over random routing |")
    print("|---|---|---|---|---|")
    for name, row in sorted(result["signals"].items(), key=lambda pair: -pair[1]["apgr"][0]):
        half = row["at_share"][0.5]
        cells = [span(row["apgr"]), span(half["quality"]), span(half["large_share"]), span(half["over_random"])]
        print(f"| {name} | " + " | ".join(cells) + " |")
    gateway = result["gateway"]
    print(
        f"through the gateway ({result['chosen_on_fit']}, {gateway['rule']}): quality {span(gateway['quality'])}, large share "
        f"{gateway['large_share']:.3f}, {gateway['same_as_foreseen']} of {result['items']} answers as foreseen, "
        f"{gateway['rows']} rows, {gateway['attempts']} attempts"
    )


if __name__ == "__main__":
    main()
