#!/usr/bin/env python3
"""`hawser serve` under clients of every kind, best a build with sanitizers: load_serve.py HAWSER [MODEL] [--minutes 10]

First some dozens of requests are served one at a time: completions and talks, streams, log-probabilities, echo, lists,
schemas, grammars, caches of several policies, sessions of two turns. Each has a seed, so that its answer is the same
to the last bit whoever else is served. Then connections come at once, and each asks again and again:
- most send these requests and compare every answer that they get whole with the one from before;
- some of their answers they leave in the middle;
- slow ones take what they are sent some bytes a second;
- vanishing ones send a request, or a part of one, and are gone without a word;
- bad ones send what is no request or no JSON, and want an answer of 4xx.
What is refused with 429 or 503 is asked again. No client waits but for so long: a slow machine is no fault. The server
lets go of connections that rest for --idle seconds, and of no others. A client that is told so because this script
itself stood still, or took its last answer as slowly, comes again; that is counted, and how long the script stood.

In each minute memory is told, with the keys and values that the server counts; those must stay within --kv-memory and
--prefix-cache. At the end all clients leave at once, and the server is stopped: it must leave with 0, with nothing in
its log of sanitizers or faults of its own. Ends with 1 where anything was wrong.
"""
import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

WORDS = ("the captain of a ship and his old green rope went to sea one morning when wind was high; she said: "
         "\u00e9t\u00e9, \U0001F6A2. Never!").split()
TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
          "required": ["name", "age"]}
KV_MEMORY, PREFIX_CACHE, IDLE = 64 << 20, 16 << 20, 60


class Rested(Exception):
    """The server let go of a connection on which nothing was asked for IDLE seconds."""


class Wire:
    """One connection, spoken to in bytes."""
    stood = 0  # seconds that this script needed at most to come back to its connections

    def __init__(self, port, pace=None):
        self.port, self.pace = port, pace  # bytes a tenth of a second; none: as they come
        self.socket, self.got, self.rests, self.asked = None, b"", 0, 0

    async def open(self):
        self.got, self.rests = b"", time.monotonic()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.pace:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.port))

    async def send(self, data):
        self.asked = time.monotonic()
        rested = self.asked - self.rests + Wire.stood
        try:
            await asyncio.get_running_loop().sock_sendall(self.socket, data)
            if rested > IDLE:
                await self.more()
        except ConnectionError as error:
            raise Rested() if rested > IDLE else error

    async def more(self):
        if self.pace:
            await asyncio.sleep(0.1)
        piece = await asyncio.get_running_loop().sock_recv(self.socket, self.pace or 65536)
        if not piece:
            raise ConnectionError("closed")
        self.got += piece

    async def until(self, mark):
        while mark not in self.got:
            await self.more()
        found, self.got = self.got.split(mark, 1)
        return found

    async def exactly(self, n):
        while len(self.got) < n:
            await self.more()
        found, self.got = self.got[:n], self.got[n:]
        return found

    async def answer(self, stop_after=None):
        """(status, headers, body); `stop_after`: None where the body came to so many pieces."""
        lines = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        status = int(lines[0].split()[1])
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        if status == 100:
            return await self.answer(stop_after)
        if headers.get("transfer-encoding") != "chunked":
            body = await self.exactly(int(headers.get("content-length", 0)))
            self.rest()
            return status, headers, body
        body, pieces = b"", 0
        while (size := int(await self.until(b"\r\n"), 16)) > 0:
            body += await self.exactly(size)
            await self.exactly(2)
            pieces += 1
            if stop_after is not None and pieces >= stop_after:
                return status, headers, None
        await self.exactly(2)
        self.rest()
        return status, headers, body

    def rest(self):
        """What the system holds of an answer is taken for the server, however slowly it is read."""
        self.rests = self.asked if self.pace else time.monotonic()

    def close(self, reset=False):
        if self.socket is not None:
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            self.socket = None


