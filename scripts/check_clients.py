#!/usr/bin/env python3
"""Tries clients, unmodified, on `hawser serve`: check_clients.py HAWSER MODEL

MODEL must have a chat template. Wants the packages openai and litellm, and uses curl; lm-eval and transformers
with `--harness FOLDER`.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def start(hawser, model, *arguments):
    folder = tempfile.mkdtemp()
    port_file = pathlib.Path(folder, "port")
    process = subprocess.Popen([hawser, "serve", model, "--port", "0", "--port-file", str(port_file), *arguments])
    while not port_file.exists():
        if process.poll() is not None:
            sys.exit("the server did not start")
        time.sleep(0.05)
    return process, f"http://127.0.0.1:{int(port_file.read_text())}"


def openai_client(url):
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key="none")
    assert [m.id for m in client.models.list()]
    talk = [{"role": "user", "content": "Name a colour."}]
    same = {"model": "m", "messages": talk, "max_tokens": 24, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**same)
    text = ""
    usage = None
    for chunk in client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content, (text, whole)
    assert usage.completion_tokens == whole.usage.completion_tokens
    told = client.chat.completions.create(model="m", messages=talk, max_tokens=4, logprobs=True, top_logprobs=3)
    assert all(len(t.top_logprobs) == 3 for t in told.choices[0].logprobs.content)
    done = client.completions.create(model="m", prompt="The sea", max_tokens=4, logprobs=2, echo=True, temperature=0)
    assert done.choices[0].logprobs.token_logprobs[0] is None
    assert len(client.completions.create(model="m", prompt=["a", "b"], n=2, max_tokens=2).choices) == 4
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    client.chat.completions.create(model="m", messages=talk, max_tokens=4, tools=tools)
    for call, error in (
        (lambda: client.completions.create(model="m", prompt="a", max_tokens=10**9), openai.BadRequestError),
        (lambda: client.models.retrieve("other"), openai.NotFoundError),
        (lambda: client.completions.create(model="m", prompt="a", temperature=-1), openai.BadRequestError),
    ):
        try:
            call()
        except error as e:
            assert e.body["message"], e
        else:
            raise AssertionError("not refused")
    formats(client, talk)
    print("openai: models, chat, streams, logprobs, echo, batches, tools in the template, formats, errors")


def formats(client, talk):
    """Answers under a schema are valid under it, by a checker that is not ours."""
    try:
        import jsonschema
    except ImportError:
        jsonschema = None
    schema = {"type": "object", "properties": {"colour": {"type": "string", "maxLength": 20},
              "warm": {"type": "boolean"}, "shades": {"type": "array", "items": {"enum": ["light", "dark"]}, "maxItems": 2},
              "rgb": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3},
              "since": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}},
              "required": ["colour", "warm", "shades", "rgb", "since"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": schema}}
    for seed in range(6):
        answer = client.chat.completions.create(model="m", messages=talk, max_tokens=300, seed=seed,
                                                temperature=seed / 4, response_format=asked)
        assert answer.choices[0].finish_reason == "stop", answer
        value = json.loads(answer.choices[0].message.content)
        if jsonschema:
            jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())


def litellm_client(url):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the net for prices
    import litellm

    litellm.telemetry = False
    answer = litellm.completion(model="openai/m", api_base=url + "/v1", api_key="none", max_tokens=8,
                                messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].message.content is not None
    pieces = [c.choices[0].delta.content or "" for c in litellm.completion(
        model="openai/m", api_base=url + "/v1", api_key="none", max_tokens=8, stream=True,
        messages=[{"role": "user", "content": "Hello"}])]
    assert "".join(pieces)
    print("litellm: chat and streams")


def curl(url):
    out = subprocess.run(["curl", "-sN", url + "/v1/completions", "-H", "Content-Type: application/json", "-d",
                          json.dumps({"prompt": "The sea", "max_tokens": 4, "stream": True})],
                         capture_output=True, text=True, check=True).stdout
    assert out.endswith("data: [DONE]\n\n"), out
    print("curl: streams")


def harness(url, tokenizer, hawser, model):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    lm = LocalCompletionsAPI(base_url=url + "/v1/completions", model="m", tokenizer=tokenizer, max_length=2048,
                             num_concurrent=4, tokenizer_backend="huggingface")
    pairs = [("The capital of France is", " Paris"), ("Two plus two is", " four"), ("The sea", " is blue and wide"),
             ("Le caf\u00e9 de l'\u00e9t\u00e9 \U0001F6A2", " est ouvert"), ("", "Once upon a time")]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    got = lm.loglikelihood(requests)
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=tokenizer, dtype="float32", device="cpu", max_length=2048)
    want = own.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    worst = max(abs(a[0] - b[0]) for a, b in zip(got, want))
    assert [a[1] for a in got] == [b[1] for b in want]
    from lm_eval.models.gguf import GGUFLM

    # It finds the continuation by text_offset.
    by_text = GGUFLM(base_url=url).loglikelihood([r for r in requests if r.args[0]])
    assert all(abs(a[0] - b[0]) < 1e-3 and a[1] == b[1] for a, b in zip(got, by_text)), (got, by_text)
    text = lm.generate_until([Instance("generate_until", {}, ("The sea", {"until": ["\n"], "max_gen_toks": 8}), 0)])
    assert isinstance(text[0], str)
    print(f"lm-eval local-completions, gguf: log-likelihoods within {worst:.1e} of transformers, the same greedy flags")
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("--harness", metavar="HF_FOLDER", help="the same model for lm-eval and transformers")
    a = parser.parse_args()
    arguments = ["--dtype", "f32"] if a.harness else []
    process, url = start(a.hawser, a.model, *arguments)
    try:
        curl(url)
        openai_client(url)
        litellm_client(url)
        if a.harness and harness(url, a.harness, a.hawser, a.model) > 1e-3:
            sys.exit("log-likelihoods differ")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
