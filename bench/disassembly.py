#!/usr/bin/env python3
"""Checks in the machine code that the hot loops of the matrix products keep their accumulators in registers.

    bench/disassembly.py [BINARY]        (target/release/nearfield by default; it must have symbols)

A tile is an innermost loop of a product kernel that is mostly dot products or fused multiply-adds. A compiler that runs
out of registers there stores running sums to the stack and loads them again in every turn, which costs up to half of the
speed and changes no result, so no other test sees it. Prints a line for each kernel and kind of loop. The AVX-512 kernels
are judged: it exits with 1 if one of their tiles stores a vector to the stack, or if one has no tile at all, which means
that this check looks in the wrong place. The narrower sets have half as many registers; theirs are shown.
"""

import collections
import re
import subprocess
import sys

# Kernel functions, what a tile of theirs is made of, how many of it at least, and whether it is judged.
KERNELS = [
    ("nearfield_kernels::matmul::integer::avx512", re.compile(r"\bvpdpbusd\b"), 8, True),
    ("nearfield_kernels::matmul::integer::avx_vnni", re.compile(r"\bvpdpbusd\b"), 8, False),
    ("nearfield_kernels::matmul::integer::avx2", re.compile(r"\bvpmaddubsw\b"), 8, False),
    ("nearfield_kernels::matmul::float::avx512", re.compile(r"\bvfn?madd\w*ps\b"), 4, True),
    ("nearfield_kernels::matmul::float::avx2", re.compile(r"\bvfn?madd\w*ps\b"), 4, False),
]
# One instruction in so many is a product, or the loop does something else too (it unpacks weights) and is not judged.
DENSITY = {"vpmaddubsw": 9}
USUAL_DENSITY = 4.5

JUMP = re.compile(r"j\w+\s+([0-9a-f]+)\b")
STACK_STORE = re.compile(r"vmov\w+\s+%[xyz]mm\d+,-?(0x[0-9a-f]+)?\(%r[sb]p")
TARGET = re.compile(r"%([xyz]mm\d+)$")


def functions(binary):
    """Instructions (address, text) of every function by its plain name."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", binary]
    found, current = {}, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.endswith(">:\n"):
                name = line.split("<", 1)[1][:-3]
                name = re.sub(r"::h[0-9a-f]{16}$", "", name)
                current = found.setdefault(name, []) if name.startswith("nearfield_kernels::matmul") else None
            elif current is not None and ":\t" in line:
                address, text = line.split(":\t", 1)
                current.append((int(address, 16), text.strip()))
    if process.returncode:
        sys.exit(f"objdump cannot read {binary}")
    return found


def innermost_loops(instructions):
    """The bodies of loops, by backward jumps, that contain no other loop."""
    place = {address: i for i, (address, _) in enumerate(instructions)}
    spans = set()
    for i, (_, text) in enumerate(instructions):
        jump = JUMP.match(text)
        target = place.get(int(jump.group(1), 16)) if jump else None
        if target is not None and target <= i:
            spans.add((target, i))
    for start, end in sorted(spans):
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in spans):
            yield [text for _, text in instructions[start : end + 1]]


def judged(loop, product, least):
    """Products, accumulators and stack stores of a loop that is a tile; None for other loops."""
    products = [text for text in loop if product.search(text)]
    density = DENSITY.get(products[0].split()[0], USUAL_DENSITY) if products else 0
    if len(products) < least or len(loop) > density * len(products):
        return None
    sums = {match.group(1) for text in products if (match := TARGET.search(text))}
    return len(products), len(sums), sum(bool(STACK_STORE.match(text)) for text in loop)


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/nearfield"
    found = functions(binary)
    spilled = False
    for name, product, least, strict in KERNELS:
        loops = innermost_loops(found.get(name, []))
        tiles = collections.Counter(tile for loop in loops if (tile := judged(loop, product, least)))
        if not tiles and strict:
            sys.exit(f"{name}: no tile found in {binary}; is it stripped, or has the kernel another name now?")
        print(name, "" if tiles else "(no loop that does little else)")
        for (products, sums, stores), count in sorted(tiles.items()):
            verdict = "in registers" if stores == 0 else f"{stores} STORES TO THE STACK in every turn"
            print(f"    {count:3} tiles of {products:3} products, {sums:2} targets: {verdict}")
            spilled |= strict and stores > 0
    sys.exit("a tile spills its accumulators" if spilled else 0)


if __name__ == "__main__":
    main()
