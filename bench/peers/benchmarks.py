#!/usr/bin/env python3
"""Every figure of docs/benchmarks.md: Nearfield beside its peers, alternating on the same files with the best flags of each.

    python3 bench/peers/benchmarks.py --build              # builds llama.cpp first where it is not there
    python3 bench/peers/benchmarks.py --only decode --rounds 5
    python3 bench/peers/benchmarks.py --quick              # one short round of each section, printed and not kept

A case is one comparison, a round of it runs both sides once. Each round is written to the results file as soon as it is
there, so that a run that is stopped, or that ends by itself after --seconds, continues where it was. Rounds are counted up
to --rounds; --fresh throws the chosen sections' rounds away first. docs/benchmarks.md is written anew between its markers
after each run, from all that the results file holds.
"""

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmark_report import write
from benchmark_sections import SECTIONS, Context
from common import ROOT, arguments


def parse():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--case", metavar="TEXT", help="only cases whose name holds this")
    parser.add_argument("--rounds", type=int, help="rounds of each case in all [default: each section's own]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further round after so long")
    parser.add_argument("--quick", action="store_true", help="one short round of each section; results are only printed")
    parser.add_argument("--fresh", action="store_true", help="forget the chosen sections' earlier rounds")
    parser.add_argument("--build", action="store_true", help="build llama.cpp with bench/peers/build.sh")
    parser.add_argument("--report", action="store_true", help="only write the page from the results")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--files", type=Path, default=ROOT / "bench/.peers", help="folder for files that are made here")
    parser.add_argument("--mistralrs", type=Path, help="a Python that has the package mistralrs [default: made in --files]")
    parser.add_argument("--text", type=Path, default=ROOT / "../shared/data/text/wiki.test.raw", help="WikiText-2's raw test split")
    return parser.parse_args()


def machine(options):
    """What the page says of where its figures are from."""
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    kib = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": processor,
        "threads": options.threads,
        "memory_gib": round(kib / 2**20, 1),
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip(),
    }


def run(options, results):
    began, failed = time.monotonic(), []
    context = Context(options, results)
    for name in options.only or SECTIONS:
        section = SECTIONS[name]
        wanted = 1 if options.quick else options.rounds or section.rounds
        kept = results["sections"].setdefault(name, {})
        if options.fresh:
            kept.clear()
        cases = [case for case in section.cases(context) if (options.case or "") in case.name]
        broken = set()
        # A round of every case before the next of any, so that a run that is stopped has something of each.
        for number in range(1, wanted + 1):
            for case in cases:
                rounds = kept.setdefault(case.name, {"rounds": []})["rounds"]
                if len(rounds) >= min(number, case.most_rounds or number) or case.name in broken:
                    continue
                if time.monotonic() - began > options.seconds:
                    print("out of time; the same command continues here", flush=True)
                    return failed
                started = time.monotonic()
                try:
                    rounds.append(case.measure(context))
                except (subprocess.SubprocessError, OSError, ValueError, KeyError, IndexError, SystemExit) as error:
                    broken.add(case.name)
                    failed.append(f"{name}, {case.name}: {error} {(getattr(error, 'stderr', None) or '')[-600:]}")
                    print(f"FAILED {failed[-1]}", file=sys.stderr, flush=True)
                    continue
                rounds[-1]["commit"] = results["machine"]["commit"]
                print(f"{name}, {case.name}, {time.monotonic() - started:.0f} s: {json.dumps(rounds[-1])}", flush=True)
                if not options.quick:
                    keep(options.results, results)
    return failed


def keep(path, results):
    """Writes the results whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def main():
    options = parse()
    if options.build and not (options.peer / "llama-bench").exists():
        subprocess.run([ROOT / "bench/peers/build.sh"], check=True)
    results = {"sections": {}}
    if options.results.exists() and not options.quick:
        results = json.loads(options.results.read_text())
    failed = []
    if not options.report:
        results["machine"] = machine(options)
        failed = run(options, results)
    page = Path("/dev/stdout") if options.quick else options.page
    write(page, results, SECTIONS)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
