#!/usr/bin/env python3
"""Tries `hawser pull` on a Hub that misbehaves: test_pull.py HAWSER MODEL_FOLDER

A server on loopback plays a Hub with the files of MODEL_FOLDER, a second one where big files lie. Part by part they
drop connections, ignore ranges, send other lengths or contents than promised, answer 429 and 503, and redirect.
"""
import csv
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "secret-of-the-hub"
BIG = "model.safetensors"
HAWSER = FILES = None


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.server.hub.serve(self, body=False)

    def do_GET(self):
        self.server.hub.serve(self, body=True)

    def answer(self, status, data=b"", headers=(), body=True, length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if body:
            try:
                self.wfile.write(data)
            except OSError:
                pass


class Hub:
    """Both servers, what they do wrong, and what they were asked."""

    def __init__(self):
        self.files = dict(FILES)
        self.seen = []  # (role, method, path, range, has_token)
        self.fail = []  # statuses with headers that the next requests get
        self.drop_after = None  # bytes of a big file, then the connection closes
        self.ignores_ranges = False
        self.shifts_ranges = False
        self.serve_big = None  # contents other than promised; called for each request
        self.stall = False
        self.extra_names = []
        self.lock = threading.Lock()
        self.servers = {}
        for role, host in (("hub", "127.0.0.1"), ("store", "localhost")):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            server.hub = self
            server.role = role
            server.address = f"http://{host}:{server.server_address[1]}"
            self.servers[role] = server
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self):
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def serve(self, request, body):
        role = request.server.role
        token = request.headers.get("Authorization")
        with self.lock:
            self.seen.append((role, request.command, request.path, request.headers.get("Range"), token is not None))
            failure = self.fail.pop(0) if self.fail else None
        if failure:
            return request.answer(failure[0], b"no", failure[1], body)
        if role == "store":
            return self.store(request, body)
        if token != f"Bearer {TOKEN}":
            return request.answer(401, b"who are you", body=body)
        if request.path == "/api/models/org/name/revision/main":
            names = [{"rfilename": name} for name in [*self.files, "pytorch_model.bin", *self.extra_names]]
            return request.answer(200, json.dumps({"sha": COMMIT, "siblings": names}).encode(), body=body)
        prefix = f"/org/name/resolve/{COMMIT}/"
        name = request.path.removeprefix(prefix)
        if not request.path.startswith(prefix) or name not in self.files:
            return request.answer(404, b"nothing here", body=body)
        data = self.files[name]
        if name != BIG:
            return request.answer(200, data, [("ETag", f'"{git_hash(data)}"'), ("X-Repo-Commit", COMMIT)], body)
        headers = [("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"'), ("X-Linked-Size", str(len(data))),
                   ("Location", self.servers["store"].address + "/blob")]
        return request.answer(302, b"over there", headers, body)

    def store(self, request, body):
        data = self.serve_big() if self.serve_big else self.files[BIG]
        begin, status, headers = 0, 200, []
        asked = request.headers.get("Range")
        if asked and not self.ignores_ranges:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data):
                return request.answer(416, b"", body=body)
            shown = begin - 1 if self.shifts_ranges else begin
            status, headers = 206, [("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")]
        rest = data[begin:]
        if self.stall:
            request.answer(status, rest[:1 << 20], headers, body, length=len(rest))
            request.wfile.flush()
            time.sleep(30)
        elif self.drop_after is not None and len(rest) > self.drop_after:
            request.answer(status, rest[:self.drop_after], headers, body, length=len(rest))
            request.close_connection = True
        else:
            request.answer(status, rest, headers, body)


