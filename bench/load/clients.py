#!/usr/bin/env python3
"""Many streaming clients at once against `nearfield serve`: who runs, who is refused, what memory and ledger say."""

import argparse
import asyncio
import json
import sys
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import BINARY, Serve, data_folder, has_model  # noqa: E402

MODEL = "smollm2:135m"
# The tokens that end an answer: without them every answer has the full length.
END_TOKENS = {"0": -100, "2": -100}
THINGS = ["rivers", "engines", "letters", "gardens", "winters", "markets", "bridges", "stories", "harbours", "maps"]
PLACES = ["Norway", "a small town", "the desert", "an old library", "the far north", "a busy port", "the mountains"]


@dataclass
class Attempt:
    """One HTTP request."""

    sent: float
    status: int = 0
    answered: float = 0
    first: float = 0
    ended: float = 0
    wait: float | None = None


@dataclass
class Client:
    """One client: what it asks, how often it had to, what it got."""

    number: int
    attempts: list = field(default_factory=list)
    text: str = ""
    usage: dict = field(default_factory=dict)
    fault: str = ""

    def body(self, tokens):
        thing, place = THINGS[self.number % len(THINGS)], PLACES[self.number % len(PLACES)]
        prompt = (
            f"Chapter {self.number + 1}. In the year {1600 + self.number} a traveller wrote a long report about {thing} in "
            f"{place}. The first page tells how the journey began, who came along, and what they carried with them. The "
            f"second page describes the {thing} themselves, and why nobody in {place} had"
        )
        # Every other client draws its tokens, each with a seed of its own.
        drawn = {"temperature": 0.8, "seed": self.number} if self.number % 2 else {"temperature": 0}
        return {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logit_bias": END_TOKENS,
            **drawn,
        }


async def read_head(reader):
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


async def read_body(reader, headers):
    """The pieces of a body as they come."""
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.readexactly(int(headers.get("content-length", 0)))
        return
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()


