#!/usr/bin/env python3
"""Writes prices.toml from a genai-prices data file (layout v2).

    python3 generate.py genai-prices.v2.data.json > prices.toml

Only facts are taken: names, prices, dates. A model or price of a shape that this script does not know stops it.
"""

import json
import re
import sys

# (provider in the data, provider as Nearfield names it, model)
CHOSEN = [
    ("openai", "openai", "gpt-5.6-sol"),
    ("openai", "openai", "gpt-5.6-terra"),
    ("openai", "openai", "gpt-5.6-luna"),
    ("openai", "openai", "gpt-5.4-mini"),
    ("openai", "openai", "gpt-5.4-nano"),
    ("anthropic", "anthropic", "claude-opus-5"),
    ("anthropic", "anthropic", "claude-sonnet-5"),
    ("anthropic", "anthropic", "claude-haiku-4-5"),
    ("google", "google", "gemini-3.1-pro-preview"),
    ("google", "google", "gemini-3.6-flash"),
    ("google", "google", "gemini-3.5-flash-lite"),
    ("aws", "bedrock", "amazon.nova-pro-v1:0"),
    ("aws", "bedrock", "amazon.nova-lite-v1:0"),
    ("aws", "bedrock", "amazon.nova-micro-v1:0"),
    ("aws", "bedrock", "meta.llama3-1-8b-instruct-v1:0"),
]
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
KINDS = [
    ("input_mtok", "input"),
    ("cache_read_mtok", "cached_input"),
    ("cache_write_mtok", "cache_write"),
    ("cache_write_1h_mtok", "cache_write_1h"),
    ("output_mtok", "output"),
]

HEADER = """\
# US dollars for a million tokens of text at the public standard tier. Written by generate.py from genai-prices
# (layout v2, commit 47df840a of 2026-08-21); do not edit. A price without `effective_from` holds since the model
# appeared; `above_prompt_tokens` prices hold for the whole request when its prompt is longer.

source = "genai-prices v2, commit 47df840a"
as_of = "2026-08-21"
"""


def aliases(model):
    """The exact names in a model's match clause, other than its own; dated names need none."""
    match = model["match"]
    clauses = match.get("or", [match])
    names = [clause["equals"] for clause in clauses if "equals" in clause]
    return [name for name in names if name != model["id"] and not DATED.search(name)]


def base(value):
    return value["base"] if isinstance(value, dict) else value


def table(prices, tier):
    lines = []
    for key, name in KINDS:
        if key not in prices:
            continue
        value = prices[key]
        if tier is None:
            lines.append(f"{name} = {base(value)}")
        else:
            (found,) = [step["price"] for step in value["tiers"] if step["start"] == tier]
            lines.append(f"{name} = {found}")
    return lines


def main():
    data = {provider["id"]: provider for provider in json.load(open(sys.argv[1], encoding="utf-8"))}
    print(HEADER, end="")
    for source, provider, name in CHOSEN:
        (model,) = [model for model in data[source]["models"] if model["id"] == name]
        print(f'\n[[model]]\nname = "{provider}/{name}"')
        extra = aliases(model)
        if extra:
            print(f"aliases = {json.dumps(extra)}")
        history = model["prices"] if isinstance(model["prices"], list) else [{"prices": model["prices"]}]
        for entry in history:
            constraint = entry.get("constraint", {})
            if set(constraint) - {"start_date"}:
                sys.exit(f"{name}: unknown constraint {constraint}")
            print("[[model.price]]")
            if "start_date" in constraint:
                print(f'effective_from = "{constraint["start_date"]}"')
            prices = entry["prices"]
            print("\n".join(table(prices, None)))
            tiers = {step["start"] for key, _ in KINDS if isinstance(prices.get(key), dict) for step in prices[key]["tiers"]}
            if len(tiers) > 1:
                sys.exit(f"{name}: more than one tier {tiers}")
            for tier in tiers:
                inner = ", ".join(table(prices, tier))
                print(f"long = {{ above_prompt_tokens = {tier}, {inner} }}")


main()
