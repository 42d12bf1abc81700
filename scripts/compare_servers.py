#!/usr/bin/env python3
"""`hawser serve` beside llama.cpp's server, turn by turn, on one GGUF; then what hawser's own server costs:
compare_servers.py HAWSER MODEL.gguf [--peer PEER] [--only crowd prefix latency]

crowd: clients at once send prompts of their own, as text, and take answers of a given length, so that both servers read
and write the same numbers of tokens. PEER is a `llama-server` built for this machine (the source of the package
`llama-cpp-python` has it in `vendor/llama.cpp`), or a Python with the package `xllamacpp`, which holds the same server
for any machine: without AVX-512 and AMX. The instructions that it uses are told.
prefix: the time until an answer begins, behind a long prefix that nobody has read yet and that the server knows.
latency: the time that one client waits for an answer, and what `hawser generate` takes for the same.
Every measurement is a row; a table ends with medians.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ("captain", "harbour", "rope", "wind", "sailor", "morning", "letter", "island", "storm", "lantern", "deck",
         "anchor", "silent", "green", "seven", "market", "bridge", "winter", "iron", "story")


def text_of(seed, words):
    r = random.Random(seed)
    return " ".join(r.choice(WORDS) for _ in range(words))


class Server:
    """A process that answers on `port`; what it says goes to `log`."""

    def __init__(self, command, port, log):
        self.port = port
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 300
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"this server did not start, see {log}: {' '.join(command)}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health")[0] == 200:
                    return
            time.sleep(0.1)

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def complete(self, **body):
        status, answer = self.ask("POST", "/v1/completions", {"temperature": 0, **body})
        if status != 200:
            sys.exit(f"a server answered {status}: {answer}")
        return answer

    def first_token(self, prompt):
        """Seconds until the answer begins."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True, "ignore_eos": True}
        begin = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            sys.exit(f"a server answered {response.status}: {response.read()}")
        while not response.readline().startswith(b"data: "):
            pass
        seconds = time.monotonic() - begin
        response.read()
        connection.close()
        return seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def hawser(a, *more):
    port = free_port()
    return Server([a.hawser, "serve", a.model, "--port", str(port), "--threads", str(a.threads), *a.hawser_options,
                   *more], port, pathlib.Path(a.folder, "hawser.log"))


# The server in xllamacpp, with what its command line would say.
XLLAMACPP = """
import sys, threading, xllamacpp
model, port, threads, parallel, context = sys.argv[1:6]
p = xllamacpp.CommonParams()
p.model.path, p.port, p.n_parallel, p.n_ctx = model, int(port), int(parallel), int(context)
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(threads)
print(xllamacpp.get_system_info(), flush=True)
server = xllamacpp.Server(p)
threading.Event().wait()
"""