async def attempt(server, client, tokens, now):
    """Sends the client's request once and reads its answer or refusal to the end."""
    address = urllib.parse.urlsplit(server.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    this = Attempt(sent=now())
    client.attempts.append(this)
    try:
        body = json.dumps(client.body(tokens)).encode()
        head = (
            f"POST {address.path}/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {server.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        this.status, headers = await read_head(reader)
        this.answered = now()
        rest, whole = b"", False
        async for piece in read_body(reader, headers):
            if this.status != 200:
                rest += piece
                continue
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line == b"data: [DONE]":
                    whole = True
                elif line.startswith(b"data: "):
                    take(client, this, json.loads(line[6:]), now)
        this.ended = now()
        if this.status == 200 and not whole:
            client.fault = client.fault or "its stream was cut"
        if this.status != 200:
            this.wait = float(headers["retry-after"]) if "retry-after" in headers else None
            if this.status not in (429, 503) or this.wait is None:
                client.fault = f"status {this.status}, Retry-After {this.wait}: {rest[:200]!r}"
    finally:
        writer.close()
    return this


def take(client, this, event, now):
    if "error" in event:
        client.fault = f"an error in the stream: {event['error']}"
        return
    for choice in event["choices"]:
        if choice["text"]:
            this.first = this.first or now()
            client.text += choice["text"]
    client.usage = event.get("usage") or client.usage


async def patient(server, client, tokens, now):
    """Asks until an answer comes, and waits as long as it is told to."""
    while not client.fault:
        this = await attempt(server, client, tokens, now)
        if this.status == 200:
            return
        await asyncio.sleep(this.wait or 0)


async def crowd(server, count, tokens, limit):
    """All clients at once."""
    clients = [Client(number) for number in range(count)]
    begun = time.monotonic()

    def now():
        return time.monotonic() - begun

    async def one(client):
        try:
            await asyncio.wait_for(patient(server, client, tokens, now), limit)
        except TimeoutError:
            client.fault = f"no answer after {limit} s"
        except (OSError, EOFError, ValueError, IndexError) as error:
            client.fault = f"{type(error).__name__}: {error}"

    await asyncio.gather(*[one(client) for client in clients])
    return clients, now()


def most_at_once(intervals):
    """The largest number of intervals that have a moment in common."""
    changes = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    most = running = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def needless_refusals(attempts, slots):
    """Refusals at a time when a slot must have been free.

    A stream holds a slot at most from its sending to its end as the client sees them. If fewer than all slots can have
    been held at any moment between a request's sending and its refusal, the refusal was needless.
    """
    held = [(this.sent, this.ended) for this in attempts if this.status == 200]
    needless = 0
    for this in attempts:
        if this.status in (429, 503):
            here = [
                (max(start, this.sent), min(end, this.answered))
                for start, end in held
                if start <= this.answered and end >= this.sent
            ]
            needless += most_at_once(here) < slots
    return needless


def handovers(answers, slots):
    """How long after each end of a stream the next waiting one showed its first token: (slowest, how long is right).

    With a queue a freed slot goes to the next in it, which then only has its prompt to be read. As long as the first
    ones needed, which all began at once on an idle server, is right; half as long again allows for a busy machine.
    """
    starts, ends = sorted(this.first for this in answers), sorted(this.ended for this in answers)
    slowest = max((start - end for start, end in zip(starts[slots:], ends)), default=0)
    return slowest, 1.5 * starts[min(slots, len(starts)) - 1] + 0.5


class Table:
    """Lines of results; remembers whether one failed."""

    def __init__(self):
        self.failed = 0

    def line(self, good, name, value, wanted=""):
        self.failed += not good
        print(f"  {'ok' if good else 'FAILED':7} {name:46} {value:>16}  {wanted}", flush=True)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0


def report_crowd(table, server, clients, seconds, slots, queue):
    attempts = [this for client in clients for this in client.attempts]
    answers = [this for this in attempts if this.status == 200]
    refusals = [this for this in attempts if this.status in (429, 503)]
    faults = [client for client in clients if client.fault]
    for client in faults[:5]:
        print(f"  client {client.number}: {client.fault}")
    prompt = [client.usage.get("prompt_tokens", 0) for client in clients]
    output = [client.usage.get("completion_tokens", 0) for client in clients]
    print(
        f"  {len(attempts)} requests in {seconds:.1f} s, {sum(output) / seconds:.0f} tokens/s; prompts of {min(prompt)} to "
        f"{max(prompt)} tokens, answers of {min(output)} to {max(output)}; first token after "
        f"{quantile([this.first - this.sent for this in answers], 0.5):.2f} s (median), "
        f"{quantile([this.first - this.sent for this in answers], 0.99):.2f} s (99%)"
    )
    finished = len(clients) - len(faults)
    table.line(not faults, "clients that got a whole answer", f"{finished}/{len(clients)}")
    # A stream runs from its first token to its end.
    running = most_at_once([(this.first, this.ended) for this in answers if this.first])
    table.line(running >= slots, "streams that ran at once", running, f"at least {slots}, as the plan says")
    if queue:
        table.line(not refusals, "refusals", len(refusals), "none, the queue has room")
        slowest, right = handovers(answers, slots)
        table.line(slowest < right, "slowest handover of a free slot", f"{slowest:.2f} s", f"under {right:.2f} s")
    else:
        table.line(bool(refusals), "refusals with Retry-After", len(refusals), "there are more clients than slots")
        slowest = max((this.answered - this.sent for this in refusals), default=0)
        table.line(slowest < 1, "slowest refusal", f"{slowest * 1000:.0f} ms", "under a second")
        needless = needless_refusals(attempts, slots)
        table.line(needless == 0, "refusals while a slot was free", needless, "none")
    report_rows(table, server, attempts)
    plan, _ = server.plan()
    peak, private = server.peak_memory()
    table.line(
        peak <= plan, "peak memory of the server", f"{peak >> 20} MiB", f"of {plan >> 20} planned; {private >> 20} private now"
    )


def report_rows(table, server, attempts):
    rows = server.settled_ledger()
    table.line(len(rows) == len(attempts), "rows in the ledger", len(rows), f"one for each of {len(attempts)} requests")
    outcomes = Counter(row["outcome"] for row in rows)
    statuses = Counter("done" if this.status == 200 else "error:overloaded" for this in attempts)
    shown = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    table.line(outcomes == statuses, "outcomes in the ledger", "", shown)
    table.line(len({row["id"] for row in rows}) == len(rows), "ids in the ledger", len({row["id"] for row in rows}))


async def alone(server, number, tokens):
    """One client without company."""
    client = Client(number)
    await asyncio.wait_for(patient(server, client, tokens, time.monotonic), 120)
    return client


def report_alone(table, server, crowds, count, tokens):
    different = []
    for number in range(count):
        quiet = asyncio.run(alone(server, number, tokens))
        if any(quiet.text != clients[number].text for clients in crowds):
            different.append(number)
    for number in different[:3]:
        print(f"  client {number} got another answer than alone")
    table.line(not different, "answers that differ from the run alone", len(different), f"of {count}, on a fresh server")
    texts = {clients[number].text for clients in crowds for number in range(count)}
    table.line(len(texts) > count * 0.9, "different answers", len(texts), "so that equality says something")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nearfield", type=Path, default=BINARY, help="the program [default: target/release/nearfield]")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder that holds the model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer; short ones end before all have begun")
    parser.add_argument("--alone", type=int, help="so many answers are compared with their run alone [default: all]")
    parser.add_argument("--limit", type=float, default=300, help="seconds until a client gives up")
    arguments = parser.parse_args()
    binary, data = arguments.nearfield.resolve(), arguments.data
    if not has_model(binary, data, MODEL):
        parser.error(f"{MODEL} is not in {data}; `nearfield --data-dir {data} pull {MODEL}` gets it")
    table, crowds = Table(), []
    for queue in (0, arguments.clients):
        with Serve(binary, data, "--model", MODEL, "--queue", str(queue)) as server:
            planned = server.plan()
            if not planned:
                raise SystemExit(f"the server printed no plan:\n{server.log.read_text()}")
            print(f"\n{arguments.clients} clients, a queue of {queue}")
            print("  " + next(line for line in server.log.read_text().splitlines() if "requests at once" in line))
            clients, seconds = asyncio.run(crowd(server, arguments.clients, arguments.tokens, arguments.limit))
            table.line(planned[1] >= 32, "requests at once by the plan", planned[1], "not below 32")
            report_crowd(table, server, clients, seconds, planned[1], queue)
            crowds.append(clients)
    print("\nalone")
    with Serve(binary, data, "--model", MODEL) as server:
        count = min(arguments.alone or arguments.clients, arguments.clients)
        report_alone(table, server, crowds, count, arguments.tokens)
    print(f"\n{table.failed} failed" if table.failed else "\nall passed")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
