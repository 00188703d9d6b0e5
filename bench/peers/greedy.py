#!/usr/bin/env python3
"""Greedy answers of Nearfield and llama.cpp side by side: 20 prompts a model, 64 tokens each.

Two engines that round differently may part where two tokens are nearly as likely. Asked is that they part only there:
llama.cpp's token must be Nearfield's second best at that place, less than 0.3 (in logits) behind, and at least 15 of
the 20 answers must agree for their first 16 tokens. Prints every parting; the exit status says whether all held.

    python3 bench/peers/greedy.py
"""

import sys

from common import Server, arguments, free_port, pulled

TOKENS = 64
NEAR = 0.3
# Instruction models are asked as their own template asks; the base model continues what is begun.
CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
QUESTIONS = [
    "What is the capital of Italy?",
    "How many days are in a week?",
    "Name the four seasons.",
    "What colour is the sky on a clear day?",
    "Who wrote the play Romeo and Juliet?",
    "What is 12 plus 30?",
    "Translate the word 'water' into Spanish.",
    "What is the largest ocean on Earth?",
    "At what temperature in degrees Celsius does water boil?",
    "What gas do plants take in from the air?",
    "Write a Python function that adds two numbers.",
    "Write a Python function that reverses a string.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Write a Python class for a stack with push and pop.",
    "Write a SQL query that counts the rows of the table orders.",
    "Write a C program that prints Hello, World!",
    "Write a JavaScript function that returns the larger of two numbers.",
    "Write a Rust function that squares an integer.",
    "Write an HTML page with a heading and a paragraph.",
    "Write a bash script that lists all files in the current directory.",
]
BEGINNINGS = [
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "Monday, Tuesday, Wednesday,",
    "January, February, March, April,",
    "A, B, C, D, E, F, G, H,",
    "2, 4, 6, 8, 10, 12, 14, 16,",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps",
    "import numpy as np\nimport pandas as pd\nimport matplotlib.pyplot as",
    "Paris is the capital of France. Rome is the capital of Italy. Madrid is the capital of",
    "def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return a - b\n\ndef multiply(a, b):\n",
    "<ul>\n<li>one</li>\n<li>two</li>\n<li>three</li>\n",
    "To be, or not to be, that is the",
    "Our Father, who art in heaven, hallowed be thy",
    "We the People of the United States, in Order to form a more perfect",
    "Four score and seven years ago our fathers brought forth on this",
    "hello hello hello hello hello hello",
    "10 9 8 7 6 5 4",
    "for i in range(10):\n    print(i)\n\nfor i in range(20):\n    print(",
    "{\"a\": 1, \"b\": 2, \"c\": 3, \"d\":",
    "The Lord of the Rings is a novel by J. R. R.",
    "#include <stdio.h>\n\nint main(void) {\n    printf(\"Hello, World!\\n\");\n    return",
]


def prompts(model):
    return BEGINNINGS if model.startswith("gemma3") else [CHAT.format(question) for question in QUESTIONS]


ENDS = {"", "<|im_end|>", "<|endoftext|>", "<eos>", "<end_of_turn>"}


def peer_answer(server, prompt):
    """Its tokens, the one that ends it as "", and the most likely tokens at each place."""
    body = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False, "n_probs": 5}
    entries = server.post("/completion", body)["completion_probabilities"]
    best = [[(top["token"], top["logprob"]) for top in entry["top_logprobs"]] for entry in entries]
    return [entry["token"] for entry in entries], best


def own_answer(server, model, prompt):
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 5}
    choice = server.post("/v1/completions", body)["choices"][0]
    found = choice["logprobs"]
    best = [sorted(top.items(), key=lambda item: -item[1]) for top in found["top_logprobs"]]
    return found["tokens"] + ([""] if choice["finish_reason"] == "stop" else []), best


def subject(prompt):
    return prompt.split("user\n")[-1].split("<|im_end|>")[0][-34:]


def same(one, other):
    return one == other or (one in ENDS and other in ENDS)


def compare(own, best, peer, peer_best):
    """The first difference: None, or (place, our token, its token, rank, gap). Where we ended there is no list of ours,
    so there it is our end that must stand high in its list."""
    for place, (ours, theirs) in enumerate(zip(own, peer)):
        if not same(ours, theirs):
            listed, wanted = (best[place], theirs) if place < len(best) else (peer_best[place], ours)
            rank = next((at for at, (name, _) in enumerate(listed, 1) if same(name, wanted)), None)
            return place, ours, theirs, rank, listed[0][1] - listed[rank - 1][1] if rank else None
    return None


def check(options, model):
    path = pulled(options.nearfield, model)
    own_port, peer_port = free_port(), free_port()
    own = [options.nearfield, "serve", "--port", str(own_port), "--threads", str(options.threads)]
    peer = [options.peer / "llama-server", "-m", path, "--port", str(peer_port), "-t", str(options.threads), "-c", "2048"]
    alike, held = 0, True
    environment = {"NEARFIELD_API_KEY": "nf-bench-only-on-loopback-0123456789"}
    with Server(own, own_port, environment["NEARFIELD_API_KEY"], environment) as own_server, Server(peer, peer_port) as peer_server:
        for prompt in prompts(model):
            tokens, best = own_answer(own_server, model, prompt)
            parting = compare(tokens, best, *peer_answer(peer_server, prompt))
            alike += parting is None or parting[0] >= 16
            if parting is None:
                continue
            place, ours, its, rank, gap = parting
            near = rank == 2 and gap < NEAR
            held &= near
            said = f"rank {rank}, {gap:.3f} behind" if rank else "not among our best 5"
            print(f"{model}  {subject(prompt)!r:36} token {place:2}: {ours!r} / {its!r}: {said}{'' if near else '  TOO FAR'}")
    enough = alike >= 15
    print(f"{model}  {alike} of {len(prompts(model))} agree for 16 tokens or more{'' if enough else '  TOO FEW'}\n")
    return held and enough


def main():
    options = arguments(__doc__).parse_args()
    results = [check(options, model) for model in options.models]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
