#!/usr/bin/env python3
"""Logs, vocabulary and a random BLOOM of the experiment: prepare.py WORK HAWSER

WORK/data is what the anchor experiment's prepare.py made. The vocabulary has 1024 pieces: byte-level BPE over 3,000 of
its documents (needs the packages `tokenizers`, `torch` and `transformers`).
"""
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

VOCABULARY = 1024
CONTEXT = 256


def train_tokenizer(documents, path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|bos|>", "<|eos|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)])
    tokenizer.save(str(path / "tokenizer.json"))


def make_bloom(path):
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(1)
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=96, n_layer=3, n_head=6, bos_token_id=0, eos_token_id=1,
                         hidden_dropout=0.0, attention_dropout=0.0)
    config.seq_length = CONTEXT
    BloomForCausalLM(config).save_pretrained(path)


def main():
    work, hawser = Path(sys.argv[1]), sys.argv[2]
    logs, bloom = work / "logs", work / "bloom"
    for folder in (logs, bloom):
        folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([hawser, "corpus", "--out", str(logs / "logs.jsonl"), "--seed", "5", "--documents", "40000",
                    "--least", "40", "--most", "240", "--quiet"], check=True)
    documents = [json.loads(line)["text"] for name in ("books", "logs")
                 for line in (work / "data" / "short" / f"{name}.jsonl").open()]
    random.Random(1).shuffle(documents)
    make_bloom(bloom)
    train_tokenizer(documents[:3000], bloom)
    shutil.copy(work / "data" / "tokenizer" / "tokenizer_config.json", bloom)


if __name__ == "__main__":
    main()
