#!/usr/bin/env python3
"""Golden token ids from llama.cpp for the tokenizer tests.

Usage:
    python3 bench/tokenizer_goldens.py --llama-tokenize PATH/TO/llama-tokenize \
        --models FOLDER --text wiki.test.raw --out crates/nearfield-model/tests/golden/tokenizer

FOLDER holds smollm2-135m.gguf, gemma3-270m.gguf, qwen2.5-coder-0.5b.gguf and qwen2.5-coder-1.5b.gguf.
Writes strings.json (the awkward strings), and one MODEL.json a model: the ids of every string with control tokens
recognised ("parsed") and not ("as_text"), and for the long text its token count and the SHA-256 of its ids as
little-endian 32-bit integers. Only the standard library is used; strings are the same on every run.

Starting llama-tokenize once a string would load the vocabulary a thousand times. Many strings are therefore joined by a
separator token that llama.cpp cuts out before it looks at ordinary text, and the ids are cut again at that token's id.
"""

import argparse
import hashlib
import json
import random
import re
import struct
import subprocess
import tempfile
from pathlib import Path

# For each model: a control token and its id, and a user-defined token (recognised in any text) and its id, or None.
MODELS = {
    "smollm2-135m": (("<|im_end|>", 2), None),
    "gemma3-270m": (("<end_of_turn>", 106), ("<end_of_image>", 256000)),
    "qwen2.5-coder-0.5b": (("<|im_end|>", 151645), ("</tool_call>", 151658)),
    "qwen2.5-coder-1.5b": (("<|im_end|>", 151645), ("</tool_call>", 151658)),
}
SEPARATORS = {token[0] for pair in MODELS.values() for token in pair if token}

HAND_WRITTEN = [
    "a", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t\t", " \n", "\n ", " \n \n ", "\u00a0", "\u3000x",
    "Hello world", " Hello", "Hello ", "  Hello  ", "hello  two   spaces", "a\n\n\nb", "a \n\n\n b", "end.\n", "end.\r\n\r\n",
    "I'll don't WE'RE they'Ve it'S I'M he'D we'Ll", "'s 't 're 've 'm 'll 'd", "''s", "'''", "O'Neill's o'clock", "'\u017f",
    "\u2019s \u2018quoted\u2019 \u201cdouble\u201d",
    "12345 3.14 1,000,000 0x1F 1e-9", "1234567890123456789", "a1b2c3", "v1.2.3-rc4", "\u0661\u0662\u0663 \u0967\u0968", "\u00bd \u00b2 \u2163 \u3007",
    "e\u0301 vs \u00e9", "a\u0308o\u0308u\u0308", "\u0301alone", " \u0301", "n\u0303\u0303\u0303", "\u1e9b\u0323", "Z\u0351\u036b\u0343\u036aa\u0302l\u0316g\u0323o\u0334",
    "\u65e5\u672c\u8a9e", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\uc548\ub155\ud558\uc138\uc694", "\u1100\u1161\u11a8", "\u05e2\u05d1\u05e8\u05d9\u05ea \u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5", "\u1780\u17d2\u1798\u17c2\u179a", "\u0f56\u0f7c\u0f51",
    "\U0001f642", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f642" * 20,
    "\U0001d49c\U0001d4b7\U0001d4b8", "\U00020000\U0002a6d6", "\U000e0041", "\ue000\uf8ff", "\ufb01 ligature", "\u200bzero\u200cwidth\u200djoin\u2060er", "\ufeffbom", "\u202eright to left",
    "\u0000", "a\u0000b", "\u0001\u0002\u0003", "\u001b[31mred\u001b[0m", "\u007f\u0080\u009f", "\u0085next line", "\u2028\u2029", "\ufffd", "\ufffe\uffff",
    "def f(x):\n    return x + 1\n", "\tif (a && b) {\n\t\treturn *p++;\n\t}\n", "for(int i=0;i<n;++i){a[i]^=b[i]>>3;}", "SELECT * FROM t WHERE a<>'b''c';",
    "<html><body><h1>Hi</h1></body></html>", "</s><s></s>", "<s>", "</div>\n<div class=\"x\">", "{\"a\": [1, 2.5, null, \"b\\n\"]}", "{{ x }} {% y %} {# z #}", "#!/bin/sh\nset -eu\n",
    "https://example.org/a?b=c&d=1#e", "user@example.com", "C:\\Windows\\System32", "snake_case_and-CamelCase", "!!!???...", "-----=====", "()[]{}<>", "$100 \u20ac5 \u00a37", "a+b=c", "^~|`\\",
    "<|im_start|>", "<|im_start|>user\nhi", "<|endoftext|>", "<|endoftext|><|endoftext|>", " <|endoftext|> ", "<|im_start|", "<|im_start|>>", "<<|im_start|>", "<|IM_START|>", "<| im_start |>",
    "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>user\nhi", "<start_of_turn", "start_of_turn>", "<unused0>", "<unused99>", "<unused6241>", "[multimodal]", "<start_of_image>",
    "<tool_call>\n{\"name\": \"f\"}\n", "<tool_call", "tool_call>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|repo_name|>x<|file_sep|>y", "<repo_name>r<reponame>s<file_sep>", "<filename>a.py<gh_stars>5",
    "<jupyter_start><jupyter_text>t<jupyter_code>c<jupyter_output>o<empty_output>", "<issue_start><issue_comment>c<issue_closed>", "<|vision_start|><|image_pad|><|vision_end|>", "[PAD151665]", "<0x0A>", "<0x41><0x00>", "\u2581", "\u2581a\u2581\u2581b", "\u0120", "\u010a\u0120a",
    "<|eot_id|><|start_header_id|>", "<|begin_of_text|>", "[INST] [/INST]", "<|user|><|assistant|>", "<turn|><|turn>", "<think>\nx\n</think>",
]
WORDS = (
    "the of and to in is was for on that with as by it at from language model token memory kernel int return void "
    "self import class fn let mut pub async \u00fcber na\u00efve fa\u00e7ade \u010d\u0161\u017e \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u4e2d\u6587 \u65e5\u672c \ud55c\uad6d "
    "antidisestablishmentarianism XMLHttpRequest snake_case kebab-case 3.14159 2026-11-22 10:30 50% C++ e.g. U.S.A."
).split()
GLUE = [" ", " ", " ", "  ", "\n", "\n\n", "\t", ", ", ". ", "; ", "-", "_", "/", "'", "\"", "...", "    ", "\r\n", "\u00a0", ""]
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0x0FFF),
    (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x214F), (0x2190, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xFB00, 0xFDFF), (0xFE00, 0xFEFF), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0x1D400, 0x1D7FF), (0x20000, 0x2A6DF), (0, 0x1F),
]


