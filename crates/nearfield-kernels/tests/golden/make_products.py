#!/usr/bin/env python3
"""Writes products.txt: matrix products of every weight format, evaluated by numpy from "The bits" in double precision.

It shares no code with the kernels: blocks are unpacked here a second time, activations are quantized as the text says,
and sums are taken in double precision, so a kernel differs from it by its own roundings only.

    python3 make_products.py > products.txt

Each case is four lines: `format scale rows columns count` (FP8 comes once with each kind of scales, several of them joined
by commas after `rows:` or `blocks:`), the weights as hexadecimal bytes, the activations as
hexadecimal floats (bits), and for each activation row and weight row `value:size`, where size is the sum of the terms'
magnitudes.
"""

import sys

import numpy as np

COLUMNS, ROWS, COUNT = 512, 3, 2
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.0])


def half(block, at):
    return float(block[at : at + 2].view(np.float16)[0])


def halves(nibbles):
    """Low nibbles of all bytes, then high ones."""
    return np.concatenate([nibbles & 15, nibbles >> 4]).astype(np.int64)


def fifth_bits(block, at):
    word = int(block[at : at + 4].view(np.uint32)[0])
    return np.array([(word >> i) & 1 for i in range(32)]) << 4


def q4_0(b):
    return (halves(b[2:18]) - 8) * half(b, 0)


def q4_1(b):
    return halves(b[4:20]) * half(b, 0) + half(b, 2)


def q5_0(b):
    return ((halves(b[6:22]) | fifth_bits(b, 2)) - 16) * half(b, 0)


def q5_1(b):
    return (halves(b[8:24]) | fifth_bits(b, 4)) * half(b, 0) + half(b, 2)


def q8_0(b):
    return b[2:34].view(np.int8).astype(float) * half(b, 0)


def iq4_nl(b):
    return IQ4_NL[halves(b[2:18])] * half(b, 0)


def mxfp4(b):
    return E2M1[halves(b[1:17])] * 2.0 ** (int(b[0]) - 127)


def e4m3(code):
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


def nvfp4(b):
    subs = [E2M1[halves(b[4 + 8 * s : 12 + 8 * s])] * e4m3(int(b[s])) for s in range(4)]
    return np.concatenate(subs)


