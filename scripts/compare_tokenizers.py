#!/usr/bin/env python3
"""Token ids of hawser against the libraries tokenizers and sentencepiece, on mixed text:
compare_tokenizers.py HAWSER BOOKS TOKENIZER... [--megabytes 20]

BOOKS is a folder of .txt files. A TOKENIZER is a tokenizer.json or a folder that has one, a SentencePiece
tokenizer.model, or a GGUF file. Of the latter hawser makes a tokenizer.json, which both sides then read. The text is
made of books, source code, emoji, CJK, Arabic, Devanagari and other scripts, control characters, runs of blanks and of
digits, any code points at all (but marks that are newer than the tables of the library), and bytes that are no UTF-8 (which both sides get as U+FFFD, since the libraries take
no bytes). It comes in documents of about 8 kB. All ids have to be the same. The last column is the speed of hawser on
20 MB of the books, in CPU time of one thread, start and reading of the vocabulary left out.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer

RANGES = {"CJK": [(0x4E00, 0x9FFF), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0x3000, 0x303F), (0xFF01, 0xFF5E)],
          "Arabic": [(0x0600, 0x06FF), (0x0750, 0x077F), (0xFB50, 0xFDFF)],
          "Devanagari": [(0x0900, 0x097F), (0xA8E0, 0xA8FF)],
          "scripts": [(0x0370, 0x052F), (0x0590, 0x05FF), (0x0E00, 0x0E7F), (0x1200, 0x137F), (0x10A0, 0x10FF)],
          "emoji": [(0x1F300, 0x1F6FF), (0x1F900, 0x1FAFF), (0x2600, 0x27BF), (0x1F1E6, 0x1F1FF)]}
JOINERS = ["\u200d", "\ufe0f", "\U0001f3fd", "\u20e3", ""]
CONTROLS = [chr(c) for c in range(1, 32)] + [chr(c) for c in range(0x7F, 0xA0)] + \
    ["\u200b", "\u200e", "\u202e", "\ufeff", "\u00ad", "\u2028", "\u2029", "\u180e", "\ufffd", "\u0000"]
BLANKS = [" ", " ", " ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\x0b", "\x0c", "\x85"]
DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "²³¹½¼⅓Ⅷ①", "0123456789.,-+eE%"]
MARKS = ["'s", "'S", "'LL", "'re", "’s", "''", "_", "__init__", "->", "::", "/*", "*/", "<|", "|>", "</s>", "<s>",
         "[INST]", "<|im_start|>", "<|endoftext|>", "#", "e\u0301", "A\u030a", "ﬁ", "K", "İ", "ß", "ǅ", "▁", "Ġ", "Ċ"]


def letters(rng, ranges, count):
    out = []
    for _ in range(count):
        low, high = rng.choice(ranges)
        out.append(chr(rng.randint(low, high)))
    return "".join(out)


def words(rng, name):
    joined = JOINERS if name == "emoji" else [""]
    return "".join(letters(rng, RANGES[name], rng.randint(1, 9)) + rng.choice(joined) +
                   rng.choice([" ", " ", "", "، ", "。", "।", "\n", ", ", "! "]) for _ in range(400))


def newer_marks():
    """Marks that Unicode added after the tables of the library: it leaves them where they stand in NFC."""
    from tokenizers import normalizers
    nfc = normalizers.NFC()
    marks = (chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c)).startswith("M"))
    return {m for m in marks if any(nfc.normalize_str(t) != unicodedata.normalize("NFC", t)
                                    for t in (f"a{m}\u0301", f"a\u0301{m}", f"a{m}\u0323", f"a\u0323{m}", f"a{m}\u0334", f"a\u0334{m}"))}


NEWER = newer_marks()


def any_points(rng):
    out = []
    while len(out) < 1500:
        c = chr(rng.choice([rng.randint(0, 0x7F), rng.randint(0, 0x24FF), rng.randint(0, 0xFFFF), rng.randint(0, 0x10FFFF)]))
        if unicodedata.category(c) not in ("Cs", "Cn") and c not in NEWER:
            out.append(c)
    return "".join(out)


def documents(rng, size, books, code):
    """Lists of (kind, text), together `size` bytes of UTF-8."""
    runs = lambda alphabet: "".join(rng.choice(rng.choice(alphabet)) * rng.choice([1, 1, 1, 2, 3, 4, 7, 20, 65]) +
                                    rng.choice(["", "a", " b", "1", "。"]) for _ in range(600))
    kinds = [("books", 6, lambda: books[(at := rng.randrange(len(books) - 8000)):at + 8000]),
             ("code", 4, lambda: code[(at := rng.randrange(len(code) - 8000)):at + 8000]),
             ("blanks", 1, lambda: runs(BLANKS)), ("digits", 1, lambda: runs(DIGITS)), ("controls", 1, lambda: runs(CONTROLS)),
             ("any", 1, lambda: any_points(rng)),
             ("marks", 1, lambda: "".join(rng.choice(MARKS) + rng.choice(BLANKS + ["", "x", "9"]) for _ in range(1500))),
             ("no UTF-8", 1, lambda: rng.randbytes(3000).decode("utf-8", errors="replace") + letters(rng, [(0x20, 0x7E)], 400))]
    kinds += [(name, 1, lambda name=name: words(rng, name)) for name in RANGES]
    total, made = 0, []
    while total < size:
        kind, _, make = rng.choices(kinds, [weight for _, weight, _ in kinds])[0]
        text = make()
        made.append((kind, text))
        total += len(text.encode())
    return made


def read_shards(folder):
    """Ids of each document (hawser/data/shards.h)."""
    for path in sorted(folder.glob("*.tokens")):
        data = path.read_bytes()
        width, _, count, tokens = struct.unpack("<IIQQ", data[8:32])
        ids = memoryview(data[64:64 + tokens * width]).cast("H" if width == 2 else "I")
        ends = memoryview(data[(at := 64 + (tokens * width + 7) // 8 * 8):at + 8 * count]).cast("Q")
        begin = 0
        for end in ends:
            yield ids[begin:end].tolist()
            begin = end


def hawser(binary, *arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([binary, *map(str, arguments), "--quiet"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def reference(path):
    """A function from text to ids."""
    if path.suffix == ".model":
        import sentencepiece
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return lambda texts: processor.encode(texts)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # their names in a text are text
    return lambda texts: [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser")
    parser.add_argument("books", type=pathlib.Path)
    parser.add_argument("tokenizers", nargs="+", type=pathlib.Path)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    books = "\n".join(p.read_text() for p in sorted(options.books.glob("*.txt")))
    code = "\n".join(p.read_text(errors="replace") for p in sorted(pathlib.Path(os.__file__).parent.glob("*.py")))
    made = documents(rng, options.megabytes * 1e6, books, code)
    print("| tokenizer | bytes | documents | tokens | that differ | books, MB/s |\n|---|---|---|---|---|---|")
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for _, text in made))
        (folder / "book.txt").write_text(books[:20_000_000])
        (folder / "short.txt").write_text("a")
        for number, path in enumerate(options.tokenizers):
            if path.suffix == ".gguf":
                made_from = folder / f"model{number}"
                hawser(options.hawser, "convert", "--random", "layers=1,width=64", "--tokenizer", path, made_from)
                tokenizer = made_from
            else:
                tokenizer = path
            out = folder / f"out{number}"
            hawser(options.hawser, "tokenize", path, "--data", folder / "text.jsonl", "--out", out)
            encode, tokens, wrong, shown = reference(tokenizer), 0, 0, None
            ours = read_shards(out)
            texts = [text for _, text in made]
            for begin in range(0, len(made), 64):
                for (kind, text), theirs in zip(made[begin:begin + 64], encode(texts[begin:begin + 64])):
                    mine = next(ours)
                    tokens += len(theirs)
                    if mine != theirs:
                        wrong += 1
                        first = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
                        shown = shown or (kind, mine[max(0, first - 3):first + 8], theirs[max(0, first - 3):first + 8])
            assert next(ours, None) is None
            seconds = []
            for name in ("book.txt", "short.txt"):
                _, spent = hawser(options.hawser, "tokenize", path, "--data", folder / name, "--out", folder / f"{name}{number}",
                                  "--threads", 1)
                seconds.append(spent)
            speed = (folder / "book.txt").stat().st_size / 1e6 / max(seconds[0] - seconds[1], 1e-9)
            name = path.name if path.is_file() and path.name != "tokenizer.json" else path.resolve().name
            print(f"| {name} | {sum(len(t.encode()) for t in texts):,} | {len(made):,} | {tokens:,} | {wrong or 'none'} | "
                  f"{speed:.0f} |", flush=True)
            if shown:
                print(f"  first: {shown[0]}: hawser {shown[1]}, reference {shown[2]}", file=sys.stderr)
            bad += wrong > 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
