#!/usr/bin/env python3
"""Checks answers under a schema with a checker that is not hawser's: check_formats.py HAWSER MODEL [SCHEMAS] [SEED]

Wants the package jsonschema, with [format] to check times. Makes SCHEMAS (300) schemas of what docs/SERVE.md lists, asks
`hawser serve` for answers under each, greedy and drawn, and validates those that came to their end. Schemas that are
refused are counted by why.
"""
import collections
import concurrent.futures
import decimal
import http.client
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jsonschema

KEYS = ("name", "age", "tags", "a b", "kind", "é", "value", "x")
FORMATS = ("date", "time", "date-time", "email", "hostname", "ipv4", "ipv6", "uuid")
PATTERNS = ("^[a-z]{1,5}$", "^(ab|cd)+\\d?$", "x", "^\\w+@[a-z]+\\.org$", "^.{0,3}$")


def scalar(r):
    kind = r.randrange(9)
    if kind == 0:
        return {"enum": r.sample([1, "a", None, True, 2.5, [1], {"a": 1}, "é\n"], r.randint(1, 4))}
    if kind == 1:
        return {"const": r.choice([3, "x", None, {"k": [1, 2]}])}
    if kind == 2:
        return {"type": "string", "pattern": r.choice(PATTERNS)}
    if kind == 3:
        return {"type": "string", "format": r.choice(FORMATS)}
    if kind == 4:
        low = r.randint(0, 4)
        return {"type": "string", "minLength": low, "maxLength": low + r.randint(0, 12)}
    if kind == 5:
        low = r.randint(-1000, 1000)
        schema = {"type": "integer", r.choice(["minimum", "exclusiveMinimum"]): low,
                  r.choice(["maximum", "exclusiveMaximum"]): low + r.randint(2, 500)}
        if r.random() < 0.3:
            schema["multipleOf"] = r.choice([2, 5, 7])
        return schema
    if kind == 6:
        low = round(r.uniform(-9, 9), r.randint(0, 3))
        schema = {"type": "number", "minimum": low, "maximum": low + r.choice([0.5, 1, 40])}
        if r.random() < 0.3:
            schema["multipleOf"] = r.choice([0.1, 0.01])
        return schema
    if kind == 7:
        return {"type": r.sample(["boolean", "null", "integer"], r.randint(1, 3))}
    return {"type": r.choice(["boolean", "null"])}


def schema_of(r, depth):
    kind = r.randrange(8) if depth > 0 else 0
    if kind < 3:
        return scalar(r)
    if kind < 6:
        names = r.sample(KEYS, r.randint(1, 4))
        schema = {"type": "object", "properties": {n: schema_of(r, depth - 1) for n in names},
                  "required": r.sample(names, r.randint(0, len(names)))}
        if r.random() < 0.7:
            schema["additionalProperties"] = r.choice([False, False, scalar(r)])
        return schema
    if kind == 6:
        low = r.randint(0, 2)
        schema = {"type": "array", "items": schema_of(r, depth - 1), "minItems": low, "maxItems": low + r.randint(0, 3)}
        if r.random() < 0.3:
            schema["prefixItems"] = [schema_of(r, depth - 1) for _ in range(r.randint(1, 2))]
        return schema
    if r.random() < 0.4:
        return {"oneOf": [{"type": "object", "properties": {"kind": {"const": n}, "v": schema_of(r, depth - 1)},
                           "required": ["kind"]} for n in r.sample(KEYS, 2)]}
    return {"anyOf": [schema_of(r, depth - 1) for _ in range(r.randint(1, 3))]}


def ask(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def main():
    hawser, model = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    r = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    schemas = [schema_of(r, 3) for _ in range(count)]
    told = collections.Counter()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        port_file = pathlib.Path(folder, "port")
        process = subprocess.Popen([hawser, "serve", model, "--port", "0", "--port-file", str(port_file),
                                    "--parallel", "8"])
        try:
            while not port_file.exists():
                if process.poll() is not None:
                    sys.exit("the server did not start")
                time.sleep(0.05)
            port = int(port_file.read_text())

            def check(job):
                i, temperature = job
                schema = schemas[i]
                status, answer = ask(port, {"prompt": "Answer in JSON:\n", "max_tokens": 400, "seed": i,
                                            "temperature": temperature, "json_schema": schema})
                if status == 400:
                    return "refused: " + answer["error"]["message"].split(": ", 2)[-1][:60]
                if status != 200:
                    failed.append((schema, answer))
                    return f"status {status}"
                choice = answer["choices"][0]
                if choice["finish_reason"] != "stop":
                    return "cut at max_tokens"
                try:
                    value = json.loads(choice["text"], parse_float=decimal.Decimal)  # 2.9 is a multiple of 0.1
                    exact = json.loads(json.dumps(schema), parse_float=decimal.Decimal)
                    jsonschema.Draft202012Validator(exact, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(value)
                except (ValueError, jsonschema.ValidationError) as error:
                    failed.append((getattr(error, "message", str(error)), choice["text"], schema))
                    return "not valid"
                return "valid"

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                told.update(pool.map(check, [(i, t) for i in range(count) for t in (0, 0.8, 1.5)]))
        finally:
            process.terminate()
            process.wait()
    for what, times in told.most_common():
        print(f"{times:6} {what}")
    for case in failed[:5]:
        print(json.dumps(case, ensure_ascii=False))
    sys.exit(1 if failed or told["valid"] < count else 0)


if __name__ == "__main__":
    main()
