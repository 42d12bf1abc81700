#!/usr/bin/env python3
"""Text and tokenizer of the experiment: prepare.py BOOKS OUT HAWSER

BOOKS is a folder of plain-text books (the PG-19 test set: public domain). The last ten in lexicographic order are never
trained on. Every other book is cut at paragraph ends into documents of log-normal length (median 1600 bytes), so that a
packed sequence holds many documents of very different length, as web text does. Harbour logs (`hawser corpus`) add facts
that are asked for later; whole/ has the long ones beside uncut books. The vocabulary has 4096 pieces: byte-level BPE over both (needs the package `tokenizers`).
"""
import json
import math
import random
import subprocess
import sys
from pathlib import Path

HELD_OUT = 10
VOCABULARY = 4096


def pieces(text, rng):
    """Runs of whole paragraphs, each at least as long as a draw from the log-normal distribution."""
    wanted = rng.lognormvariate(math.log(1600), 1.1)
    piece, size = [], 0
    for paragraph in text.split("\n\n"):
        paragraph = paragraph.strip("\n")
        if not paragraph.strip():
            continue
        piece.append(paragraph)
        size += len(paragraph) + 2
        if size >= wanted:
            yield "\n\n".join(piece)
            piece, size = [], 0
            wanted = rng.lognormvariate(math.log(1600), 1.1)
    if piece:
        yield "\n\n".join(piece)


def write_books(books, path):
    rng = random.Random(1)
    documents = [piece for book in books for piece in pieces(book.read_text(), rng)]
    rng.shuffle(documents)
    with path.open("w") as out:
        for text in documents:
            out.write(json.dumps({"source": "book", "text": text}) + "\n")
    return documents


def train_tokenizer(documents, logs, path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents + logs, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A",
        pair="<|bos|> $A $B",
        special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))],
    )
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


def main():
    books, out, hawser = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    files = sorted(books.glob("*.txt"), key=lambda f: f.name)
    if len(files) <= HELD_OUT:
        sys.exit(f"{books}: {len(files)} books, wanted more than the {HELD_OUT} held out")
    for part in ("short", "long", "whole", "validation", "tokenizer"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for book in files[-HELD_OUT:]:
        (out / "validation" / book.name).write_text(book.read_text())
    for book in files[:-HELD_OUT]:
        (out / "whole" / book.name).write_text(book.read_text())
    documents = write_books(files[:-HELD_OUT], out / "short" / "books.jsonl")
    (out / "long" / "books.jsonl").write_text((out / "short" / "books.jsonl").read_text())

    def logs(path, seed, documents, most):
        subprocess.run([hawser, "corpus", "--out", str(path), "--seed", str(seed), "--documents", str(documents),
                        "--least", "40", "--most", str(most), "--quiet"], check=True)
        return [json.loads(line)["text"] for line in path.open()]

    short = logs(out / "short" / "logs.jsonl", 1, 14000, 480)
    logs(out / "long" / "logs.jsonl", 2, 2000, 4000)
    (out / "whole" / "logs.jsonl").write_text((out / "long" / "logs.jsonl").read_text())
    train_tokenizer(documents, short, out / "tokenizer")
    print(f"{len(documents)} documents of {len(files) - HELD_OUT} books, {HELD_OUT} books held out: {out}")


if __name__ == "__main__":
    main()
