#!/usr/bin/env python3
"""One talk without an end through `hawser serve`: endless_chat.py HAWSER MODEL [--tokens 1000000]

A session under a bounded cache gets turn after turn until it has seen so many tokens. Most of them are read, as
messages of --words words; --new of a turn are written. Rows of the table tell the memory of the server and its time in
each tenth. Then:
- the session as it was after the first tenth (a copy from then) and as it is now get the same turns, one after the
  other, so that both are timed under the same load;
- a copy of the session goes on, the server is killed (SIGKILL) and started again, and the session goes on with the same
  turn: both must write the same tokens.
Ends with 1 where memory grew by more than 1 % from the first tenth to the last, or tokens differ.
"""
import argparse
import http.client
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ("captain", "harbour", "rope", "wind", "sailor", "morning", "letter", "island", "storm", "lantern", "deck,",
         "anchor.", "silent", "green", "seven", "market;", "bridge", "winter", "iron!", "story?")


class Server:
    def __init__(self, a, sessions):
        port_file = pathlib.Path(sessions, "port")
        port_file.unlink(missing_ok=True)
        self.log = open(pathlib.Path(sessions, "log"), "a")
        self.process = subprocess.Popen(
            [a.hawser, "serve", a.model, "--port", "0", "--port-file", str(port_file), "--kv", a.kv, "--sessions",
             str(sessions), "--prefix-cache", "0", *a.options], stderr=self.log)
        while not port_file.exists():
            if self.process.poll() is not None:
                sys.exit("the server did not start: " + pathlib.Path(self.log.name).read_text())
            time.sleep(0.05)
        self.port = int(port_file.read_text())

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status not in (200, 201):
            sys.exit(f"{path}: {response.status} {answer}")
        return answer

    def copy_of(self, session=None):
        return self.ask("/v1/sessions", {} if session is None else {"from": session})["id"]

    def memory(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    def seconds(self):
        """Of all cores, so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100


def turn(server, session, number, words, new):
    r = random.Random(number)
    text = " ".join(r.choice(WORDS) for _ in range(words))
    return server.ask("/v1/completions", {
        "prompt": "\n" + text + "\n", "max_tokens": new, "seed": number, "temperature": 0.8, "logprobs": 0,
        "ignore_eos": True, "hawser": {"session": session}})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--kv", default="sep-stream:4,64,256,800")
    parser.add_argument("--words", type=int, default=8000, help="of a message")
    parser.add_argument("--new", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--pairs", type=int, default=20, help="of turns by which young and old are timed")
    parser.add_argument("--pair-words", type=int, default=1000, help="of their messages")
    parser.add_argument("--options", type=str.split, default=[], help="more options of the server")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(a, folder)
        session, young = server.copy_of(), None
        print("| tokens seen | turns | wall s | s of all cores | keys and values, bytes | resident MiB |\n"
              "|---|---|---|---|---|---|", flush=True)
        seen = turns = 0
        memory = []
        for tenth in range(1, 11):
            begin, work, first = time.monotonic(), server.seconds(), turns
            while seen < a.tokens * tenth // 10:
                answer = turn(server, session, turns, a.words, a.new)
                turns += 1
                seen += answer["usage"]["total_tokens"]
            if tenth == 1:
                young = server.copy_of(session)  # its keys and values are part of the memory from here on
            memory.append(server.memory())
            print(f"| {seen} | {turns - first} | {time.monotonic() - begin:.1f} | {server.seconds() - work:.1f} | "
                  f"{answer['usage']['hawser']['kv_bytes']} | {memory[-1]:.1f} |", flush=True)
        told = server.ask("/v1/sessions/" + session)["tokens"]
        print(f"\nthe session says it has seen {told} tokens")
        times = {young: [], session: []}
        for pair in range(a.pairs):
            for name in (young, session) if pair % 2 == 0 else (session, young):
                begin = time.monotonic()
                turn(server, name, 10**6 + pair, a.pair_words, a.new)
                times[name].append(time.monotonic() - begin)
        ratios = sorted(old / new for new, old in zip(*times.values()))
        if ratios:
            print(f"a turn at the end over the same turn after a tenth: {statistics.median(ratios):.3f} "
                  f"({ratios[0]:.3f} to {ratios[-1]:.3f}); {statistics.median(times[young]):.2f} s")

        copy = server.copy_of(session)
        before = turn(server, copy, 77, 20, 200)["choices"][0]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server = Server(a, folder)
        after = turn(server, session, 77, 20, 200)["choices"][0]
        server.process.terminate()
        server.process.wait()
        grown = memory[-1] / memory[0] - 1
        same = before == after
        print(f"after a kill and a restart: {'the same' if same else 'OTHER'} tokens and log-probabilities\n"
              f"memory from the first tenth to the last: {100 * grown:+.2f} %")
        return 0 if same and grown <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
