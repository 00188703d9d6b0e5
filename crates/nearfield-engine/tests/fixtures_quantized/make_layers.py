#!/usr/bin/env python3
"""Writes layers.safetensors beside each compressed fixture: what every layer makes of the exact hidden states before it in
the arithmetic `default` with keys and values in f16, by a reference implementation in numpy whose products are replaced.

    python3 make_layers.py FOLDER_OF_REF_NUMPY

A four-bit matrix meets activations that are rounded to int8 in groups of 32 (docs/numerics.md), keys and values are rounded
to f16; all else is the reference's own. Each layer is fed with the exact states, since a rounding that falls on the other
side in one layer would show in all that follow.

    input.I     [tokens, hidden]  the exact state before layer I; the last one is the state after all layers
    default.I   [tokens, hidden]  what layer I makes of it in the arithmetic `default`
"""

import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])
import ref_numpy as reference  # noqa: E402

HERE = Path(__file__).resolve().parent
TOKENS = 16


def rounded(x):
    """Activations as int8 codes times their group's scale."""
    columns = x.shape[-1]
    groups = np.pad(np.atleast_2d(x), ((0, 0), (0, -columns % 32))).reshape(-1, (columns + 31) // 32, 32).astype(np.float32)
    largest = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(groups * inverse)
    return (codes * (largest / np.float32(127))).reshape(len(groups), -1)[:, :columns].reshape(x.shape)


class FourBit:
    """A matrix, or a stack of them, that rounds what it is multiplied with."""

    __array_ufunc__ = None

    def __init__(self, matrix, turned=False):
        self.matrix, self.turned = matrix, turned

    @property
    def T(self):
        return FourBit(self.matrix, True)

    def __getitem__(self, index):
        return FourBit(self.matrix[index])

    def __matmul__(self, x):
        return self.matrix @ rounded(x)

    def __rmatmul__(self, x):
        assert self.turned
        return rounded(x) @ self.matrix.T


class Weights(reference.Weights):
    """Weights of which those in four bits round what they meet."""

    def __call__(self, name):
        matrix = super().__call__(name)
        stored = name if name.startswith("lm_head") else self.prefix + name
        stem = re.sub(r"experts\.(gate_up|down)_proj$", lambda m: f"experts.0.{m[1].split('_')[0]}_proj", stored)
        packed = self.t.get(stem + ".weight_packed", self.t.get(stem + ".weight"))
        four = packed is not None and packed.dtype == np.uint8 and packed.shape[-1] * 2 == matrix.shape[-1]
        return FourBit(matrix) if four else matrix


class Exact(list):
    """Collects the states as they come."""

    def feed(self, x):
        self.append(x)
        return x


class Forced(Exact):
    """Collects the states as they come, and puts exact ones in their place."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def feed(self, x):
        self.append(x)
        return self.exact[len(self) - 1]


def half(x):
    return x.astype(np.float16).astype(np.float32)


def fed(family, states, rounds):
    """The family's function with its states passed through `states`."""
    source = inspect.getsource(family)
    source = re.sub(r"^(\s*)hid\.append\(x\)", r"\1x = STATES.feed(x)", source, flags=re.M)
    source, count = re.subn(r'^    x = (rms|norm)\(x, (w\()?"norm"', r"    x = STATES.feed(x)\n\g<0>", source, flags=re.M)
    assert count == 1, family
    scope = {**vars(reference), "STATES": states}
    attention = reference.attention
    if rounds:
        scope["attention"] = lambda q, k, v, *rest: attention(q, half(k), half(v), *rest)
        # The blocks of a layer look their own names up.
        for name in ("gated_attention", "delta_net", "qwen_moe", "qwen_ffn"):
            exec(inspect.getsource(getattr(reference, name)), scope)
    exec(source, scope)
    return scope[family.__name__]


def write(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        values = np.ascontiguousarray(values, "<f4")
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def run(folder):
    config = json.loads((folder / "config.json").read_text())
    kind, text = config["model_type"], config.get("text_config", config)
    prefix, family = reference.PREFIX.get(kind, "model."), reference.FAMILY[kind]
    tokens = reference.read_safetensors(folder / "reference.safetensors")["a.input_ids"][:TOKENS]
    exact = Exact()
    fed(family, exact, False)(text, reference.Weights(folder, prefix), tokens, kind)
    default = Forced(exact)
    fed(family, default, True)(text, Weights(folder, prefix), tokens, kind)
    tensors = {f"input.{i}": state for i, state in enumerate(exact)}
    tensors |= {f"default.{i}": state for i, state in enumerate(default[1:])}
    write(folder / "layers.safetensors", tensors)
    far = [float(np.abs(a - b).mean()) for a, b in zip(default[1:], exact[1:])]
    print(folder.relative_to(HERE), "mean distance from exact by layer:", " ".join(f"{one:.1e}" for one in far))


for config in sorted(HERE.glob("*/*/config.json")):
    run(config.parent)
