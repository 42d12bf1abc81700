#!/usr/bin/env python3
"""Holds `hawser serve` to its own description of its API: check_openapi.py HAWSER [MODEL] [-- options of `st run`]

Wants the package schemathesis in this Python. It makes requests out of /openapi.json, valid and not, and checks every
answer. MODEL must have a chat template; by default it is the builtin model with a plain one. What a schema cannot say
is said here: texts are kept short, a request names one form of its answer, schemas and grammars are small ones.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


def hooks():
    """Runs in the process of schemathesis, which imports this file."""
    import schemathesis
    from hypothesis import strategies as st

    schemathesis.openapi.format("gbnf", st.sampled_from(['root ::= "yes" | "no"', "root ::= [a-z]+", "root ::= .*"]))
    schemathesis.openapi.format("kv-policy", st.sampled_from(["full", "sink:4,60", "sep-stream:4,16,32,64"]))
    schemathesis.openapi.format("keep-rule", st.sampled_from(["0.1", "mass=0.9", "quantile=0.5"]))

    def small_schema(_):
        return {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    def is_number(value):
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    @schemathesis.hook
    def before_call(_, case, kwargs):
        body = case.body
        if not isinstance(body, dict) or not case.path.endswith(("completions", "/apply-template", "/tokenize")):
            return
        body = dict(body)
        given = body.get("max_tokens")
        if given is None or is_number(given) and given > 8:
            body["max_tokens"] = 8
        if is_number(body.get("max_completion_tokens")) and body["max_completion_tokens"] > 8:
            body["max_completion_tokens"] = 8
        if is_number(body.get("n")) and 2 < body["n"] <= 64:
            body["n"] = 2
        if is_number(body.get("timeout")) and 0 < body["timeout"] < 60:
            body["timeout"] = 60
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            prompt = ["a" if one == "" else one for one in prompt[:4]]
        if "prompt" in body:  # an empty text is no token where the tokenizer puts none in front
            body["prompt"] = "a" if prompt == "" else prompt
        if case.meta.generation.mode.is_positive:
            forms = [key for key in ("response_format", "json_schema", "grammar") if body.get(key) not in (None, "")]
            for key in forms[1:]:
                del body[key]
            if body.get("tool_choice") == "required":
                body["tool_choice"] = "auto"  # it stands for a form, too
            if body.get("json_schema") is not None:
                body["json_schema"] = small_schema(None)
            asked = body.get("response_format")
            if isinstance(asked, dict):
                asked = dict(asked)
                if asked.get("schema") is not None:
                    asked["schema"] = small_schema(None)
                if asked.get("type") == "json_schema":
                    asked["json_schema"] = {"schema": small_schema(None)}
                body["response_format"] = asked
        case.body = body


def start(hawser, model, folder):
    port_file = pathlib.Path(folder, "port")
    process = subprocess.Popen([hawser, "serve", model, "--port", "0", "--port-file", str(port_file), "--slots",
                                "--parallel", "8", "--max-sessions", "100000", "--sessions", folder + "/sessions"])
    while not port_file.exists():
        if process.poll() is not None:
            sys.exit("the server did not start")
        time.sleep(0.05)
    return process, f"http://127.0.0.1:{int(port_file.read_text())}"


def main():
    arguments = sys.argv[1:]
    more = arguments[arguments.index("--") + 1:] if "--" in arguments else []
    arguments = arguments[:arguments.index("--")] if "--" in arguments else arguments
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        if len(arguments) == 1:
            model = folder + "/builtin"
            subprocess.run([arguments[0], "convert", "builtin", model, "--quiet"], check=True)
            pathlib.Path(model, "chat_template.jinja").write_text(TEMPLATE)
        else:
            model = arguments[1]
        process, url = start(arguments[0], model, folder)
        try:
            api = json.loads(subprocess.run(["curl", "-sf", url + "/openapi.json"], capture_output=True, check=True).stdout)
            here = pathlib.Path(__file__).resolve()
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": here.stem, "CHECKS_API": "1",
                           "PYTHONPATH": str(here.parent), "PYTHONDONTWRITEBYTECODE": "1"}
            code = subprocess.run([sys.executable, "-m", "schemathesis.cli", "run", url + "/openapi.json", "--seed", "1",
                                   "--checks", "all", "--max-examples", "60", *more], env=environment, cwd=folder).returncode
        finally:
            process.terminate()
            ended = process.wait()
        sys.exit(code or ended)


if __name__ == "__main__":
    main()
elif os.environ.get("CHECKS_API"):
    hooks()