def q2_k(b):
    out = np.empty(256)
    for i in range(256):
        run, quarter, lane = i // 128, i % 128 // 32, i % 32
        code = (int(b[16 + 32 * run + lane]) >> (2 * quarter)) & 3
        scale = int(b[i // 16])
        out[i] = half(b, 80) * (scale & 15) * code - half(b, 82) * (scale >> 4)
    return out


def q3_k(b):
    out = np.empty(256)
    scales = b[96:108].astype(int)
    for i in range(256):
        run, quarter, lane, sub = i // 128, i % 128 // 32, i % 32, i // 16
        code = (int(b[32 + 32 * run + lane]) >> (2 * quarter)) & 3
        if not int(b[lane]) >> (i // 32) & 1:
            code -= 4
        low = scales[sub] & 15 if sub < 8 else scales[sub - 8] >> 4
        high = (scales[8 + sub % 4] >> (2 * (sub // 4))) & 3
        out[i] = half(b, 108) * ((low | high << 4) - 32) * code
    return out


def scale_and_minimum(packed, j):
    q = packed.astype(int)
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4


def q4_k(b):
    out = np.empty(256)
    for j in range(8):
        scale, minimum = scale_and_minimum(b[4:16], j)
        codes = (b[16 + 32 * (j // 2) :][:32] >> (4 * (j % 2))) & 15
        out[32 * j :][:32] = half(b, 0) * scale * codes.astype(float) - half(b, 2) * minimum
    return out


def q5_k(b):
    out = np.empty(256)
    for j in range(8):
        scale, minimum = scale_and_minimum(b[4:16], j)
        codes = (b[48 + 32 * (j // 2) :][:32] >> (4 * (j % 2))) & 15 | ((b[16:48] >> j) & 1) << 4
        out[32 * j :][:32] = half(b, 0) * scale * codes.astype(float) - half(b, 2) * minimum
    return out


def q6_k(b):
    out = np.empty(256)
    scales = b[192:208].view(np.int8).astype(float)
    for i in range(256):
        run, quarter, lane = i // 128, i % 128 // 32, i % 32
        low = int(b[64 * run + 32 * (quarter % 2) + lane]) >> (4 * (quarter // 2)) & 15
        high = int(b[128 + 32 * run + lane]) >> (2 * quarter) & 3
        out[i] = half(b, 208) * scales[i // 16] * ((low | high << 4) - 32)
    return out


# name: (elements, bytes, unpack, places of f16 scales)
FORMATS = {
    "Q4_0": (32, 18, q4_0, [0]),
    "Q4_1": (32, 20, q4_1, [0, 2]),
    "Q5_0": (32, 22, q5_0, [0]),
    "Q5_1": (32, 24, q5_1, [0, 2]),
    "Q8_0": (32, 34, q8_0, [0]),
    "Q2_K": (256, 84, q2_k, [80, 82]),
    "Q3_K": (256, 110, q3_k, [108]),
    "Q4_K": (256, 144, q4_k, [0, 2]),
    "Q5_K": (256, 176, q5_k, [0, 2]),
    "Q6_K": (256, 210, q6_k, [208]),
    "IQ4_NL": (32, 18, iq4_nl, [0]),
    "MXFP4": (32, 17, mxfp4, []),
    "NVFP4": (64, 36, nvfp4, []),
    "F32": (1, 4, lambda b: b.view(np.float32).astype(float), []),
    "F16": (1, 2, lambda b: b.view(np.float16).astype(float), []),
    "BF16": (1, 2, lambda b: (b.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(float), []),
}


def f8_e4m3(codes):
    return np.array([-e4m3(int(c) & 127) if c & 128 else e4m3(int(c)) for c in codes])


def random_block(random, name, size, places):
    block = random.integers(0, 256, size, dtype=np.uint8)
    for at in places:
        scale = np.float16(random.uniform(0.001, 0.1) * random.choice([-1, 1]))
        block[at : at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    if name == "MXFP4":
        block[0] = random.integers(118, 130)
    if name == "NVFP4":
        block[:4] = random.integers(0, 0x7F, 4)
    if not places and size <= 4:
        value = np.float32(random.normal())
        value = np.float16(value) if name == "F16" else value
        block = np.frombuffer(value.tobytes(), np.uint8)[-size:].copy()
    return block


def quantized(row):
    """int8 in groups of 32: what the kernels multiply, as doubles."""
    groups = row.reshape(-1, 32)
    largest = np.abs(groups).max(axis=1)
    inverse = np.float32(127) / largest
    codes = np.clip(np.rint(groups * inverse[:, None]), -127, 127)
    scales = (largest / np.float32(127)).astype(np.float64)
    return (codes.astype(np.float64) * scales[:, None]).reshape(-1)


def write_case(name, scale, codes, used, values, weights):
    print(name, scale, ROWS, COLUMNS, COUNT)
    print(codes.hex())
    print(" ".join(f"{v:08x}" for v in values.view(np.uint32).reshape(-1)))
    terms = used[:, None, :] * weights[None, :, :]
    results = zip(terms.sum(axis=2).reshape(-1), np.abs(terms).sum(axis=2).reshape(-1))
    print(" ".join(f"{value!r}:{size!r}" for value, size in [(float(v), float(s)) for v, s in results]))


def write_fp8_cases(random):
    for kind, count in [("", 1), ("rows:", ROWS), ("blocks:", COLUMNS // 128)]:
        codes = random.integers(0, 256, (ROWS, COLUMNS), dtype=np.uint8)
        codes[codes & 127 == 127] = 0
        values = (random.normal(size=(COUNT, COLUMNS)) * 2).astype(np.float32)
        scales = random.uniform(0.001, 0.1, count).astype(np.float32)
        spread = scales.astype(np.float64)
        spread = np.repeat(spread, 128)[None, :] if kind == "blocks:" else spread[:, None]
        weights = np.array([f8_e4m3(row) for row in codes]) * spread
        text = kind + ",".join(str(s) for s in scales)
        write_case("F8_E4M3", text, codes.tobytes(), values.astype(np.float64), values, weights)


def main():
    random = np.random.default_rng(20261124)
    for name, (elements, size, unpack, places) in FORMATS.items():
        scale = 0.375 if name == "NVFP4" else 1.0
        blocks = [
            [random_block(random, name, size, places) for _ in range(COLUMNS // elements)] for _ in range(ROWS)
        ]
        weights = np.array([np.concatenate([unpack(b) for b in row]) for row in blocks])
        values = (random.normal(size=(COUNT, COLUMNS)) * 2).astype(np.float32)
        values[0, 100] *= 50
        used = values.astype(np.float64) if name in ("F32", "F16", "BF16") else np.array([quantized(v) for v in values])
        codes = b"".join(b.tobytes() for row in blocks for b in row)
        write_case(name, scale, codes, used, values, weights * scale)
    write_fp8_cases(random)


if __name__ == "__main__":
    sys.exit(main())
