"""Writes docs/benchmarks.md from the results of bench/peers/benchmarks.py."""

import statistics
import textwrap

BEGIN, END = "<!-- begin of what bench/peers/benchmarks.py writes -->", "<!-- end of what bench/peers/benchmarks.py writes -->"


def number(value):
    """About three digits, without noise behind the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values):
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def ratios(entries):
    """The spread of own / peer over rounds; entries that hold spreads of their own pairs are joined."""
    if all("ratio" in entry for entry in entries):
        inner = [entry["ratio"] for entry in entries]
        medians = [one["median"] for one in inner]
        return statistics.median(medians), min(one["min"] for one in inner), max(one["max"] for one in inner)
    return spread([entry["own"] / entry["peer"] for entry in entries if entry["peer"]] or [float("nan")])


def is_better_small(metric):
    return "ms" in metric or "memory" in metric


def verdict(metric, own, middle, target):
    """The target and whether it is met; a loss against the peer is told apart from a win that is not wide enough."""
    loss = middle > 1 if is_better_small(metric) else middle < 1
    if target is None:
        return "**loss**" if loss else ""
    sign, bound, *alone = target
    met = middle >= bound if sign == ">=" else middle <= bound
    met = met and all(own <= most for most in alone)
    also = "".join(f" and {most:g} alone" for most in alone)
    return f"{'at least' if sign == '>=' else 'at most'} {bound:g}{also}: {'met' if met else '**missed**'}"


def compared(section, cases):
    lines = [
        f"| case | measure | Nearfield | {section.peer} | ratio (least to most) | rounds | target |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    # What is compared with the machine or with the engine itself is no loss when it is below 1.
    peers = {"the limit", "before", "without"}
    for name, case in cases.items():
        metrics = {metric: True for taken in case["rounds"] for metric in taken["metrics"]}
        for metric in metrics:
            entries = [taken["metrics"][metric] for taken in case["rounds"] if metric in taken["metrics"]]
            own = statistics.median(entry["own"] for entry in entries)
            if not all("peer" in entry for entry in entries):
                lines.append(f"| {' | '.join([name, metric, number(own), '', '', str(len(entries)), ''])} |")
                continue
            peer = statistics.median(entry["peer"] for entry in entries)
            middle, least, most = ratios(entries)
            target = section.targets.get((name, metric))
            judged = verdict(metric, own, middle, target)
            if target is None and (section.peer in peers or metric.startswith("own speed") or "reads/s" in metric):
                judged = ""
            cells = [name, metric, number(own), number(peer), f"{middle:.2f} ({least:.2f} to {most:.2f})", str(len(entries)), judged]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def quality(cases):
    lines = [
        "| model | perplexity, exact | default | change | mean divergence, nats | 99% | largest | same first choice | target |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, case in cases.items():
        found = case["rounds"][-1]["report"]
        exact, default = found["ppl_reference"], found["ppl"]
        change = default / exact - 1
        cells = [f"{name}, {found['windows']} windows", f"{exact:.4f}", f"{default:.4f}", f"{change:+.2%}", f"{found['mean']:.5f}"]
        cells += [f"{found['percentile_99']:.4f}", f"{found['largest']:.3f}", f"{found['same_choice']:.1%}"]
        cells.append(f"within 0.5%: {'met' if abs(change) <= 0.005 else '**missed**'}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def generated(results, sections):
    machine = results.get("machine", {})
    lines = [BEGIN, ""]
    if machine:
        text = (
            f"Last run on {machine['date']} at commit {machine['commit']}, on a virtual machine with {machine['threads']} threads "
            f"of an {machine['processor']} and {machine['memory_gib']} GiB."
        )
        lines += [textwrap.fill(text, 120), ""]
    for name, section in sections.items():
        cases = {case: found for case, found in results["sections"].get(name, {}).items() if found["rounds"]}
        if cases:
            text = f"`bench/peers/benchmarks.py --only {name}`. {section.text}"
            lines += [f"## {section.title}", "", textwrap.fill(text, 120, break_on_hyphens=False), ""]
            lines += quality(cases) if name == "quality" else compared(section, cases)
            lines.append("")
    return "\n".join([*lines, END])


INTRODUCTION = """# Benchmarks

One command takes the figures between the two marks below and writes them here: `bench/peers/benchmarks.py`. Both sides take
turns on the same files, each with its best flags, and ratios are worth more than figures, since the machine shares its
host with strangers. A ratio is the median over rounds, of Nearfield's figure divided by the other's; for times and memory,
less is better. The peer is llama.cpp as vendored in the package `llama-cpp-python` 0.3.36, built natively by
`bench/peers/build.sh`, in each case with or without flash attention, whichever was faster in that round.

"""


def write(page, results, sections):
    """Replaces what stands between the marks, and leaves the rest of the page as it is."""
    new = generated(results, sections)
    old = page.read_text() if page.is_file() else ""
    if BEGIN in old and END in old:
        head, tail = old.split(BEGIN)[0], old.split(END)[1]
        page.write_text(head + new + tail)
    else:
        page.write_text(INTRODUCTION + new + "\n" + (("\n" + old.removeprefix("# Benchmarks").lstrip()) if old else ""))
