#!/usr/bin/env python3
"""Key tokens and LongPPL (arXiv:2410.23771) of the built-in model, by transformers and torch in f32, for
hawser/eval/longppl_test.cc: a plain reading of the definition, without any of hawser's code.

    hawser corpus --out F.jsonl --documents 3 --seed 5 --least 700 --most 700
    longppl.py models/hawser-4m F.jsonl hawser/eval/longppl_golden.h
"""
import json
import math
import sys

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

K, DELTA, ALPHA, BETA = 64, 24, 2.0, -2.0


def nats(model, ids):
    """Of ids[1:], each behind all before it."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none").tolist()


def key_tokens(model, ids):
    """Numbers of key tokens, and how many had a short context of their own."""
    whole = [math.nan] + nats(model, ids)
    keys, judged = [], 0
    for begin in range(0, len(ids) - K, DELTA):
        window = ids[begin:begin + K + DELTA]
        short = nats(model, window)
        for i in range(begin + K, begin + len(window)):
            if begin == 0:  # sees all there is
                assert abs(short[i - 1] - whole[i]) < 1e-3
                continue
            judged += 1
            if short[i - begin - 1] - whole[i] > ALPHA and -whole[i] > BETA:
                keys.append(i)
    return keys, judged


def main(folder, texts, out):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows, total, count, all_nats, all_count = [], 0.0, 0, 0.0, 0
    for number, line in enumerate(open(texts)):
        text = json.loads(line)["text"]
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = coded["input_ids"], coded["offset_mapping"]
        keys, judged = key_tokens(model, [tokenizer.bos_token_id] + ids)
        spans = []
        for i in keys:
            begin, end = offsets[i - 1]
            if spans and begin <= spans[-1][1]:
                spans[-1][1] = end
            else:
                spans.append([begin, end])
        own = [math.nan] + nats(model, ids)  # the model that is measured gets no BOS
        inside = [any(a <= begin and end <= b for a, b in spans) for begin, end in offsets]
        for t in range(1, len(ids)):
            all_nats, all_count = all_nats + own[t], all_count + 1
            if inside[t]:
                total, count = total + own[t], count + 1
        rows.append((number, len(ids) + 1, judged, len(keys), spans))
    with open(out, "w") as file:
        file.write("// Written by scripts/goldens/longppl.py.\n#pragma once\n\n#include <cstdint>\n#include <utility>\n"
                   "#include <vector>\n\nnamespace hawser {\n\n"
                   "struct LongPplGolden {\n  int64_t tokens, judged, keys;\n"
                   "  std::vector<std::pair<int64_t, int64_t>> spans;\n};\n"
                   f"constexpr int64_t kGoldenK = {K}, kGoldenDelta = {DELTA}, kGoldenKeyTokens = {count};\n"
                   f"constexpr double kGoldenLongPpl = {math.exp(total / count)!r};\n"
                   f"constexpr double kGoldenPpl = {math.exp(all_nats / all_count)!r};\n"
                   "inline const std::vector<LongPplGolden> kLongPplGolden = {\n")
        for number, tokens, judged, keys, spans in rows:
            pairs = ", ".join("{%d, %d}" % tuple(span) for span in spans)
            file.write(f"    {{{tokens}, {judged}, {keys}, {{{pairs}}}}},\n")
        file.write("};\n\n}  // namespace hawser\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
