#!/usr/bin/env python3
"""The official clients of the providers against our scripted cloud, and their requests beside Nearfield's."""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import environment  # noqa: E402

environment.enter("sdk", "openai", "anthropic", "google-genai", "boto3", "google-auth", "requests", "cryptography")

import drive  # noqa: E402
import guard  # noqa: E402
import same  # noqa: E402
from serving import BINARY, ROOT  # noqa: E402

FAKE = ROOT / "target/release/examples/cloud_fake"


class Results:
    def __init__(self):
        self.failed = self.done = 0

    def step(self, name, function, *arguments):
        """Runs one step and prints how it went."""
        started = time.monotonic()
        try:
            note = function(*arguments) or ""
            result = "ok"
        except Exception as error:
            self.failed += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = "".join(traceback.format_exception_only(error)).strip()
            result, note = "FAILED", f"{text[:2000]} ({Path(place.filename).name}:{place.lineno})"
        self.done += 1
        print(f"  {name:42} {result:7} {time.monotonic() - started:5.1f} s  {note}", flush=True)


def signatures_hold(cloud):
    """Every signed request that came holds; the same with anything changed does not."""
    signed = [r for r in cloud.seen() if r["headers"].get("authorization", "").startswith("AWS4")]
    assert not cloud.rejected, cloud.rejected
    ours = {r["target"] for r in signed if r["headers"]["user-agent"].startswith("nearfield/")}
    theirs = {r["target"] for r in signed if not r["headers"]["user-agent"].startswith("nearfield/")}
    for start in ("/model/us.amazon.nova-micro-v1%3A0/", "/model/arn", "/openai/v1/chat/", "/v1/responses"):
        for targets in (ours, theirs):
            assert any(target.startswith(start) for target in targets), f"none for {start}: {targets}"
    changes = 0

    def rejected(request, **change):
        nonlocal changes
        changes += 1
        return cloud.replay(request, **change) == 403

    for request in signed:
        assert cloud.replay(request) not in (401, 403), "the unchanged request is rejected"
        body, target = request["body"], request["target"]
        for place in (0, len(body) // 2, len(body) - 1):
            changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
            assert rejected(request, body=changed), f"byte {place} changed"
        assert rejected(request, target=target[:-1] + "x"), "another path"
        if "/model/" in target:
            assert rejected(request, target=target.replace("/model/", "/model/x", 1)), "another model"
        assert rejected(request, target=target + "?a=b"), "a query"
        date = request["headers"]["x-amz-date"]
        later = date[:-2] + ("1Z" if date[-2] == "0" else "0Z")
        assert rejected(request, **{"x-amz-date": later}), "another time"
    cloud.rejected.clear()
    return f"{len(signed)} requests, {changes} changed ones rejected"


def statements_hold(cloud):
    asked = [request for request in cloud.seen() if request["target"] == "/token"]
    assert len(asked) >= 2, "not both sides asked for a token"
    for request in asked:
        assert cloud.replay(request) == 200
        body = request["body"]
        at = body.index(b"assertion=") + 60
        other = b"A" if body[at : at + 1] != b"A" else b"B"
        assert cloud.replay(request, body=body[:at] + other + body[at + 1 :]) == 401, "a changed statement"
    cloud.rejected.clear()
    return f"{len(asked)} statements"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nearfield", type=Path, default=BINARY, help="the program [default: target/release/nearfield]")
    parser.add_argument("--fake", type=Path, default=FAKE, help="the scripted cloud [default: %(default)s]")
    parser.add_argument("--show", action="store_true", help="print both bodies of each call")
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory(prefix="nearfield-sdk-") as folder:
        account, write = guard.make_account(Path(folder), lambda: f"{cloud.url}/token")
        with guard.Cloud(arguments.fake, account) as cloud:
            file = write()
            for kind in drive.SDKS:
                print(f"\n{kind.name} against the scripted cloud")
                sdk = kind(cloud, file)
                for step in drive.STEPS:
                    if hasattr(sdk, step):
                        results.step(step.replace("_", " "), getattr(sdk, step))
            print("\nthe same call from a client and from Nearfield")
            with same.Nearfield(arguments.nearfield, cloud, file) as nearfield:
                for call in same.CALLS:
                    results.step(call.name, call.compare, cloud, nearfield, file, arguments.show)
            print("\nsignatures and statements")
            results.step("AWS, recomputed with botocore", signatures_hold, cloud)
            results.step("Google, checked with the public key", statements_hold, cloud)
    print(f"\n{results.done - results.failed} passed, {results.failed} failed")
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