def peer(a):
    port, context = free_port(), a.clients * (a.words + a.words // 8 + a.tokens)
    if pathlib.Path(a.peer).name.startswith("python"):
        command = [a.peer, "-c", XLLAMACPP, a.model, str(port), str(a.threads), str(a.clients), str(context)]
    else:
        command = [a.peer, "-m", a.model, "--port", str(port), "-t", str(a.threads), "-tb", str(a.threads),
                   "--parallel", str(a.clients), "-c", str(context), *a.peer_options]
    return Server(command, port, pathlib.Path(a.folder, "peer.log"))


def spread(values, digits):
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def ask_all(server, a, turn):
    """Tokens of prompts and answers, seconds until the last answer, median seconds of a client."""
    server.complete(prompt="The", max_tokens=2)

    def one(i):
        begin = time.monotonic()
        usage = server.complete(prompt=text_of(1000 * turn + i, a.words), max_tokens=a.tokens, ignore_eos=True)["usage"]
        return time.monotonic() - begin, usage

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(a.clients) as pool:
        told = list(pool.map(one, range(a.clients)))
    seconds = time.monotonic() - begin
    read, written = (sum(usage[what] for _, usage in told) for what in ("prompt_tokens", "completion_tokens"))
    return read, written, seconds, statistics.median(s for s, _ in told)


def crowd(a):
    print(f"{a.clients} clients, {a.threads} threads\n\n"
          "| turn | server | read | written | seconds | tokens/s | median s of a client |\n"
          "|---|---|---|---|---|---|---|")
    servers = {"hawser": lambda: hawser(a, "--parallel", str(a.clients))}
    if a.peer:
        servers["llama.cpp"] = lambda: peer(a)
    rates = {name: [] for name in servers}
    for turn in range(a.turns):
        for name, start in servers.items():
            with start() as server:
                read, written, seconds, median = ask_all(server, a, turn)
            rate = (read + written) / seconds
            rates[name].append(rate)
            print(f"| {turn + 1} | {name} | {read} | {written} | {seconds:.2f} | {rate:.0f} | {median:.2f} |",
                  flush=True)
    if a.peer:
        log = pathlib.Path(a.folder, "peer.log").read_text()
        print("\n" + next((line.strip() for line in log.splitlines() if "SSE3 = " in line), "instructions unknown"))
        print(f"tokens/s over llama.cpp: {spread([x / y for x, y in zip(*rates.values())], 2)}")


def prefix(a):
    print("\n| turn | tokens of the prefix | cold s | known s | cold over known |\n|---|---|---|---|---|")
    shared = text_of(7, a.prefix_words)
    ratios = []
    for turn in range(a.turns):
        with hawser(a, *a.prefix_options) as server:
            tokens = len(server.ask("POST", "/tokenize", {"prompt": shared})[1]["tokens"])
            server.complete(prompt="The", max_tokens=2)
            cold = server.first_token(shared + " first")
            known = [server.first_token(f"{shared} number {i}") for i in range(5)]
        ratios.append(cold / statistics.median(known))
        print(f"| {turn + 1} | {tokens} | {cold:.2f} | {spread(known, 3)} | {ratios[-1]:.0f} |", flush=True)
    print(f"\ncold over known: {spread(ratios, 0)}")


def latency(a):
    print("\n| turn | `generate` s | one client s | ratio |\n|---|---|---|---|")
    text = text_of(3, a.words)
    file = pathlib.Path(a.folder, "prompt.txt")
    file.write_text(text)
    command = [a.hawser, "generate", a.model, "--prompt-file", file, "-n", str(a.tokens), "--temperature", "0",
               "--ignore-eos", "--threads", str(a.threads), "--json", *a.hawser_options]
    ratios = []
    with hawser(a, "--prefix-cache", "0") as server:
        server.complete(prompt=text, max_tokens=2)
        for turn in range(a.latency_turns):
            alone = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["seconds"]
            begin = time.monotonic()
            server.complete(prompt=text, max_tokens=a.tokens, ignore_eos=True)
            served = time.monotonic() - begin
            ratios.append(served / alone)
            print(f"| {turn + 1} | {alone:.3f} | {served:.3f} | {ratios[-1]:.3f} |", flush=True)
    print(f"\none client over `generate`: {spread(ratios, 3)}")


def main():
    parts = {"crowd": crowd, "prefix": prefix, "latency": latency}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--peer", help="llama.cpp's server, as above")
    parser.add_argument("--peer-options", type=str.split, default=[], help="more of its options")
    parser.add_argument("--hawser-options", type=str.split, default=[], help="more options of hawser")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of either server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--words", type=int, default=1024, help="of a prompt; most are a token")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--turns", type=int, default=3, help="of the crowd and the prefix")
    parser.add_argument("--latency-turns", type=int, default=7)
    parser.add_argument("--prefix-words", type=int, default=32768)
    parser.add_argument("--prefix-options", type=str.split, default=["--rope", "yarn:factor=8", "--context", "65536"],
                        help="of the server with the long prefix")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as a.folder:
        for part in a.only:
            parts[part](a)


if __name__ == "__main__":
    main()