def awkward_strings(count=500):
    """The same `count` strings on every run: hand-written ones, runs of one character, and seeded mixtures."""
    chance = random.Random(20261122)
    strings = list(dict.fromkeys(HAND_WRITTEN))
    for character in [" ", "\n", "\t", "a", "=", "-", "0", "!", "\u00e9", "\u4e2d", "\U0001f642", "\u0301", "\u00a0"]:
        for length in (2, 3, 7, 16, 31, 32, 65, 200):
            if character * length not in strings:
                strings.append(character * length)
    specials = [text for text in HAND_WRITTEN if text.startswith(("<", "["))]
    seen = set(strings)
    while len(strings) < count:
        kind = chance.randrange(4)
        if kind == 0:
            text = "".join(chance.choice(WORDS) + chance.choice(GLUE) for _ in range(chance.randint(2, 24)))
        elif kind == 1:
            text = "".join(chr(chance.randint(*chance.choice(RANGES))) for _ in range(chance.randint(1, 40)))
        elif kind == 2:
            low, high = chance.choice(RANGES)
            text = "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 30)))
        else:
            parts = [chance.choice(specials), chance.choice(WORDS), chance.choice(GLUE), chance.choice(GLUE) * 3, str(chance.randint(0, 10**9))]
            chance.shuffle(parts)
            text = "".join(parts)
        if text not in seen and not any(separator in text for separator in SEPARATORS):
            seen.add(text)
            strings.append(text)
    return strings[:count]


def tokenize(binary, model, text, parse):
    """llama.cpp's ids of `text` (bytes), without BOS."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text)
        file.flush()
        command = [binary, "-m", str(model), "-f", file.name, "--ids", "--no-bos", "--no-escape", "--log-disable"]
        if not parse:
            command.append("--no-parse-special")
        output = subprocess.run(command, check=True, capture_output=True).stdout
    found = re.search(rb"\[([\d, ]*)\]\s*$", output)
    if not found:
        raise SystemExit(f"no ids in the output of {' '.join(command)}: {output[-200:]!r}")
    return [int(number) for number in found.group(1).split(b",") if number.strip()]


def tokenize_all(binary, model, strings, parse, separator):
    """Ids of every string; through one run when there is a separator token, else one run a string."""
    if separator is None:
        return [tokenize(binary, model, text.encode(), parse) for text in strings]
    text, cut = separator
    lists, current = [], []
    for token in tokenize(binary, model, text.join(strings).encode(), parse):
        if token == cut:
            lists.append(current)
            current = []
        else:
            current.append(token)
    lists.append(current)
    if len(lists) != len(strings):
        raise SystemExit(f"{model}: {len(lists)} lists for {len(strings)} strings")
    return lists


def write_json(path, fields):
    """One field a line, so that a change shows as a small difference."""
    lines = [f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in fields.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-tokenize", required=True)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    strings = awkward_strings()
    (arguments.out / "strings.json").write_text("[\n" + ",\n".join(json.dumps(text) for text in strings) + "\n]\n")
    for name, (control, user_defined) in MODELS.items():
        model = arguments.models / f"{name}.gguf"
        whole = tokenize(arguments.llama_tokenize, model, arguments.text.read_bytes(), False)
        write_json(arguments.out / f"{name}.json", {
            "text_tokens": len(whole),
            "text_sha256": hashlib.sha256(struct.pack(f"<{len(whole)}I", *whole)).hexdigest(),
            "parsed": tokenize_all(arguments.llama_tokenize, model, strings, True, control),
            "as_text": tokenize_all(arguments.llama_tokenize, model, strings, False, user_defined),
        })
        print(name, "written")


if __name__ == "__main__":
    main()