class PullTest(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.home = pathlib.Path(tempfile.mkdtemp())
        self.env = {**os.environ, "HF_ENDPOINT": self.hub.servers["hub"].address, "HF_HOME": str(self.home),
                    "HF_TOKEN": TOKEN, "no_proxy": "*"}
        for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
            self.env.pop(name, None)

    def tearDown(self):
        self.hub.close()
        shutil.rmtree(self.home)

    def run_hawser(self, *arguments):
        return subprocess.run([HAWSER, *arguments], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=60)

    def pull(self, code=0, *arguments):
        done = self.run_hawser("pull", "org/name", "--json", *arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if code == 0 else done.stderr

    def root(self):
        return self.home / "hub" / "models--org--name"

    def expect_whole(self):
        snapshot = self.root() / "snapshots" / COMMIT
        self.assertEqual((self.root() / "refs" / "main").read_text(), COMMIT)
        self.assertEqual(sorted(p.name for p in snapshot.iterdir()), sorted(FILES))
        for name, data in self.hub.files.items():
            self.assertEqual((snapshot / name).read_bytes(), data, name)
            hashed = hashlib.sha256(data).hexdigest() if name == BIG else git_hash(data)
            self.assertEqual(os.readlink(snapshot / name), f"../../blobs/{hashed}")
        self.assertEqual([p.name for p in (self.root() / "blobs").iterdir() if p.name.endswith("incomplete")], [])

    def big_requests(self):
        return [asked for role, method, _, asked, _ in self.hub.seen if role == "store" and method == "GET"]

    def test_layout_cache_and_use(self):
        first = self.pull()
        self.expect_whole()
        self.assertEqual(first["commit"], COMMIT)
        self.assertEqual(first["fetched_bytes"], sum(map(len, FILES.values())))
        # The token goes to the Hub alone.
        self.assertTrue(all(token == (role == "hub") for role, _, _, _, token in self.hub.seen))
        self.assertEqual(self.pull()["fetched_bytes"], 0)
        self.assertEqual(len(self.big_requests()), 1)
        seen = len(self.hub.seen)
        info = json.loads(self.run_hawser("info", "hf:org/name", "--json").stdout)
        self.assertEqual(info["format"], "Hugging Face folder")
        self.assertEqual(len(self.hub.seen), seen)

    def test_a_name_is_pulled_where_it_is_used(self):
        done = self.run_hawser("info", "hf:org/name", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.expect_whole()
        self.env["HF_HUB_OFFLINE"] = "1"
        self.assertEqual(self.run_hawser("info", "hf:org/name").returncode, 0)
        done = self.run_hawser("info", "hf:org/other")
        self.assertEqual(done.returncode, 3)
        self.assertIn("HF_HUB_OFFLINE", done.stderr)

    def test_goes_on_after_drops(self):
        self.hub.drop_after = len(FILES[BIG]) // 3 + 1
        self.pull()
        self.expect_whole()
        asked = self.big_requests()
        self.assertEqual(len(asked), 3)
        self.assertEqual(asked[1], f"bytes={self.hub.drop_after}-")

    def test_a_server_without_ranges(self):
        self.hub.drop_after = len(FILES[BIG]) // 2
        self.hub.ignores_ranges = True
        threading.Timer(0.4, setattr, (self.hub, "drop_after", None)).start()
        self.pull()
        self.expect_whole()

    def test_another_range_than_asked_for(self):
        self.hub.drop_after = len(FILES[BIG]) // 2
        self.hub.shifts_ranges = True
        threading.Timer(0.4, setattr, (self.hub, "drop_after", None)).start()
        self.pull()
        self.expect_whole()

    def test_goes_on_after_a_kill(self):
        self.hub.stall = True
        process = subprocess.Popen([HAWSER, "pull", "org/name"], env=self.env, stderr=subprocess.DEVNULL)
        part = self.root() / "blobs" / (hashlib.sha256(FILES[BIG]).hexdigest() + ".incomplete")
        while not part.exists() or part.stat().st_size < 1 << 20:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.hub.stall = False
        self.pull()
        self.expect_whole()
        self.assertEqual(self.big_requests()[-1], f"bytes={1 << 20}-")

    def test_wrong_contents(self):
        wrong = bytes(len(FILES[BIG]))
        self.hub.serve_big = lambda: wrong
        self.assertIn("hash", self.pull(3))
        self.assertFalse((self.root() / "snapshots" / COMMIT / BIG).exists())
        self.assertFalse((self.root() / "refs" / "main").exists())
        answers = [wrong, FILES[BIG]]
        self.hub.serve_big = lambda: answers.pop(0)
        self.pull()
        self.expect_whole()

    def test_wrong_lengths(self):
        for wrong in (FILES[BIG][:-7], FILES[BIG] + b"more"):
            self.hub.serve_big = lambda wrong=wrong: wrong
            self.assertIn("were promised", self.pull(3))
            self.assertEqual(list((self.root() / "blobs").glob("*.incomplete")), [])

    def test_a_small_file_of_other_contents(self):
        name = "config.json"
        data = self.hub.files[name]
        self.hub.files[name] = data

        class Lies(bytes):
            pass
        served = []
        original = Handler.answer

        def answer(handler, status, sent=b"", headers=(), body=True, length=None):
            if body and sent == data and len(served) < 2:
                served.append(1)
                sent = bytes(len(data))
            original(handler, status, sent, headers, body, length)
        Handler.answer = answer
        try:
            self.assertIn("hash", self.pull(3))
        finally:
            Handler.answer = original

    def test_busy_servers(self):
        self.hub.fail = [(429, [("Retry-After", "1")]), (503, []), (502, [])]
        begin = time.time()
        self.pull()
        self.assertGreater(time.time() - begin, 1.0)
        self.expect_whole()
        self.hub.fail = [(429, [("Retry-After", "86400")])]
        self.assertIn("86400 seconds", self.pull(3))

    def test_no_such_model_and_no_access(self):
        done = self.run_hawser("pull", "org/none")
        self.assertEqual(done.returncode, 3)
        self.assertIn("has no model org/none", done.stderr)
        self.env["HF_TOKEN"] = "wrong"
        self.assertIn("no access", self.pull(3))
        del self.env["HF_TOKEN"]
        self.assertIn("HF_TOKEN", self.pull(3))
        (self.home / "token").write_text(TOKEN + "\n")
        self.pull()

    def test_patterns(self):
        self.assertEqual([f["name"] for f in self.pull(0, "--file", "tok*.json")["files"]],
                         sorted(name for name in FILES if name.startswith("tok")))
        self.assertIn("no file of org/name matches", self.pull(2, "--file", "*.gguf"))
        # A snapshot of parts is no model yet.
        self.assertEqual(self.run_hawser("info", "hf:org/name").returncode, 0)
        self.expect_whole()

    def test_gguf_files(self):
        self.hub.files = {"a-q8.gguf": b"GGUF no model", "b-q4.gguf": b"GGUF no model either"}
        self.assertIn("a-q8.gguf, b-q4.gguf", self.pull(2))
        self.assertTrue(self.pull(0, "--file", "*q4*")["path"].endswith("/b-q4.gguf"))
        done = self.run_hawser("info", "hf:org/name/a-q8.gguf")
        self.assertIn("a-q8.gguf", done.stderr)
        self.assertTrue((self.root() / "snapshots" / COMMIT / "a-q8.gguf").exists())

    def test_names_that_leave_the_folder(self):
        for name in ("../x", "/etc/x", "a/../../x", "a\\b", "a//b", "a\u0001b"):
            self.hub.extra_names = [name]
            self.assertIn("no path inside", self.pull(3))
        for name in ("org", "org/..", "or g/name", "../name", "org/name@a b"):
            self.assertEqual(self.run_hawser("pull", name).returncode, 2)

    def test_no_server(self):
        self.env["HF_ENDPOINT"] = "ftp://127.0.0.1"
        self.assertIn("http", self.pull(2))


class DataPullTest(unittest.TestCase):
    """hawser pull data:NAME. With HAWSER_DATA set, a set that is served whole and comes out right too."""

    def setUp(self):
        self.answers = {}  # by the end of a path: (status, bytes)
        test = self

        class Files(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                status, data = next((a for end, a in test.answers.items() if self.path.endswith(end)), (404, b"no"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.home = pathlib.Path(tempfile.mkdtemp())
        self.env = {**os.environ, "HAWSER_DATA_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}",
                    "HAWSER_CACHE": str(self.home), "no_proxy": "*"}

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.home)

    def pull(self, name, code):
        done = subprocess.run([HAWSER, "pull", name, "--json"], env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if code == 0 else done.stderr

    def test_what_is_not_the_file(self):
        self.assertIn("did you mean 'piqa'", self.pull("data:piq", 2))
        self.assertIn("docs/EVAL.md", self.pull("data:hellaswag_text", 4))
        self.assertIn("404", self.pull("data:piqa", 3))
        self.answers["valid.jsonl"] = (200, b"x" * 495929)
        self.assertIn("93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d", self.pull("data:piqa", 3))
        self.answers["valid.jsonl"] = (200, b"short")
        self.assertIn("5 bytes", self.pull("data:piqa", 3))
        self.assertEqual([path for path in self.home.rglob("*") if path.is_file()], [])

    def test_a_set(self):
        folder = pathlib.Path(os.environ.get("HAWSER_DATA", "/nowhere")) / "piqa"
        if not folder.is_dir():
            self.skipTest("HAWSER_DATA with piqa is absent")
        for path in folder.iterdir():
            self.answers["/" + path.name] = (200, path.read_bytes())
        self.assertEqual(self.pull("data:piqa", 0)["fetched_bytes"], 495929 + 3676)
        self.answers.clear()
        self.assertEqual(self.pull("data:piqa", 0)["fetched_bytes"], 0)
        self.assertEqual((self.home / "data/piqa/valid.jsonl").read_bytes(), (folder / "valid.jsonl").read_bytes())

    def test_sets_that_are_made(self):
        data = pathlib.Path(os.environ.get("HAWSER_DATA", "/nowhere"))
        if not (data / "mmlu").is_dir() or not (data / "gsm8k").is_dir():
            self.skipTest("HAWSER_DATA with mmlu and gsm8k is absent")
        for part in ("dev", "test"):
            subjects = {}
            for line in (data / f"mmlu/{part}.jsonl").read_text().strip().split("\n"):
                row = json.loads(line)
                subjects.setdefault(row["subject"], []).append([row["question"], *row["choices"], row["answer"]])
            for subject, rows in subjects.items():
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([["question", "a", "b", "c", "d", "answer"], *rows])
                self.answers[f"/{part}/{subject}_{part}.csv"] = (200, text.getvalue().encode())
        whole = self.answers.pop("/test/virology_test.csv")
        self.assertIn("virology_test.csv: the server answers 404", self.pull("data:mmlu", 3))
        self.answers["/test/virology_test.csv"] = (200, whole[1].replace(b"virus", b"virtue"))
        self.assertIn("SHA-256", self.pull("data:mmlu", 3))
        self.answers["/test/virology_test.csv"] = (200, b"question,answer\nwhy?,1\n")
        self.assertIn("virology_test.csv: wanted a question, four choices", self.pull("data:mmlu", 3))
        self.assertFalse((self.home / "data/mmlu/test.jsonl").exists())
        self.answers["/test/virology_test.csv"] = whole
        self.pull("data:mmlu", 0)
        self.assertEqual((self.home / "data/mmlu/test.jsonl").read_bytes(), (data / "mmlu/test.jsonl").read_bytes())

        shots = json.loads((data / "gsm8k/cot_exemplars_8shot.json").read_text())
        lines = ["task: gsm8k_cot", "fewshot_config:", "  samples:"]
        for shot in shots:
            for begin, key in (("  - question: ", "question"), ("    target: ", "target")):
                lines += textwrap.wrap(shot[key], 78, initial_indent=begin, subsequent_indent="      ")
        self.answers["/gsm8k-cot.yaml"] = (200, "\n".join([*lines, "tag:", "- math", ""]).encode())
        self.pull("data:gsm8k_cot", 0)

    def test_questions_and_rows_that_are_made(self):
        data = pathlib.Path(os.environ.get("HAWSER_DATA", "/nowhere"))
        if not all((data / part).is_dir() for part in ("arc", "qa", "wikitext")):
            self.skipTest("HAWSER_DATA with arc, qa and wikitext is absent")

        def lines(rows):
            return 200, "\n".join(map(json.dumps, rows)).encode()

        def arc(row):
            choices = [{"text": text, "label": label, "para": "more"} for text, label in zip(row["choices"], row["labels"])]
            return {"id": row["id"], "question": {"stem": row["question"], "choices": choices}, "answerKey": row["answerKey"]}

        for name in ("easy_train", "easy_test", "challenge_train", "challenge_test"):
            rows = [json.loads(line) for line in (data / f"arc/arc_{name}.jsonl").read_text().splitlines()]
            kind, part = name.split("_")
            kept = rows if name != "challenge_test" else rows[::-1][1:]
            self.answers[f"/arc_{kind}/official/{part}.jsonl"] = lines(map(arc, kept))
        self.answers["/question-answers.jsonl"] = lines({"id": row["id"], "answerKey": row["answerKey"]} for row in rows)
        self.answers["/arc_challenge.jsonl"] = lines(
            {"query": "Question: " + row["question"], "choices": row["choices"]} for row in rows)
        self.pull("data:arc", 0)

        text = (data / "wikitext/wiki.test.raw").read_text()
        rows = [row for row in text.split("\n") if row.strip()]
        self.answers["/wiki.test.raw"] = (200, "\r\n".join(rows).encode())
        self.answers["/wikitext-2/test.txt"] = (
            200, "".join(("x" if row.strip() else row) + "\n" for row in text.split("\n")[:-1]).encode())
        self.pull("data:wikitext", 0)

        questions = json.loads((data / "qa/hotpotqa_dev_distractor_first100.json").read_text())
        for question in questions:
            for key, names in (("supporting_facts", ("title", "sent_id")), ("context", ("title", "sentences"))):
                question[key] = dict(zip(names, map(list, zip(*question[key]))))
        self.answers["/hotpot_dev_distractor_v1.json"] = (200, json.dumps(questions, indent=2).encode())
        self.pull("data:qa", 0)


if __name__ == "__main__":
    HAWSER, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    FILES = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".toml"}
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
