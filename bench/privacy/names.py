#!/usr/bin/env python3
"""Names and places that a local model finds before a request leaves: what of labelled texts reaches a cloud, and what not.

The real gateway with a rule `find_names = true`; its "cloud" is a server of this script on loopback, which keeps what it
was sent. Presidio looks at the same texts.
"""

import argparse
import collections
import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import BINARY, ROOT, Serve, data_folder  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from beside import presidio, wilson  # noqa: E402

# Labels by the kind that finds them, ours and Presidio's.
KINDS = {"PERSON": "PERSON", "GPE": "LOCATION", "STREET_ADDRESS": "LOCATION"}
# What a finding may also mean without being wrong.
NEAR = {"ORGANIZATION", "TITLE", "NRP", "ZIP_CODE"}
PLACEHOLDER = re.compile(r"\[(PERSON|LOCATION|[A-Z_]+)_\d+\]")


class Cloud(http.server.BaseHTTPRequestHandler):
    sent = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.sent.append(body["messages"][-1]["content"])
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = json.dumps(
            {"id": "x", "object": "chat.completion", "created": 1, "model": "far", "choices": [message], "usage": usage}
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


def masked(text, sent):
    """The spans of a text that are placeholders in what was sent."""
    parts, kinds, at = [], [], 0
    for found in PLACEHOLDER.finditer(sent):
        parts.append(re.escape(sent[at : found.start()]))
        kinds.append(found[1])
        at = found.end()
    pattern = "(.+?)".join([*parts, re.escape(sent[at:])])
    whole = re.fullmatch(pattern, text, re.S)
    if whole is None:
        raise SystemExit(f"what was sent is not the text with placeholders:\n{text}\n{sent}")
    return [(kind, *whole.span(at + 1)) for at, kind in enumerate(kinds)]


def score(cases, found):
    """By kind of label: covered to nine tenths by a finding of any kind, or not; and findings that lie on no label."""
    counts = collections.defaultdict(lambda: [0, 0])
    findings, false = 0, 0
    for case, spans in zip(cases, found):
        labels = [label for label in case["spans"] if label["entity_type"] in KINDS.keys() | NEAR]
        for label in labels:
            start, end = label["start_position"], label["end_position"]
            if label["entity_type"] in KINDS:
                inside = {at for _, a, b in spans for at in range(max(a, start), min(b, end))}
                counts[label["entity_type"]][0 if len(inside) * 10 >= (end - start) * 9 else 1] += 1
        for kind, a, b in spans:
            if kind in KINDS.values():
                findings += 1
                false += not any(a < label["end_position"] and label["start_position"] < b for label in labels)
    return counts, findings, false


def report(name, counts, findings, false):
    result = {"findings": findings, "on_no_label": false}
    for label, (hits, misses) in sorted(counts.items()):
        low, high = wilson(hits, hits + misses)
        result[label] = {"hits": hits, "misses": misses, "recall": [hits / (hits + misses), low, high]}
    print(json.dumps({name: result}), flush=True)


def ours(options, cases):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = (
        '[policy]\nfile = "policy.toml"\n[backend.far]\nkind = "openai-compatible"\nkey = "env:FAR_KEY"\n'
        f'base_url = "http://127.0.0.1:{server.server_address[1]}/v1"\n'
    )
    serve = Serve(
        options.binary, options.data, "--model", options.model, config=config, environment={"FAR_KEY": "x"}
    )
    (serve.data / "policy.toml").write_text(
        f'[key.env]\nclass = "internal"\n[detection.names]\nbackend = "local"\nmodel = "{options.model}"\nseconds = 600\n'
        '[[rule]]\nname = "masked"\nbackends = ["far"]\nfind_names = true\nmask = ["PERSON", "LOCATION"]\n'
        'when = { class = ["public", "internal", "personal", "health", "secret"] }\n[backend.far]\nbaa = true\n'
    )
    found, seconds = [], []
    with serve:
        for at, case in enumerate(cases):
            body = {"model": "far", "messages": [{"role": "user", "content": case["full_text"]}]}
            request = urllib.request.Request(
                f"{serve.base_url}/chat/completions",
                json.dumps(body).encode(),
                {"Authorization": f"Bearer {serve.key}", "Content-Type": "application/json"},
            )
            began, before = time.monotonic(), len(Cloud.sent)
            try:
                with urllib.request.urlopen(request, timeout=900) as reply:
                    reply.read()
            except urllib.error.HTTPError as refused:
                if json.load(refused)["error"]["code"] != "names_unknown":
                    raise
            seconds.append(time.monotonic() - began)
            # What could not be searched did not leave: nothing of it was shown to anybody.
            left = len(Cloud.sent) - before
            found.append(masked(case["full_text"], Cloud.sent[-1]) if left else None)
            if at % 25 == 24:
                print(f"{at + 1} of {len(cases)}", file=sys.stderr)
        print(*[line for line in serve.log.read_text().splitlines() if "looked for" in line], sep="\n", file=sys.stderr)
    seconds.sort()
    return found, seconds


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", type=Path, default=BINARY)
    arguments.add_argument("--data", type=Path, default=data_folder())
    arguments.add_argument("--model", default="qwen2.5-coder:1.5b")
    arguments.add_argument("--texts", type=int, default=300)
    options = arguments.parse_args()
    folder = Path(os.environ.get("NEARFIELD_TEST_DATA", ROOT / "../shared/data"))
    cases = json.loads((folder / "pii/synth_dataset_v2.json").read_text())
    cases = cases[:: max(1, len(cases) // options.texts)][: options.texts]
    report("presidio", *score(cases, list(presidio()(case["full_text"] for case in cases))))
    found, seconds = ours(options, cases)
    searched = [(case, spans) for case, spans in zip(cases, found) if spans is not None]
    report(options.model, *score(*zip(*searched)))
    print(json.dumps({"texts": len(cases), "stayed": len(cases) - len(searched), "seconds": {"median": seconds[len(seconds) // 2], "p95": seconds[int(len(seconds) * 0.95)]}}))


if __name__ == "__main__":
    main()
