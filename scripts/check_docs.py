#!/usr/bin/env python3
"""Checks the pages of the project: lines of at most 120 columns (tables aside), sentences of at most 25 words in the
mean of a page, links that lead somewhere. `--wrap` breaks prose that is too wide, in place."""
import pathlib
import re
import sys
import textwrap

COLUMNS = 120
WORDS = 25.0
ITEM = re.compile(r"^(\s*)([-*]|\d+\.)\s+")
# Ends of sentences: a stop that a space or the end follows, but not in the abbreviations that the pages use.
STOP = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\.\.)[.!?](?=\s|$)")


def is_prose(line: str) -> bool:
    bare = line.strip()
    return bool(bare) and not bare.startswith(("|", "#", "<", "![", "---")) and not line.startswith("    ")


def blocks(text: str):
    """(first line number, lines, whether they are prose), one a paragraph or item of a list."""
    block, start, fenced, front = [], 0, False, text.startswith("---\n")
    for number, line in enumerate(text.splitlines(), 1):
        if front:
            yield number, [line], False
            front = number == 1 or line != "---"
            continue
        fence = line.lstrip().startswith("```")
        prose = not fence and not fenced and is_prose(line)
        if block and (not prose or ITEM.match(line)):
            yield start, block, True
            block = []
        if prose:
            if not block:
                start = number
            block.append(line)
        else:
            yield number, [line], False
        if fence:
            fenced = not fenced
    if block:
        yield start, block, True


def plain(paragraph: str) -> str:
    """The words that a reader reads: a span of code, a link or a formula counts as one."""
    text = re.sub(r"`[^`]*`", "code", paragraph)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return text.replace("*", "")


def sentences(paragraph: str):
    for sentence in STOP.split(plain(ITEM.sub("", paragraph))):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        if words:
            yield len(words)


def wrapped(lines):
    first = ITEM.match(lines[0])
    indent = " " * (len(first.group(0)) if first else len(lines[0]) - len(lines[0].lstrip()))
    text = " ".join(line.strip() for line in lines)
    head = first.group(0) if first else indent
    text = text[len(first.group(0).lstrip()):] if first else text
    return textwrap.wrap(text, COLUMNS, initial_indent=head, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)


def check(path: pathlib.Path, wrap: bool):
    text = path.read_text(encoding="utf-8")
    found, counts, output = [], [], []
    for number, lines, prose in blocks(text):
        if prose:
            counts.extend(sentences(" ".join(lines)))
            if wrap and any(len(line) > COLUMNS for line in lines):
                lines = wrapped(lines)
        output.extend(lines)
        for offset, line in enumerate(lines):
            if len(line) > COLUMNS and not line.lstrip().startswith("|"):
                found.append(f"{path}:{number + offset}: {len(line)} columns; at most {COLUMNS}")
    mean = sum(counts) / len(counts) if counts else 0
    if mean > WORDS:
        found.append(f"{path}: {mean:.1f} words a sentence in the mean; at most {WORDS:g}")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
            found.append(f"{path}: the link to {target} leads nowhere")
    if wrap and output:
        path.write_text("\n".join(output) + "\n", encoding="utf-8")
    return found, mean


def main() -> int:
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    root = pathlib.Path(arguments[0] if arguments else ".")
    pages = sorted(p for p in root.rglob("*.md") if not {"build", ".git"} & set(p.relative_to(root).parts))
    bad = []
    for page in pages:
        found, mean = check(page, "--wrap" in sys.argv)
        bad.extend(found)
        if "--means" in sys.argv:
            print(f"{mean:5.1f}  {page}")
    print("\n".join(bad), end="\n" if bad else "")
    print(f"{len(pages)} pages checked, {len(bad)} faults")
    return 1 if bad or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
