#!/usr/bin/env python3
"""Tries `hawser serve` over real sockets: test_serve.py HAWSER MODEL

Shapes of OpenAI's API, streams, log-probabilities, prefixes, and clients that misbehave. MODEL may be `builtin`.
"""
import atexit
import concurrent.futures
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HAWSER = MODEL = None
KEY = "sesame"
TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


class Server:
    def __init__(self, *arguments, model=None, env=None):
        self.folder = tempfile.TemporaryDirectory()
        port_file = pathlib.Path(self.folder.name, "port")
        command = [HAWSER, "serve", str(model or MODEL), "--port", "0", "--port-file", str(port_file), *arguments]
        self.log = open(pathlib.Path(self.folder.name, "log"), "w+")
        self.process = subprocess.Popen(command, stderr=self.log, env={**os.environ, **(env or {})})
        atexit.register(self.process.kill)  # of a test that failed
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start: " + self.text())
            time.sleep(0.02)
        self.port = int(port_file.read_text())

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def ask(self, path, body=None, method=None, headers=None, timeout=300):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, data,
                           {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        kind = response.getheader("Content-Type", "")
        return response.status, json.loads(text) if kind.startswith("application/json") and text else text, response

    def complete(self, **body):
        status, answer, _ = self.ask("/v1/completions", body)
        assert status == 200, (status, answer)
        return answer

    def stream(self, path, **body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", path, json.dumps({"stream": True, **body}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("Content-Type").startswith("text/event-stream")
        events = response.read().decode().split("\n\n")
        connection.close()
        assert events[-1] == "" and events[-2] == "data: [DONE]", events[-3:]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def raw(self, data, wait=10):
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as s:
            s.sendall(data)
            got = b""
            try:
                while piece := s.recv(65536):
                    got += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return got

    def metric(self, name):
        text = self.ask("/metrics")[1].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines()
                   if line.split("{")[0].split(" ")[0] == "hawser_" + name)

    def close(self, expect=0):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        assert code == expect, (code, self.text())
        self.log.close()
        self.folder.cleanup()


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--parallel", "4", "--slots", "--name", "boat")

    @classmethod
    def tearDownClass(cls):
        cls.server.close()

    def refused(self, status, path, body, text, param=None, **more):
        got, answer, response = self.server.ask(path, body, **more)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        self.assertIn(text, answer["error"]["message"])
        self.assertNotIn("hawser/", answer["error"]["message"])
        if param:
            self.assertEqual(answer["error"]["param"], param)
        return answer["error"], response

    def test_completions(self):
        a = self.server.complete(model="any", prompt="The captain", max_tokens=12, temperature=0, strange=[1])
        self.assertEqual(a["object"], "text_completion")
        self.assertTrue(a["id"].startswith("cmpl-"))
        self.assertEqual(a["choices"][0]["finish_reason"], "length")
        self.assertIsNone(a["choices"][0]["logprobs"])
        self.assertEqual(a["usage"]["completion_tokens"], 12)
        self.assertEqual(a["usage"]["total_tokens"], 12 + a["usage"]["prompt_tokens"])
        b = self.server.complete(prompt="The captain", max_tokens=12, temperature=0)
        self.assertEqual(a["choices"][0]["text"], b["choices"][0]["text"])
        self.assertGreater(b["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        out = subprocess.run([HAWSER, "generate", MODEL, "The captain", "-n", "12", "--temperature", "0", "--json"],
                             capture_output=True, check=True)
        self.assertEqual(json.loads(out.stdout)["text"], a["choices"][0]["text"])

    def test_lists_of_prompts_and_choices(self):
        ids = self.server.ask("/tokenize", {"prompt": "The sea"})[1]["tokens"]
        a = self.server.complete(prompt=["The sea", "A ship"], max_tokens=5, n=3, temperature=0.9, seed=7)
        self.assertEqual([c["index"] for c in a["choices"]], list(range(6)))
        b = self.server.complete(prompt=[ids, ids], max_tokens=5, temperature=0)
        self.assertEqual(b["choices"][0]["text"], b["choices"][1]["text"])
        self.assertEqual(b["choices"][0]["text"], self.server.complete(prompt="The sea", max_tokens=5, temperature=0)["choices"][0]["text"])

    def test_a_prompt_counts_once_however_many_answers_it_gets(self):
        n = len(self.server.ask("/tokenize", {"prompt": "The captain"})[1]["tokens"])
        usage = self.server.complete(prompt=["The captain", "The captain"], max_tokens=2, n=3, ignore_eos=True)["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (2 * n, 12))

    def test_seeds(self):
        ask = lambda seed: self.server.complete(prompt="Once", max_tokens=20, seed=seed)["choices"][0]["text"]
        self.assertEqual(ask(3), ask(3))
        self.assertGreater(len({ask(seed) for seed in range(8)}), 4)
        free = {self.server.complete(prompt="Once", max_tokens=20)["choices"][0]["text"] for _ in range(6)}
        self.assertGreater(len(free), 2)

    def test_seeds_do_not_depend_on_load(self):
        body = {"prompt": "word " * 300 + "The captain", "max_tokens": 24, "seed": 11, "logprobs": 3, "ignore_eos": True}
        alone = self.server.complete(**body)["choices"][0]
        bodies = [body if i % 4 == 0 else {"prompt": f"Number {i} " * (1 + 9 * i), "max_tokens": 30} for i in range(16)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda b: self.server.complete(**b)["choices"][0], bodies))
        for answer in answers[::4]:
            self.assertEqual(answer, alone)

    def test_text_offsets_count_characters(self):
        bos = self.server.ask("/tokenizer_info")[1]["bos_token"]
        text = f"Ahoy \u00e9\U0001F600\U0001F6A2 {bos} na\u00efve"
        ids = self.server.ask("/tokenize", {"content": text})[1]["tokens"]
        for prompt in (text, ids, " \u2026"):
            a = self.server.complete(prompt=prompt, max_tokens=5, temperature=0, logprobs=0, echo=True)["choices"][0]
            tokens, offsets = a["logprobs"]["tokens"], a["logprobs"]["text_offset"]
            self.assertEqual(offsets, sorted(offsets))
            for token, offset, end in zip(tokens, offsets, offsets[1:] + [len(a["text"])]):
                if "\ufffd" in token or token == bos and prompt is not text:
                    continue
                if token == bos and offset == 0:  # in front of the text
                    self.assertEqual(end, 0)
                else:
                    self.assertEqual(a["text"][offset:end], token)

    def test_echo_and_logprobs(self):
        text = "The old man looked at the sea, and the sea looked back."
        a = self.server.complete(prompt=text, max_tokens=1, temperature=0, logprobs=2, echo=True)["choices"][0]
        l = a["logprobs"]
        n = len(self.server.ask("/tokenize", {"prompt": text})[1]["tokens"])
        for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            self.assertEqual(len(l[key]), n + 1, key)
        self.assertIsNone(l["token_logprobs"][0])
        self.assertIsNone(l["top_logprobs"][0])
        self.assertTrue(a["text"].startswith(text))
        for token, value, top in zip(l["tokens"][1:], l["token_logprobs"][1:], l["top_logprobs"][1:]):
            self.assertLess(value, 0)
            self.assertGreaterEqual(len(top), 2)
            self.assertEqual(top[token], value)
        self.assertEqual(max(l["top_logprobs"][-1].values()), l["token_logprobs"][-1])
        # The text alone, and what it costs: the same numbers as the command line's.
        whole = self.server.complete(prompt=text, max_tokens=0, logprobs=0, echo=True)["choices"][0]
        self.assertEqual(whole["text"], text)
        self.assertEqual(whole["logprobs"]["token_logprobs"], l["token_logprobs"][:-1])

    def test_streams(self):
        body = {"prompt": "The captain of the ship", "max_tokens": 30, "temperature": 0}
        whole = self.server.complete(**body)
        chunks = self.server.stream("/v1/completions", **body, stream_options={"include_usage": True})
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks if c["choices"]), whole["choices"][0]["text"])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 30)
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertTrue(all(c["usage"] is None for c in chunks[:-1]))
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1], "length")
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        progress = self.server.stream("/v1/completions", prompt="word " * 1500, max_tokens=1, return_progress=True,
                                      hawser={"kv": "sink:4,60"}, stream_options={"include_usage": True})
        self.assertTrue(all(c["usage"] is None for c in progress[:-1]))
        seen = [c["prompt_progress"]["processed"] for c in progress if "prompt_progress" in c]
        self.assertEqual(seen, sorted(seen))
        self.assertGreater(len(seen), 1)

    def test_stop_and_bias(self):
        a = self.server.complete(prompt="The captain", max_tokens=40, temperature=0)["choices"][0]["text"]
        stop = a[10:14]
        b = self.server.complete(prompt="The captain", max_tokens=40, temperature=0, stop=[stop, ""])["choices"][0]
        self.assertEqual(b["text"], a[:a.index(stop)])
        self.assertEqual(b["finish_reason"], "stop")
        c = self.server.complete(prompt="The captain", max_tokens=3, temperature=0, logit_bias={"70": 100}, logprobs=0)
        self.assertEqual(len(set(c["choices"][0]["logprobs"]["tokens"])), 1)

    def test_formats(self):
        schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                  "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
                  "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name", "tags", "age"],
                  "additionalProperties": False}
        shapes = ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}},
                  {"response_format": {"type": "json_object", "schema": schema}}, {"json_schema": schema})
        texts = set()
        for i, shape in enumerate(shapes):
            for temperature in (0, 1.2):
                a = self.server.complete(prompt="The captain", max_tokens=200, temperature=temperature, seed=3, **shape)
                self.assertEqual(a["choices"][0]["finish_reason"], "stop")
                value = json.loads(a["choices"][0]["text"])
                self.assertEqual(list(value), ["name", "tags", "age"])
                self.assertLessEqual(len(value["name"]), 12)
                self.assertLessEqual(set(value["tags"]), {"a", "b"})
                self.assertIn(value["age"], range(151))
                texts.add((temperature, a["choices"][0]["text"]))
        self.assertEqual(len(texts), 2)  # one a temperature, however it is asked for
        a = self.server.complete(prompt="Say", max_tokens=60, temperature=0, grammar='root ::= "yes" | "no" " never"{2,3}')
        self.assertIn(a["choices"][0]["text"], ("yes", "no never never", "no never never never"))
        # What allows everything changes nothing.
        free = self.server.complete(prompt="The captain", max_tokens=40, temperature=0)["choices"][0]
        bound = self.server.complete(prompt="The captain", max_tokens=40, temperature=0, grammar="root ::= .*")["choices"][0]
        self.assertEqual(bound, free)
        chunks = self.server.stream("/v1/completions", prompt="A", max_tokens=300, seed=1,
                                    response_format={"type": "json_object"}, stop=["\n\n\n"])
        text = "".join(c["choices"][0]["text"] for c in chunks)
        self.assertTrue(text.startswith("{"), text)
        if chunks[-1]["choices"][0]["finish_reason"] == "stop":
            self.assertIsInstance(json.loads(text), dict)
        error, _ = self.refused(400, "/v1/completions", {"prompt": "a", "json_schema": {"properties": {"p": {"not": {}}}}},
                                'at #/properties/p: "not" is not supported', "json_schema")
        self.refused(400, "/v1/completions", {"prompt": "a", "json_schema": {}, "grammar": "root ::= [a]"}, "one of them")

    def test_sessions(self):
        ask = self.server.ask
        status, session, _ = ask("/v1/sessions", {"kv": "sep-stream:4,16,32,128"})
        self.assertEqual(status, 200, session)
        self.assertEqual((session["object"], session["tokens"], session["kv"]), ("session", 0, "sep-stream:4,16,32,128"))
        own = {"hawser": {"session": session["id"]}}
        # Piece by piece it is the text that one request makes.
        pieces = [self.server.complete(prompt=p, max_tokens=n, temperature=0, ignore_eos=True, **own)["choices"][0]["text"]
                  for p, n in (("The captain of the ship", 20), ("", 30), ("", 25))]
        whole = self.server.complete(prompt="The captain of the ship", max_tokens=75, temperature=0, ignore_eos=True,
                                     hawser={"kv": "sep-stream:4,16,32,128"})["choices"][0]["text"]
        self.assertEqual("".join(pieces), whole)
        shown = ask("/v1/sessions/" + session["id"])[1]
        self.assertGreater(shown["tokens"], 75)
        # A copy goes on alone.
        copy = ask("/v1/sessions", {"from": session["id"]})[1]
        more = [self.server.complete(prompt=" And then", max_tokens=9, temperature=0, hawser={"session": i})["choices"][0]["text"]
                for i in (copy["id"], session["id"])]
        self.assertEqual(more[0], more[1])
        self.assertEqual({s["id"] for s in ask("/v1/sessions")[1]["data"]}, {session["id"], copy["id"]})
        # One request at a time; a client that leaves gives it back.
        body = json.dumps({"prompt": "a", "max_tokens": 100000, "stream": True, "ignore_eos": True, **own}).encode()
        s = socket.create_connection(("127.0.0.1", self.server.port))
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        s.recv(1000)
        self.refused(409, "/v1/completions", {"prompt": "a", **own}, "another request has", "session")
        self.refused(409, "/v1/sessions/" + session["id"], None, "another request has", method="DELETE")
        s.close()
        deadline = time.monotonic() + 20
        while ask("/v1/sessions/" + session["id"])[1]["busy"]:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(ask("/v1/completions", {"prompt": "b", "max_tokens": 3, **own})[0], 200)
        for body, text in (({"n": 2}, "one way"), ({"prompt": ["a", "b"]}, "one way"), ({"echo": True}, "echo"),
                           ({"hawser": {"session": session["id"], "kv": "full"}}, "cache of its own")):
            self.refused(400, "/v1/completions", {"prompt": "a", **own, **body}, text)
        self.refused(404, "/v1/completions", {"prompt": "a", "hawser": {"session": "../../etc/passwd"}}, "no session")
        self.refused(404, "/v1/completions", {"prompt": "a", "hawser": {"session": ""}}, "no session")
        self.refused(404, "/v1/sessions/session-0", None, "no session")
        self.refused(400, "/v1/sessions", {"kv": 3}, "kv")
        self.refused(400, "/v1/sessions/" + copy["id"] + "/save", {}, "--sessions")
        self.refused(405, "/v1/sessions/" + copy["id"], {}, "method", method="PUT")
        for one in (session, copy):
            self.assertEqual(ask("/v1/sessions/" + one["id"], method="DELETE")[1]["deleted"], True)
        self.assertEqual(ask("/v1/sessions")[1]["data"], [])

    def test_bounded_caches(self):
        self.refused(400, "/v1/sessions", {"kv": ""}, "kv policy")
        self.refused(400, "/v1/sessions", {"kv": "", "from": "x"}, "beside")
        a = self.server.complete(prompt="word " * 3000, max_tokens=20, hawser={"kv": "sink:4,60", "cache": True})
        own = a["usage"]["hawser"]
        self.assertEqual(own["cache"], "sink:4,60")
        self.assertEqual(own["kept_tokens"], 64)
        view = own["view"]
        self.assertEqual(len(view["tokens"]), len(view["held"]))
        self.assertEqual(view["held"].count("a"), 4)
        self.assertEqual(view["held"].count("w"), 60)
        self.refused(400, "/v1/completions", {"prompt": "word " * 30000}, "maximum context length is")

    def test_other_routes(self):
        self.assertEqual(self.server.ask("/health")[1], {"status": "ok"})
        models = self.server.ask("/v1/models")[1]
        self.assertEqual(models["data"][0]["id"], "boat")
        self.assertEqual(self.server.ask("/v1/models/boat")[1]["object"], "model")
        text = "Ahoy, sailor! \u00e9\U0001F600"
        ids = self.server.ask("/tokenize", {"content": text})[1]["tokens"]
        self.assertEqual(self.server.ask("/detokenize", {"tokens": ids})[1]["content"].strip(), text)
        pieces = self.server.ask("/tokenize", {"content": "a b", "with_pieces": True})[1]["tokens"]
        self.assertEqual(set(pieces[0]), {"id", "piece"})
        self.assertIn("eos_token", self.server.ask("/tokenizer_info")[1])
        self.assertEqual(self.server.ask("/props")[1]["total_slots"], 4)
        self.assertIn("running", self.server.ask("/slots")[1])
        status, page, response = self.server.ask("/")
        self.assertEqual(status, 200)
        self.assertIn(b"<!doctype html>", page[:40])
        self.assertIn("default-src 'none'", response.getheader("Content-Security-Policy"))
        metrics = self.server.ask("/metrics")[1].decode()
        for line in metrics.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) hawser_\w+ .+|hawser_\w+(\{[^}]*\})? \S+)$')
        status, body, response = self.server.ask("/health", method="HEAD")
        self.assertEqual((status, body), (200, b""))
        self.assertEqual(self.server.ask("/v1/completions", method="OPTIONS")[0], 204)

    def test_refusals(self):
        r = self.refused
        r(404, "/v1/nothing", {}, "nothing under this path")
        _, response = r(405, "/v1/completions", None, "does not know the method", method="GET")
        self.assertIn("POST", response.getheader("Allow"))
        r(415, "/v1/completions", "prompt=x", "application/json", headers={"Content-Type": "text/plain"})
        r(400, "/v1/completions", "{", "not valid JSON")
        r(400, "/v1/completions", b'{"prompt": "\xff"}', "not valid JSON")
        r(400, "/v1/completions", "[" * 100000, "deep")
        r(400, "/v1/completions", '{"prompt": "a", "prompt": "b"}', "twice")
        r(400, "/v1/completions", "[]", "must be a JSON object")
        r(400, "/v1/completions", {}, "is missing", "prompt")
        r(400, "/v1/completions", {"prompt": []}, "empty list", "prompt")
        r(400, "/v1/completions", {"prompt": [1, 99999999]}, "no token id", "prompt")
        r(400, "/v1/completions", {"prompt": {"a": 1}}, "text, a list", "prompt")
        for key, value in (("temperature", "hot"), ("temperature", -1), ("temperature", 1e300), ("top_p", 2),
                           ("max_tokens", -1), ("max_tokens", 1.5), ("n", 0), ("n", 10**30), ("logprobs", 21),
                           ("stop", [1]), ("seed", "x"), ("stream", 1), ("logit_bias", {"x": 1}),
                           ("logit_bias", [1]), ("suffix", "end"), ("best_of", 3), ("stream_options", 3),
                           ("response_format", {"type": "xml"}), ("response_format", 1), ("hawser", 1),
                           ("response_format", {"type": "json_schema"}), ("grammar", 3), ("grammar", "root ::= root"),
                           ("json_schema", {"not": {}}),
                           ("frequency_penalty", 3), ("timeout", -1), ("seed", 2**63), ("logprobs", "x")):
            r(400, "/v1/completions", {"prompt": "a", key: value}, f'"{key}', key)
        r(400, "/v1/completions", {"prompt": "a", "hawser": {"kv": "nonsense"}}, "nonsense")
        r(400, "/v1/completions", {"prompt": "a", "max_tokens": 10**9}, "maximum context length is")
        r(400, "/v1/completions", {"prompt": ["a"] * 512, "n": 2}, "asks for 1024 texts at once", "prompt")
        r(503, "/v1/completions", {"prompt": [1] * 2000, "max_tokens": 1000, "ignore_eos": True, "timeout": 1e-9}, "run out of its 1 ms")
        r(400, "/v1/completions", {"prompt": ["a", [1]]}, "texts alone", "prompt")
        r(400, "/tokenize", {"content": "a", "prompt": "b"}, "give one of")
        r(400, "/tokenize", {"content": "a", "add_special": True, "add_special_tokens": 1}, "true or false")
        r(400, "/detokenize", {"tokens": [-1]}, "no token id")
        r(400, "/tokenize", {"text": "a"}, "content")
        talk = [{"role": "user", "content": "a"}]
        for key, value in (("tool_choice", "required"), ("tool_choice", {"type": "function"}), ("tool_choice", 3),
                           ("tool_choice", {"type": "function", "function": {"name": "f"}}), ("tools", [3]), ("chat_template_kwargs", {"messages": []}), ("top_logprobs", 2)):
            r(400, "/v1/chat/completions", {"messages": talk, key: value}, f'"{key}"', key)
        r(415, "/v1/completions", {"prompt": "a"}, "not compressed", headers={"Content-Encoding": "gzip"})
        r(400, "/v1/chat/completions", {"messages": []}, "messages", "messages")
        r(400, "/v1/chat/completions", {"messages": [{"role": 1}]}, "role", "messages")
        r(400, "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text")

    def test_raw_requests(self):
        raw = self.server.raw
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        self.assertTrue(raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head + b"Transfer-Encoding: gzip\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head + b"Content-Length: 2, 2\r\n\r\n{}").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(head + b"Content-Length: 99999999999\r\n\r\n").startswith(b"HTTP/1.1 413"))
        self.assertTrue(raw(head + b"X: " + b"y" * 70000 + b"\r\n\r\n").startswith(b"HTTP/1.1 4"))
        self.assertTrue(raw(b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(b"GET /he%zzlth HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(b"GET http://a/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400"))
        self.assertTrue(raw(b"PUT /health HTTP/1.1\r\nHost: a\r\nExpect: nothing\r\n\r\n").startswith(b"HTTP/1.1 417"))
        nothing = raw(b"OPTIONS /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.assertTrue(nothing.startswith(b"HTTP/1.1 204") and nothing.endswith(b"\r\n\r\n"), nothing)
        self.assertNotIn(b"\r\nContent-", nothing)
        # Blank lines in front of a request, and behind a body, are none of it.
        last = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        self.assertTrue(raw(b"\r\n\r\n" + last).startswith(b"HTTP/1.1 200"))
        after = raw(head + b"Content-Length: 20\r\n\r\n" + b'{"prompt": [1, "a"]}' + b"\r\n" + last)
        self.assertTrue(after.startswith(b"HTTP/1.1 400") and after.count(b"HTTP/1.1 200") == 1, after)
        for not_one in (b"\r", b"\n", b"\r\r\n", b"\r\n" * 9):
            self.assertTrue(raw(not_one + last).startswith(b"HTTP/1.1 400"), not_one)
        two = raw(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.assertEqual(two.count(b"HTTP/1.1 200"), 2)
        body = b'{"prompt": "a", "max_tokens": 2}'
        chunked = raw(head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        self.assertTrue(chunked.startswith(b"HTTP/1.1 200"), chunked)
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as s:  # as curl sends large bodies
            s.sendall(head + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 100 "))
            s.sendall(body)
            self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 200 "))
        old = raw(b"POST /v1/completions HTTP/1.0\r\nContent-Length: 49\r\n\r\n" + b'{"prompt": "a", "max_tokens": 2, "stream": true }')
        self.assertNotIn(b"chunked", old)
        self.assertIn(b"[DONE]", old)

    def test_many_at_once(self):
        alone = {}
        prompts = [f"Number {i} went to the market and" for i in range(6)]
        for prompt in prompts:
            alone[prompt] = self.server.complete(prompt=prompt, max_tokens=16, temperature=0)["choices"][0]["text"]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            ask = lambda p: (p, self.server.complete(prompt=p, max_tokens=16, temperature=0)["choices"][0]["text"])
            for prompt, text in pool.map(ask, prompts * 8):
                self.assertEqual(text, alone[prompt])

    def test_clients_that_vanish(self):
        body = json.dumps({"prompt": "The sea", "max_tokens": 4000, "stream": True, "ignore_eos": True,
                           "hawser": {"kv": "sink:4,60"}}).encode()
        sockets = []
        for _ in range(8):
            s = socket.create_connection(("127.0.0.1", self.server.port))
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sockets.append(s)
        for s in sockets[:4]:
            s.recv(10)
        deadline = time.monotonic() + 20  # an answer may begin before the first pass over its prompt is told
        while 'hawser_kv_cache_bytes{policy="sink:4,60"}' not in self.server.ask("/metrics")[1].decode():
            self.assertLess(time.monotonic(), deadline, "no text under way is told")
        for s in sockets:
            s.close()
        deadline = time.monotonic() + 20
        while self.server.metric("requests_running") + self.server.metric("requests_waiting") > 0:
            self.assertLess(time.monotonic(), deadline, "texts of clients that are gone go on")
        self.assertEqual(self.server.ask("/health")[0], 200)


class SettingsTest(unittest.TestCase):
    def test_keys_and_names(self):
        server = Server("--strict-model", "--name", "boat", "--cors", "https://example.org", env={"HAWSER_API_KEY": KEY})
        try:
            self.assertEqual(server.ask("/health")[0], 200)
            for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer sesam"},
                            {"Authorization": "Bearer sesamesesame"}, {"Authorization": KEY}):
                status, _, response = server.ask("/v1/models", headers=headers)
                self.assertEqual((status, response.getheader("WWW-Authenticate")), (401, "Bearer"))
            self.assertEqual(server.ask("/v1/models", headers={"Authorization": "bearer  " + KEY})[0], 200)
            self.assertEqual(server.ask("/openapi.json")[1]["openapi"], "3.1.0")
            good = {"Authorization": "Bearer " + KEY}
            status, _, response = server.ask("/v1/models", headers=good)
            self.assertEqual(status, 200)
            self.assertEqual(response.getheader("Access-Control-Allow-Origin"), "https://example.org")
            self.assertEqual(server.ask("/v1/completions", {"model": "ship", "prompt": "a"}, headers=good)[0], 404)
            self.assertEqual(server.ask("/v1/completions", {"model": "boat", "prompt": "a"}, headers=good)[0], 200)
            self.assertEqual(server.ask("/slots", headers=good)[0], 404)
            status, answer, _ = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, headers=good)
            self.assertEqual(status, 400)
            self.assertIn("chat template", answer["error"]["message"])
        finally:
            server.close()

    def test_a_full_queue(self):
        server = Server("--parallel", "1", "--queue", "1", "--kv", "sink:4,60")
        try:
            begun = threading.Barrier(9)
            statuses = []

            def ask():
                begun.wait()
                status, _, response = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 400, "ignore_eos": True})
                statuses.append((status, response.getheader("Retry-After")))

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for t in threads:
                t.start()
            begun.wait()
            for t in threads:
                t.join()
            self.assertIn((429, "1"), statuses)
            self.assertIn((200, None), statuses)
            self.assertEqual({s for s, _ in statuses}, {200, 429})
        finally:
            server.close()

    def test_stops_when_texts_have_ended(self):
        server = Server("--kv", "sink:4,60")
        answers = []
        ask = lambda: answers.append(server.ask("/v1/completions", {"prompt": "a", "max_tokens": 300, "ignore_eos": True}))
        thread = threading.Thread(target=ask)
        thread.start()
        while server.metric("requests_running") == 0:
            pass
        server.close()
        thread.join()
        self.assertEqual(answers[0][0], 200)
        self.assertEqual(answers[0][1]["usage"]["completion_tokens"], 300)

    def test_chat(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([HAWSER, "convert", MODEL, folder + "/m", "--quiet"], check=True)
            pathlib.Path(folder, "m", "chat_template.jinja").write_text(TEMPLATE)
            server = Server(model=folder + "/m")
            try:
                talk = [{"role": "user", "content": [{"type": "text", "text": "Ahoy"}]}]
                body = {"messages": talk, "max_tokens": 12, "temperature": 0}
                status, a, _ = server.ask("/v1/chat/completions", body)
                self.assertEqual(status, 200, a)
                self.assertEqual(a["object"], "chat.completion")
                message = a["choices"][0]["message"]
                self.assertEqual(message["role"], "assistant")
                self.assertEqual(server.ask("/apply-template", {"messages": talk})[1]["prompt"], "<user>Ahoy\n<assistant>")
                chunks = server.stream("/v1/chat/completions", **body, logprobs=True, top_logprobs=2)
                self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
                last = chunks[-1]["choices"][0]
                self.assertEqual((last["delta"], last["finish_reason"]), ({}, "length"))
                self.assertTrue(all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1]))
                text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
                self.assertEqual(text, message["content"])
                told = [t for c in chunks for t in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
                self.assertEqual(len(told), 12)
                self.assertEqual(bytes(b for t in told for b in t["bytes"]).decode(errors="replace").strip(), text.strip())
                self.assertTrue(all(len(t["top_logprobs"]) == 2 for t in told))
                # The next turn reads only what is new.
                talk2 = talk + [message, {"role": "user", "content": "And then?"}]
                _, b, _ = server.ask("/v1/chat/completions", {**body, "messages": talk2})
                self.assertGreater(b["usage"]["prompt_tokens_details"]["cached_tokens"], 4)
                self.assertEqual(server.ask("/apply-template", {"messages": talk, "add_generation_prompt": False})[1]["prompt"],
                                 "<user>Ahoy\n")
                for words in ("The captain ", ""):
                    talk3 = {"messages": talk + [{"role": "assistant", "content": words}], "continue_final_message": True}
                    self.assertEqual(server.ask("/apply-template", talk3)[1]["prompt"], "<user>Ahoy\n<assistant>" + words)
                place = {"type": "object", "properties": {"to": {"$ref": "#/$defs/place"}, "far": {"type": "boolean"}},
                         "required": ["to", "far"], "$defs": {"place": {"enum": ["here", "there"]}}}
                tools = [{"type": "function", "function": {"name": "rest"}},
                         {"type": "function", "function": {"name": "sail", "parameters": place}}]
                for choice, names in (("required", {"rest", "sail"}), ({"type": "function", "function": {"name": "sail"}}, {"sail"})):
                    for seed in range(4):
                        forced = {"messages": talk, "tools": tools, "tool_choice": choice, "seed": seed, "max_tokens": 200}
                        choice_of, = server.ask("/v1/chat/completions", forced)[1]["choices"]
                        self.assertEqual(choice_of["finish_reason"], "tool_calls")
                        call, = choice_of["message"]["tool_calls"]
                        self.assertIn(call["function"]["name"], names)
                        arguments = json.loads(call["function"]["arguments"])
                        if call["function"]["name"] == "rest":
                            self.assertEqual(arguments, {})
                        else:
                            self.assertEqual(set(arguments), {"to", "far"})
                            self.assertIn(arguments["to"], ("here", "there"))
                status, refused, _ = server.ask("/v1/chat/completions", {**forced, "json_schema": {}})
                self.assertEqual((status, refused["error"]["param"]), (400, "tool_choice"))
                begun = talk + [{"role": "assistant", "content": "The captain"}]
                status, c, _ = server.ask("/v1/chat/completions", {**body, "messages": begun, "continue_final_message": True, "add_generation_prompt": False})
                self.assertEqual(status, 200, c)
            finally:
                server.close()

    def test_sessions_survive(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([HAWSER, "convert", MODEL, folder + "/m", "--quiet"], check=True)
            pathlib.Path(folder, "m", "chat_template.jinja").write_text(TEMPLATE)
            talk = ["Who are you?", "And where is the ship?", "What did the captain say?"]

            def say(server, session, text):
                status, a, _ = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": text}],
                                          "max_tokens": 20, "temperature": 0.9, "hawser": {"session": session}})
                self.assertEqual(status, 200, a)
                return a["choices"][0]["message"]["content"]

            answers = []
            for killed in (False, True):
                where = f"{folder}/s{killed}"
                arguments = ("--kv", "sep-stream:4,16,32,128", "--sessions", where, "--seed", "1", "--session-memory", "1")
                server = Server(*arguments, model=folder + "/m")
                session = server.ask("/v1/sessions", {})[1]["id"]
                first = {"messages": [{"role": "user", "content": talk[0]}], "max_tokens": 20, "temperature": 0.9,
                         "seed": 5, "hawser": {"session": session}}
                status, a, _ = server.ask("/v1/chat/completions", first)
                self.assertEqual(status, 200, a)
                told = [a["choices"][0]["message"]["content"]]
                for i, text in enumerate(talk[1:]):
                    if killed:
                        server.process.kill()
                        server.process.wait()
                        server = Server(*arguments, model=folder + "/m")
                        self.assertEqual([s["id"] for s in server.ask("/v1/sessions")[1]["data"]], [session])
                    told.append(say(server, session, text))
                self.assertEqual(server.ask(f"/v1/sessions/{session}/save", {})[1]["saved"], True)
                answers.append(told)
                for _ in range(3):  # a request that is refused keeps no later one from the session
                    self.assertEqual(server.ask("/v1/chat/completions", {**first, "n": 2})[0], 400)
                    self.assertEqual(server.ask("/v1/chat/completions", {**first, "max_tokens": 1})[0], 200)
                server.close()
            self.assertEqual(answers[0], answers[1])
            # Files that are no sessions, or damaged, stay where they are and stop nothing.
            bad = pathlib.Path(where, "session-bad.session")
            bad.write_bytes(b"nonsense")
            server = Server("--sessions", where, "--session-expiry", "0", model=folder + "/m")
            self.assertEqual(len(server.ask("/v1/sessions")[1]["data"]), 1)
            self.assertIn("session-bad", server.text())
            server.close()
            self.assertTrue(bad.exists())
            # One that is damaged behind what is read at the start: the log says what it is, the client only that.
            held = pathlib.Path(where, session + ".session")
            data = bytearray(held.read_bytes())
            data[-1] ^= 1
            held.write_bytes(data)
            server = Server("--sessions", where, "--session-expiry", "0", model=folder + "/m")
            told = [server.ask("/v1/chat/completions", {**first, "max_tokens": 1})[:2] for _ in range(2)]
            log = server.text()
            server.close()
            for status, answer in told:
                self.assertEqual(status, 500, answer)
                self.assertNotIn(where, json.dumps(answer))
            self.assertEqual(log.count(session + ".session: "), 2, log)

    def test_chat_by_url(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([HAWSER, "convert", MODEL, folder + "/m", "--quiet"], check=True)
            pathlib.Path(folder, "m", "chat_template.jinja").write_text(TEMPLATE)
            server = Server(model=folder + "/m", env={"HAWSER_API_KEY": KEY})
            url = f"http://127.0.0.1:{server.port}"

            def chat(lines, *arguments, key=KEY, to=url):
                p = subprocess.run([HAWSER, "chat", "--url", to, *arguments], input=lines, capture_output=True,
                                   text=True, timeout=60, env={**os.environ, "HAWSER_API_KEY": key})
                return p.returncode, p.stdout, p.stderr

            try:
                local = subprocess.run([HAWSER, "chat", folder + "/m", "-n", "12", "--temperature", "0", "--top-p", "1"],
                                       input="Ahoy\nAnd then?\n", capture_output=True, text=True, check=True).stdout
                same = ("-n", "12", "--temperature", "0", "--top-p", "1")
                code, out, err = chat("Ahoy\nAnd then?\n", "--session", *same)
                self.assertEqual((code, out), (0, local), err)
                code, out, err = chat("Ahoy\n", *same)
                self.assertEqual((code, out), (0, local[:len(out)]), err)
                self.assertGreater(len(out), 4)
                code, out, err = chat("Ahoy\n", "-n", "5", "--json", "--kv", "sink:4,60", "--seed", "3")
                self.assertEqual(code, 0, err)
                turn = json.loads(out)
                self.assertEqual(turn["usage"]["completion_tokens"], 5)
                self.assertEqual(turn["usage"]["hawser"]["cache"], "sink:4,60")
                pathlib.Path(folder, "g.gbnf").write_text('root ::= "aye" | "nay"')
                pathlib.Path(folder, "s.json").write_text('{"enum": ["port"]}')
                code, out, err = chat("Ahoy\n", "--grammar", folder + "/g.gbnf")
                self.assertEqual(code, 0, err)
                self.assertIn(out, ("aye\n", "nay\n"))
                code, out, err = chat("Ahoy\n", "--json-schema", folder + "/s.json")
                self.assertEqual((code, out), (0, '"port"\n'), err)
                code, out, err = chat("Ahoy\n/stats\n", "--session", "-n", "5")
                self.assertEqual(code, 0, err)
                session = [line for line in out.splitlines() if line.startswith("session ")][0].split()[1]
                code, out, err = chat("More\n/stats\n", "--session", session, "-n", "5", "--system", "Be brief.")
                self.assertEqual(code, 0, err)
                self.assertIn(session, out)
                for result, wanted, text in ((chat("a\n", key="wrong"), 2, "status 401: the API key"),
                                             (chat("a\n", "--kv", "nonsense"), 2, "nonsense"),
                                             (chat("a\n", "--rope", "theta=5"), 2, "--rope"),
                                             (chat("a\n", "--session", "session-none"), 2, "no session"),
                                             (chat("a\n", to="ftp://a"), 2, "http://"),
                                             (chat("a\n", to="http://127.0.0.1:1"), 3, "127.0.0.1")):
                    self.assertEqual(result[0], wanted, result)
                    self.assertIn(text, result[2])
            finally:
                server.close()

    def test_chat_with_a_server_that_says_anything(self):
        good_models, done = b'{"data": [{"id": "m"}]}', b"data: [DONE]\n\n"

        def event(**members):
            return b"data: " + json.dumps({"choices": [{"delta": {"content": "hi"}}], **members}).encode() + b"\n\n"

        cases = [(b'{"data": [{"id": 5}]}', event() + done), (b'{"data": [5]}', event() + done), (b"[]", event() + done),
                 (b"no json", b""), (b"\xff", b"")]
        cases += [(good_models, stream) for stream in (
            event(choices=5) + done, event(choices=[5]) + done, event(choices=[{"delta": 5}]) + done,
            event(choices=[{"delta": {"content": 5}, "finish_reason": 5}]) + done,
            event(error={"message": 5}), event(error="no"), event(error=None) + done,
            event(usage=5) + done, event(usage={"prompt_tokens": "x", "prompt_tokens_details": 5}) + done,
            event(usage={"prompt_tokens": 2**63, "completion_tokens": -5, "hawser": 5}) + done,
            event(usage={"hawser": {"cache": 5, "kept_tokens": "x", "evicted_tokens": 1e300}}) + done,
            b"data: [1]\n\n", b"data: \xff\n\n", b"data: {\n\n", b"data\n\n", b"", event())]

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, kind, body):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.answer("application/json", self.server.case[0])

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer("text/event-stream", self.server.case[1])

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for server.case in cases:
                p = subprocess.run([HAWSER, "chat", "--url", f"http://127.0.0.1:{server.server_address[1]}"],
                                   input=b"Ahoy\n/stats\n", capture_output=True, timeout=60)
                self.assertIn(p.returncode, (0, 2, 3), (server.case, p.stderr))
            server.shutdown()

    def test_limits_of_sessions(self):
        server = Server("--max-sessions", "2", "--session-expiry", "1")
        try:
            for _ in range(2):
                self.assertEqual(server.ask("/v1/sessions", {})[0], 200)
            self.assertEqual(server.ask("/v1/sessions", {})[0], 429)
            deadline = time.monotonic() + 20
            while server.ask("/v1/sessions")[1]["data"]:
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual(server.ask("/v1/sessions", {})[0], 200)
        finally:
            server.close()

    def test_a_refused_request_leaves_its_session_as_it_was(self):
        server = Server("--kv-memory", "1M")
        try:
            told = []
            for refused in (False, True):
                own = {"hawser": {"session": server.ask("/v1/sessions", {"kv": "full"})[1]["id"]}, "temperature": 0.9}
                server.complete(prompt="The captain", max_tokens=10, seed=5, ignore_eos=True, **own)
                if refused:  # more than the memory holds
                    status, answer, _ = server.ask("/v1/completions",
                                                   {"prompt": " and", "max_tokens": 900, "seed": 77, **own})
                    self.assertEqual((status, "are allowed" in answer["error"]["message"]), (400, True), answer)
                told.append(server.complete(prompt=" and", max_tokens=10, ignore_eos=True, **own)["choices"][0]["text"])
            self.assertEqual(told[0], told[1])
        finally:
            server.close()

    def test_a_session_rests_before_its_client_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            server = Server("--queue", "0", "--parallel", "1", "--kv", "sink:4,60", "--sessions", folder)
            try:
                session = server.ask("/v1/sessions", {})[1]["id"]
                long = json.dumps({"prompt": "a", "max_tokens": 10**6, "stream": True, "ignore_eos": True}).encode()
                with socket.create_connection(("127.0.0.1", server.port)) as s:
                    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(long) + long)
                    self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 200"))
                    for _ in range(20):
                        body = {"prompt": "a", "hawser": {"session": session}}
                        self.assertEqual(server.ask("/v1/completions", body)[0], 429)
                self.assertEqual(server.ask("/v1/sessions/" + session, method="DELETE")[0], 200)
            finally:
                server.close()
            server = Server("--kv", "sink:4,60", "--sessions", folder)
            try:
                own = {"hawser": {"session": server.ask("/v1/sessions", {})[1]["id"]}, "ignore_eos": True}
                for _ in range(5):
                    body = {"prompt": "a", "max_tokens": 10**6, "timeout": 0.05, **own}
                    self.assertEqual(server.ask("/v1/completions", body)[0], 503)
                self.assertEqual(server.ask("/v1/completions", {"prompt": "b", "max_tokens": 3, **own})[0], 200)
            finally:
                server.close()

    def test_beyond_the_context(self):
        for on_full, cache in (("shift", "sink:4,124"), ("sep", "sep-stream:4,16,32,128")):
            server = Server("--on-full", on_full, "--context", "128")
            try:
                a = server.complete(prompt="word " * 40, max_tokens=4)
                self.assertEqual(a["usage"]["hawser"]["cache"], "full")
                b = server.complete(prompt="word " * 400, max_tokens=4)
                self.assertEqual(b["usage"]["hawser"]["cache"], cache)
                self.assertLessEqual(b["usage"]["hawser"]["kept_tokens"], 128)
            finally:
                server.close()

    def test_an_indexed_prefix(self):
        with tempfile.TemporaryDirectory() as folder:
            book = "".join(f"On day {i} the captain of ship {i * i} wrote {i * 7} lines.\n" for i in range(60))
            pathlib.Path(folder, "book.txt").write_text(book)
            subprocess.run([HAWSER, "convert", MODEL, folder + "/m", "--quiet"], check=True)
            pathlib.Path(folder, "m", "chat_template.jinja").write_text(TEMPLATE)
            about = json.loads(subprocess.run([HAWSER, "index", folder + "/m", "--prefix", folder + "/book.txt", "--out",
                                               folder + "/x.idx", "--json", "--quiet"], capture_output=True,
                                              check=True).stdout)
            tokens = about["tokens"]
            arguments = ("--index", folder + "/x.idx", "--keep", "1", "--sessions", folder + "/s")
            server = Server(*arguments, model=folder + "/m")
            try:
                props = server.ask("/props")[1]["index"]
                self.assertEqual((props["tokens"], props["keep"]), (tokens, "1"))
                self.assertIn("keep", server.ask("/openapi.json")[1]["components"]["schemas"]["ChatRequest"]["properties"]
                              ["hawser"]["properties"])
                ids = server.ask("/tokenize", {"prompt": book})[1]["tokens"]
                self.assertEqual(len(ids), tokens)
                more = server.ask("/tokenize", {"content": "On day"})[1]["tokens"]
                read = server.metric("prompt_tokens_total")
                a = server.complete(prompt=ids + more, max_tokens=12, temperature=0, ignore_eos=True)
                self.assertEqual(a["usage"]["prompt_tokens_details"]["cached_tokens"], tokens)
                self.assertEqual(a["usage"]["hawser"]["index"], {"tokens": tokens, "read": 1})
                self.assertEqual(server.metric("prompt_tokens_total") - read, len(more))
                self.assertEqual(server.metric("indexed_prefix_texts_total"), 1)
                # What keeps all of it says what the whole prompt says.
                plain = server.complete(prompt=ids + more, max_tokens=12, temperature=0, ignore_eos=True,
                                        hawser={"kv": "window:4000"})
                self.assertNotIn("index", plain["usage"]["hawser"])
                self.assertEqual(a["choices"][0]["text"], plain["choices"][0]["text"])
                own = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
                b = server.complete(prompt=ids + more, hawser={"keep": "0.3"}, cache_prompt=False, **own)
                self.assertLess(b["usage"]["hawser"]["index"]["read"], 0.35)
                same = server.complete(prompt=ids + more, hawser={"keep": 0.3}, cache_prompt=False, **own)
                self.assertEqual(same["usage"]["hawser"]["index"], b["usage"]["hawser"]["index"])
                for other in ({"prompt": ids[1:] + more}, {"prompt": ids}, {"prompt": "On day"},
                              {"prompt": ids + more, "hawser": {"kv": "sink:4,60"}}):
                    self.assertNotIn("index", server.complete(**other, **own)["usage"]["hawser"])
                # A session begins behind it, and goes on after the server is started again.
                session = server.ask("/v1/sessions", {"index": True})[1]
                self.assertEqual((session["tokens"], session["indexed_tokens"]), (tokens, tokens))
                self.assertEqual(server.ask("/v1/sessions", {})[1]["indexed_tokens"], 0)
                inside = {"hawser": {"session": session["id"]}, "temperature": 0, "ignore_eos": True}
                told = server.complete(prompt=more, max_tokens=5, **inside)["choices"][0]["text"]
                server.process.kill()
                server.process.wait()
                server = Server(*arguments, model=folder + "/m")
                self.assertEqual(server.ask("/v1/sessions/" + session["id"])[1]["indexed_tokens"], tokens)
                told += server.complete(prompt="", max_tokens=7, **inside)["choices"][0]["text"]
                self.assertEqual(told, a["choices"][0]["text"])
                copy = server.ask("/v1/sessions", {"from": session["id"]})[1]
                self.assertEqual(copy["indexed_tokens"], tokens)
                # Its first prompt may begin with the prefix too, as text or as ids.
                for prompt, used in ((book + "On day", len(more)), (ids + more, len(more)), ("On day", len(more))):
                    own = server.ask("/v1/sessions", {"index": True})[1]["id"]
                    begun = server.complete(prompt=prompt, max_tokens=5, temperature=0, ignore_eos=True,
                                            hawser={"session": own})
                    self.assertEqual(begun["usage"]["prompt_tokens"], used, prompt[-6:])
                    self.assertEqual(begun["choices"][0]["text"], told[:len(begun["choices"][0]["text"])])
                own = server.ask("/v1/sessions", {"index": True})[1]["id"]
                status, answer, _ = server.ask("/v1/completions", {"prompt": book, "hawser": {"session": own}})
                self.assertEqual(status, 400, answer)
                self.assertIn("and no more", answer["error"]["message"])
                talk = server.ask("/v1/sessions", {"index": True})[1]["id"]
                status, answer, _ = server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "Who?"}],
                                               "max_tokens": 4, "hawser": {"session": talk}})
                self.assertEqual(status, 200, answer)
                self.assertEqual(answer["usage"]["hawser"]["index"]["tokens"], tokens)
                for path, body, text in (("/v1/sessions", {"index": 1}, "true or false"),
                                         ("/v1/sessions", {"index": True, "from": talk}, "original stands"),
                                         ("/v1/sessions", {"index": True, "kv": "sink:4,60"}, "drops keys"),
                                         ("/v1/completions", {"prompt": "a", "hawser": {"keep": "2"}}, "share"),
                                         ("/v1/completions", {"prompt": "a", "hawser": {"keep": 2}}, "to 1"),
                                         ("/v1/completions", {"prompt": "a", "hawser": {"keep": 0}}, "to 1"),
                                         ("/v1/completions", {"prompt": "a", "hawser": {"keep": True}}, "or text"),
                                         ("/v1/completions", {"prompt": "a", "hawser": {"keep": "0.5", "session": talk}},
                                          "as the server says")):
                    status, answer, _ = server.ask(path, body)
                    self.assertEqual(status, 400, answer)
                    self.assertIn(text, answer["error"]["message"])
            finally:
                server.close()
            # Talks that begin with it, as the template shows them.
            told = "<system>" + book.rstrip("\n")
            pathlib.Path(folder, "told.txt").write_text(told)
            subprocess.run([HAWSER, "index", folder + "/m", "--prefix", folder + "/told.txt", "--out", folder + "/t.idx",
                            "--bos", "off", "--parse-special", "--quiet"], capture_output=True, check=True)
            server = Server("--index", folder + "/t.idx", "--keep", "0.3", model=folder + "/m")
            try:
                tokens = server.ask("/props")[1]["index"]["tokens"]
                talk = {"messages": [{"role": "system", "content": told.removeprefix("<system>")},
                                     {"role": "user", "content": "Who?"}], "max_tokens": 4}
                for body in (talk, {**talk, "hawser": {"session": server.ask("/v1/sessions", {"index": True})[1]["id"]}}):
                    status, answer, _ = server.ask("/v1/chat/completions", body)
                    self.assertEqual(status, 200, answer)
                    usage = answer["usage"]
                    self.assertEqual(usage["hawser"]["index"]["tokens"], tokens)
                    self.assertLess(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"], 40)
            finally:
                server.close()
            # A server without it leaves the session where it is.
            server = Server("--sessions", folder + "/s", model=folder + "/m")
            try:
                self.assertIsNone(server.ask("/props")[1]["index"])
                self.assertEqual(server.ask("/v1/sessions/" + session["id"])[0], 404)
                self.assertIn("behind an indexed prefix", server.text())
                status, answer, _ = server.ask("/v1/sessions", {"index": True})
                self.assertEqual(status, 400, answer)
                self.assertEqual(server.ask("/v1/completions", {"prompt": "a", "hawser": {"keep": "0.5"}})[0], 400)
            finally:
                server.close()

    def test_wrong_options(self):
        def run(*arguments):
            p = subprocess.run([HAWSER, "serve", MODEL, *arguments], capture_output=True, text=True, timeout=60)
            return p.returncode, p.stderr

        taken = socket.create_server(("127.0.0.1", 0))
        code, text = run("--port", str(taken.getsockname()[1]))
        taken.close()
        self.assertEqual(code, 2)
        self.assertIn("cannot listen on 127.0.0.1:", text)
        code, text = run("--host", "no.such.host.invalid")
        self.assertEqual(code, 2)
        code, text = run("--tls-cert", HAWSER)
        self.assertEqual(code, 2)
        self.assertIn("--tls-key", text)
        self.assertEqual(run("--port", "70000")[0], 2)
        self.assertEqual(run("--kv", "sink:0")[0], 2)


if __name__ == "__main__":
    HAWSER, MODEL = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
