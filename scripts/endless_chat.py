#!/usr/bin/env python3
"""One talk without an end through `hawser serve`: endless_chat.py HAWSER MODEL [--tokens 1000000]

A session under a bounded cache gets turn after turn until it has seen so many tokens. Most of them are read, as
messages of --words words, or of so many words of --text, a file; --new of a turn are written. Rows of the table tell
the memory of the server, what of it is private, and its processor time for 1,000 tokens, in the mean and of single
turns. Then:
- the session as it was after the first row (a copy from then) and as it is now get the same turns, one after the
  other, so that both are timed under the same load;
- a copy of the session goes on, the server is killed (SIGKILL) and started again, and the session goes on with the same
  turn: both must write the same tokens.
Ends with 1 where resident memory grew by more than 1 % from the second row to the last, or tokens differ. Of the
private part pages of the binary and the model count that no other process maps now.
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
        """MiB that are resident, and what of them is private."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024

    def seconds(self):
        """Of all cores, so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100


def turn(server, session, number, words, new, book=None):
    r = random.Random(number)
    begin = number * words % max(1, len(book) - words) if book else 0
    text = " ".join(book[begin:begin + words] if book else (r.choice(WORDS) for _ in range(words)))
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
    parser.add_argument("--text", type=pathlib.Path, help="a file whose words are the messages, turn after turn")
    parser.add_argument("--rows", type=int, default=10, help="of the table")
    parser.add_argument("--new", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--pairs", type=int, default=20, help="of turns by which young and old are timed")
    parser.add_argument("--pair-words", type=int, default=1000, help="of their messages")
    parser.add_argument("--options", type=str.split, default=[], help="more options of the server")
    a = parser.parse_args()
    book = a.text.read_text().split() if a.text else None
    with tempfile.TemporaryDirectory() as folder:
        server = Server(a, folder)
        session, young = server.copy_of(), None
        print("| tokens seen | turns | wall s | s of all cores | for 1,000 tokens | keys and values, bytes | "
              "resident MiB | private MiB |\n|---|---|---|---|---|---|---|---|", flush=True)
        seen = turns = 0
        memory = []
        for row in range(1, a.rows + 1):
            begin, work, first, before, rates = time.monotonic(), server.seconds(), turns, seen, []
            while seen < a.tokens * row // a.rows:
                of_turn = server.seconds()
                usage = turn(server, session, turns, a.words, a.new, book)["usage"]
                turns += 1
                seen += usage["total_tokens"]
                rates.append(1000 * (server.seconds() - of_turn) / usage["total_tokens"])
            if row == 1:
                young = server.copy_of(session)  # its keys and values are part of the memory from here on
            memory.append(server.memory())
            work = server.seconds() - work
            print(f"| {seen} | {turns - first} | {time.monotonic() - begin:.1f} | {work:.1f} | "
                  f"{1000 * work / (seen - before):.3f} ({min(rates):.3f} to {max(rates):.3f}) | "
                  f"{usage['hawser']['kv_bytes']} | {memory[-1][0]:.1f} | {memory[-1][1]:.1f} |", flush=True)
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
            print(f"a turn at the end over the same turn after the first row: {statistics.median(ratios):.3f} "
                  f"({ratios[0]:.3f} to {ratios[-1]:.3f}); {statistics.median(times[young]):.2f} s")

        copy = server.copy_of(session)
        before = turn(server, copy, 77, 20, 200)["choices"][0]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server = Server(a, folder)
        after = turn(server, session, 77, 20, 200)["choices"][0]
        server.process.terminate()
        server.process.wait()
        grown = [last / early - 1 for early, last in zip(memory[min(1, a.rows - 1)], memory[-1])]
        same = before == after
        print(f"after a kill and a restart: {'the same' if same else 'OTHER'} tokens and log-probabilities\n"
              f"from the second row to the last: resident {100 * grown[0]:+.2f} %, private {100 * grown[1]:+.2f} %")
        return 0 if same and grown[0] <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
