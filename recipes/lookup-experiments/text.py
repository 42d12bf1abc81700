"""Documents in which looking up is what pays: numbers hidden in filler and asked for, and strings that come again.

Everything is drawn from a seed. Numbers that an evaluation asks for are passed as `avoid` and never drawn.
"""
import collections
import json
import re

WORDS = 400
DULL = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
DULL_SIZE = 24  # words and marks
TASK = ("There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
        "about the important information there.")
FRAME = 85  # size of what stands around the filler
NAMES = ("pass key", "pass key", "pass key", "door code", "magic number", "secret")


def asked_for(trials):
    """Numbers that `eval passkey:variant=focusllm` asks for in its first trials."""
    from numpy.random import RandomState

    return [int(RandomState(trial).randint(1, 50000)) for trial in range(trials)]


def read_books(folder, begin, end):
    return [path.read_text() for path in sorted(folder.glob("*.txt"))[begin:end]]


def frequent_words(books):
    counts = collections.Counter(word for book in books for word in re.findall(r"(?<= )[a-z]{3,8}(?= )", book))
    return sorted(word for word, _ in counts.most_common(WORDS))


class Writer:
    """Texts of a size in words and marks; tokens are up to a third more."""

    def __init__(self, rng, books, avoid=()):
        self.rng, self.books, self.words, self.avoid = rng, books, frequent_words(books), frozenset(avoid)

    def number(self):
        while True:
            number = self.rng.randint(1, 49999)
            if number not in self.avoid:
                return str(number)

    def prose(self, size):
        book = self.rng.choice(self.books)
        begin = self.rng.randrange(len(book) - 4 * size)
        return book[begin:begin + 4 * size]

    def filler(self, size):
        kind = self.rng.random()
        if kind < 0.4:
            return self.prose(size)
        if kind < 0.8:
            text = DULL * (size // DULL_SIZE + 1)
            return text[:size * len(DULL) // DULL_SIZE]
        sentences = []
        while size > 0:
            count = self.rng.randint(4, 9)
            sentences.append(" ".join(self.rng.choices(self.words, k=count)) + ".")
            size -= count + 1
        return " ".join(sentences)

    def hidden(self, size, task_first=0.0):
        """A number in filler, asked for at the end: the text before the answer, and the answer."""
        name, key = self.rng.choice(NAMES), self.number()
        info = f"The {name} is {key}. Remember it. {key} is the {name}."
        room = max(0, size - FRAME)
        before = int(self.rng.random() * room)
        lines = [self.filler(before), info, self.filler(room - before)]
        lines.insert(0 if self.rng.random() < task_first else 3, TASK)
        return "\n".join(lines + [f"What is the {name}? The {name} is"]), f" {key}."

    def facts(self, size):
        """Some numbers with names, filler, and each asked for twice: parts of the text, and whether they are answers."""
        rng, count = self.rng, self.rng.randint(1, 4)
        names = [rng.choice(NAMES) if rng.random() < 0.3 else " ".join(rng.sample(self.words, 2)) for _ in range(count)]
        numbers = {name: self.number() for name in names}
        parts = []
        for name, number in numbers.items():
            if rng.random() < 0.7:
                parts.append((self.filler(rng.randint(1, size // (2 * count))) + "\n", False))
            parts.append((f"The {name} is {number}.", False))
            if rng.random() < 0.5:
                parts += [(" Remember it.", False), (f" {number}", True), (f" is the {name}.", False)]
            parts.append(("\n", False))
        parts.append((self.filler(rng.randint(1, size // 2)) + "\n", False))
        if rng.random() < 0.5:
            parts.append((TASK + "\n", False))
        for name in rng.sample(2 * list(numbers), 2 * len(numbers)):
            parts += [(f"What is the {name}? The {name} is", False), (f" {numbers[name]}", True), (".\n", False)]
        return parts

    def recurring(self, size, least=6, most=24):
        """Random words, of which a span from anywhere comes again at the end: all before it, and the span."""
        span = self.rng.randint(least, most)
        items = [self.number() if self.rng.random() < 0.05 else self.rng.choice(self.words) for _ in range(size - span)]
        begin = self.rng.randrange(len(items) - span)
        return " ".join(items), " " + " ".join(items[begin:begin + span])


def weighted(tokenizer, parts, otherwise):
    """A line of ids and weights: 1 of answers, `otherwise` of all else."""
    text, ends = "", []
    for part, answer in parts:
        text += part
        ends.append((len(text), 1.0 if answer else otherwise))
    encoded = tokenizer.encode(text)
    weights, part = [], 0
    for _, end in encoded.offsets:
        while part + 1 < len(ends) and end > ends[part][0]:
            part += 1
        weights.append(ends[part][1])
    return {"source": "facts", "input_ids": encoded.ids, "weights": weights}


def write_lines(path, lines):
    with path.open("w") as out:
        for line in lines:
            out.write(json.dumps(line) + "\n")