def http_bytes(path, body, method="POST"):
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return (f"{method} {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data


def requests(count):
    """(path, body) each; or a list of them: the turns of a session."""
    made = []
    for i in range(count):
        r = random.Random(i)
        text = lambda: " ".join(r.choice(WORDS) for _ in range(r.choice([3, 9, 40, 200])))
        body = {"seed": i, "max_tokens": r.choice([1, 5, 20, 60]), "temperature": r.choice([0, 0.7, 1.3])}
        r.random() < 0.5 and body.update(ignore_eos=True)
        r.random() < 0.3 and body.update(stop=["the", "\n\n"])
        r.random() < 0.3 and body.update(repetition_penalty=1.2, frequency_penalty=0.5, presence_penalty=-0.3)
        r.random() < 0.2 and body.update(top_p=0.9, min_p=0.02, top_k=50)
        r.random() < 0.2 and body.update(logit_bias={"40": 5, "50": -100})
        r.random() < 0.4 and body.update(hawser={"kv": r.choice(["sink:4,28", "sep-stream:2,8,16,64", "window:40"])})
        r.random() < 0.2 and body.update(priority=r.choice([-3, 5]))
        r.random() < 0.5 and body.update(stream=True, stream_options={"include_usage": True})
        chat = r.random() < 0.4
        if chat:
            body["messages"] = [{"role": "user", "content": text()}]
            r.random() < 0.4 and body.update(logprobs=True, top_logprobs=r.choice([0, 3]))
        else:
            body["prompt"] = r.choice([text(), [text(), text()], [r.randrange(300) for _ in range(30)]])
            r.random() < 0.4 and body.update(logprobs=r.choice([0, 3]), echo=r.random() < 0.5)
            r.random() < 0.2 and body.update(n=3)
        form = r.random()
        if form < 0.1:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        elif form < 0.2:
            body["grammar"] = 'root ::= ("yes" | "no" [a-z]{1,9}) "\\n" root?'
        path = "/v1/chat/completions" if chat else "/v1/completions"
        if r.random() < 0.1:
            for key in ("hawser", "n", "echo"):
                body.pop(key, None)
            if not chat:
                body["prompt"] = text()
            made.append([(path, body), (path, {**body, "seed": i + 1000})])
        else:
            made.append((path, body))
    return made


def told(body, data):
    """What an answer says, the same whether it came whole or as a stream."""
    if not body.get("stream"):
        answer = json.loads(data)
        choices = {c["index"]: {"text": c["text"] if "text" in c else c["message"]["content"],
                                "logprobs": c["logprobs"], "finish": c["finish_reason"]} for c in answer["choices"]}
        usage = answer["usage"]
    else:
        events = data.decode().split("\n\n")
        if events[-2:] != ["data: [DONE]", ""]:
            raise ValueError(f"a stream that ends with {events[-2:]}")
        choices, usage = {}, None
        for event in events[:-2]:
            event = json.loads(event.removeprefix("data: "))
            if "error" in event:
                raise ValueError(f"an error within a stream: {event}")
            usage = event.get("usage") or usage
            for c in event["choices"]:
                choice = choices.setdefault(c["index"], {"text": "", "logprobs": None, "finish": None})
                choice["text"] += c.get("text") or c.get("delta", {}).get("content") or ""
                choice["finish"] = c["finish_reason"] or choice["finish"]
                if c["logprobs"] is not None:
                    kept = choice["logprobs"] = choice["logprobs"] or {}
                    for key, value in c["logprobs"].items():
                        kept[key] = (kept.get(key) or []) + value if isinstance(value, list) else value
    return choices, usage["prompt_tokens"], usage["completion_tokens"]


BAD = [
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
    b"POST /v1/completions HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
    http_bytes("/v1/nothing", {}),
    http_bytes("/tokenize", {"content": 7}),
    http_bytes("/v1/completions", None, "DELETE"),
] + [http_bytes("/v1/completions", body) for body in (
    b"{", b"[" * 100000, b"\xff\xfe", b'{"prompt": "\\ud800"', b'{"prompt": "a", "max_tokens": 1e300}',
    {"prompt": [-1]}, {"prompt": "a " * 100000}, {"prompt": "a", "n": 10**9}, {"prompt": "a", "logit_bias": {"x": 1}},
    {"prompt": "a", "grammar": "root ::= root"}, {"prompt": "a", "hawser": {"kv": "?"}},
    {"prompt": "a", "hawser": {"session": "none"}},
    {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
)] + [http_bytes("/v1/chat/completions", {"messages": [{"role": "user"}]})]


class Load:
    def __init__(self, a, port):
        self.a, self.port = a, port
        self.cases = requests(a.requests)
        self.wanted = {}
        self.done, self.kinds = collections.Counter(), collections.Counter()
        self.wrong = []
        self.ends, self.stood = None, 0

    def fault(self, text):
        self.wrong.append(text)
        self.kinds[text[:16]] += 1
        if self.kinds[text[:16]] <= 10:  # of each kind the first ones
            print("WRONG:", text[:600], flush=True)

    async def patient(self, wire, path, body, stop_after=None, method="POST"):
        """An answer other than that the server is full; None where it was left in the middle."""
        while True:
            try:
                await wire.send(http_bytes(path, body, method))
            except Rested:
                self.done["connections that rested too long"] += 1
                wire.close()
                await wire.open()
                continue
            status, headers, data = await wire.answer(stop_after)
            if data is None:
                return None
            if status not in (429, 503):
                return status, data
            self.done[f"told to come again ({status})"] += 1
            if "retry-after" not in headers:
                self.fault(f"{status} without Retry-After")
            if self.ends is not None and time.monotonic() > self.ends:
                return None
            await asyncio.sleep(random.uniform(0.5, 2))
            if headers.get("connection") == "close":
                wire.close()
                await wire.open()

    async def case(self, wire, case, stop_after=None):
        """What the answers to a case say, or None."""
        turns, session = case if isinstance(case, list) else [case], None
        if isinstance(case, list):
            got = await self.patient(wire, "/v1/sessions", {"kv": "sep-stream:2,8,16,64"})
            if got is None:
                return None
            session = json.loads(got[1])["id"]
        answers = []
        for path, body in turns:
            body = {**body, "hawser": {"session": session}} if session else body
            got = await self.patient(wire, path, body, stop_after)
            if got is None:
                return None
            if got[0] != 200:
                self.fault(f"{got[0]} for {json.dumps(body)}: {got[1][:300]}")
                return None
            answers.append(told(body, got[1]))
        if session:
            await self.patient(wire, "/v1/sessions/" + session, None, method="DELETE")
        return answers

    async def alone(self):
        wire = Wire(self.port)
        await wire.open()
        for i, case in enumerate(self.cases):
            self.wanted[i] = await self.case(wire, case)
        wire.close()

    async def good(self, pace=None, leaves=0.15):
        wire = Wire(self.port, pace)
        await wire.open()
        while time.monotonic() < self.ends:
            i = random.randrange(len(self.cases))
            leave = random.random() < leaves
            got = await self.case(wire, self.cases[i], random.randrange(1, 5) if leave else None)
            if got is None:  # left, or the end of the test
                self.done["left"] += 1
                wire.close(reset=random.random() < 0.5)
                await wire.open()
                continue
            self.done["slow" if pace else "whole"] += 1
            if got != self.wanted[i]:
                self.fault(f"case {i} {self.cases[i]}: wanted {self.wanted[i]}, got {got}")
            await asyncio.sleep(random.uniform(0, 2))
        wire.close()

    async def vanishing(self):
        while time.monotonic() < self.ends:
            wire = Wire(self.port)
            await wire.open()
            case = random.choice(self.cases)
            path, body = case[0] if isinstance(case, list) else case
            data = http_bytes(path, {**body, "max_tokens": 500, "ignore_eos": True})
            await wire.send(data[:random.randrange(1, len(data))] if random.random() < 0.3 else data)
            await asyncio.sleep(random.choice([0, 0.01, 0.3, 2, 6]))
            wire.close(reset=random.random() < 0.5)
            self.done["vanished"] += 1
            await asyncio.sleep(random.uniform(0, 2))

    async def bad(self):
        while time.monotonic() < self.ends:
            wire = Wire(self.port)
            await wire.open()
            data = random.choice(BAD)
            try:
                await wire.send(data)
                status, _, body = await wire.answer()
                if not 400 <= status < 500 or not json.loads(body)["error"]["message"]:
                    self.fault(f"{status} {body[:200]} for {data[:200]}")
                self.done["refused"] += 1
            except ConnectionError as error:
                self.fault(f"no answer to {data[:200]}: {error}")
            wire.close()
            await asyncio.sleep(random.uniform(0, 2))

    async def keep(self, name, what):
        """A client that comes again when its connection fails, which is told."""
        while time.monotonic() < self.ends:
            try:
                await what()
            except Rested:
                self.done["connections that rested too long"] += 1
            except (ConnectionError, OSError) as error:
                self.fault(f"a connection was lost ({name}): {type(error).__name__} {error}")
                await asyncio.sleep(1)
            except Exception as error:  # an answer that cannot be read
                self.fault(f"{name}: {type(error).__name__} {error}")

    async def pulse(self):
        while time.monotonic() < self.ends:
            begin = time.monotonic()
            await asyncio.sleep(0.1)
            self.stood = max(self.stood, time.monotonic() - begin - 0.1)
            Wire.stood = max(self.stood, Wire.stood)

    async def watch(self, process):
        wire, minute = Wire(self.port), 0
        await wire.open()
        while time.monotonic() < self.ends:
            await wire.send(http_bytes("/metrics", None, "GET"))
            _, _, text = await wire.answer()
            rows = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
            kv = sum(int(v) for k, v in rows.items() if k.startswith("hawser_kv_cache_bytes"))
            prefix = int(rows["hawser_prefix_cache_bytes"])
            if kv > KV_MEMORY or prefix > PREFIX_CACHE:
                self.fault(f"{kv} bytes of keys and values, {prefix} of prefixes")
            now = (self.a.minutes * 60 - (self.ends - time.monotonic())) // 60
            if now >= minute:
                print(f"| {now:.0f} | {resident(process):.0f} | {kv / 2**20:.1f} | {prefix / 2**20:.1f} | "
                      f"{rows['hawser_connections']} | {rows['hawser_requests_running']} | "
                      f"{rows['hawser_requests_waiting']} | {self.done['whole'] + self.done['slow']} | "
                      f"{self.stood:.1f} |", flush=True)
                minute, self.stood = now + 1, 0
            await asyncio.sleep(1)
        wire.close()

    async def run(self, process):
        begin = time.monotonic()
        await self.alone()
        print(f"{len(self.cases)} requests alone in {time.monotonic() - begin:.0f} s\n\n"
              "| minute | resident MiB | keys and values MiB | prefixes MiB | connections | under way | waiting | "
              "answers compared | the script stood s |\n"
              "|---|---|---|---|---|---|---|---|---|", flush=True)
        self.ends = time.monotonic() + 60 * self.a.minutes
        clients = [("watch", lambda: self.watch(process)), ("pulse", self.pulse)]
        share = self.a.connections // 10
        clients += [("slow", lambda: self.good(pace=200, leaves=0))] * (2 * share)
        clients += [("vanishing", self.vanishing)] * (2 * share) + [("bad", self.bad)] * share
        clients += [("good", self.good)] * (self.a.connections - 5 * share)
        tasks = [asyncio.create_task(self.keep(name, what)) for name, what in clients]
        _, late = await asyncio.wait(tasks, timeout=60 * self.a.minutes + 10)
        for task in late:  # a crowd of clients that all leave at once
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def resident(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser")
    parser.add_argument("model", nargs="?", default="builtin", help="with a chat template; default: the builtin one")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=60, help="that are compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=str.split, default=[], help="more options of the server")
    a = parser.parse_args()
    random.seed(a.seed)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if a.model == "builtin":
            a.model = folder / "model"
            shutil.copytree(pathlib.Path(__file__).resolve().parent.parent / "models" / "hawser-4m", a.model)
            (a.model / "chat_template.jinja").write_text(TEMPLATE)
        port_file, log = folder / "port", open(folder / "log", "w")
        process = subprocess.Popen(
            [a.hawser, "serve", a.model, "--port", "0", "--port-file", port_file, "--parallel", "16", "--queue", "400",
             "--kv-memory", str(KV_MEMORY), "--prefix-cache", str(PREFIX_CACHE), "--connections", str(4 * a.connections),
             "--idle", str(IDLE), "--sessions", folder / "sessions", "--max-sessions", "100000", "--session-memory",
             str(PREFIX_CACHE), "--max-body", "1000000", *a.options], stderr=log,
            env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=16:" + os.environ.get("ASAN_OPTIONS", "")})
        while not port_file.exists():
            if process.poll() is not None:
                sys.exit("the server did not start: " + (folder / "log").read_text())
            time.sleep(0.1)
        load = Load(a, int(port_file.read_text()))
        try:
            asyncio.run(load.run(process))
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=600)
        text = (folder / "log").read_text()
    for mark in ("Sanitizer", "runtime error", "fault-", "has failed", "between texts"):
        if mark in text:
            load.fault(f"the log has: {text[text.index(mark):][:3000]}")
    if code != 0:
        load.fault(f"the server left with {code}: {text[-2000:]}")
    print("\n" + "\n".join(f"{n:8} {what}" for what, n in sorted(load.done.items())))
    print(f"{len(load.wrong)} wrong")
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
