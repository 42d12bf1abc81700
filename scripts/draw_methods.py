#!/usr/bin/env python3
"""Draws the pictures of docs/METHODS.md: scripts/draw_methods.py [FOLDER]

A picture a method, drawn from its formula: who sees whom, or a quantity by position or distance. They are light or dark
as the viewer asks, and colours are told apart with the common kinds of colour blindness."""
import math
import pathlib
import sys

INK, SOFT, GRID, A, B, C, D = "ink", "soft", "grid", "a", "b", "c", "d"
LIGHT = {"paper": "#ffffff", INK: "#1f2937", SOFT: "#5b6675", GRID: "#e5e7eb", A: "#0072b2", B: "#d55e00", C: "#00875f",
         D: "#b8478b"}
DARK = {"paper": "#171b21", INK: "#e5e9ef", SOFT: "#a3aebb", GRID: "#303741", A: "#56a8e8", B: "#ff8f45", C: "#2cc594",
        D: "#e68fc3"}
WIDTH, HEIGHT = 640, 210


class Picture:
    def __init__(self, title, height=HEIGHT):
        self.title, self.height, self.parts = title, height, []

    def rect(self, x, y, w, h, color, opacity=1.0):
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" class="{color}"'
                          + (f' opacity="{opacity:g}"' if opacity < 1 else "") + "/>")

    def text(self, x, y, words, color=SOFT, anchor="start", size=12):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{color}" text-anchor="{anchor}" font-size="{size}">{words}</text>')

    def line(self, points, color, width=2, dash=None):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="{color}-line" stroke-width="{width:g}"'
                          + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")

    def legend(self, x, y, rows):
        for i, (color, words) in enumerate(rows):
            self.rect(x, y + 20 * i - 9, 11, 11, color)
            self.text(x + 18, y + 20 * i, words, INK)

    def mask(self, x, y, n, cell, color_of):
        """A cell a query (down) and key (across); color_of(query, key): a color, or None for what is not seen."""
        self.rect(x, y, n * cell, n * cell, GRID, 0.45)
        for q in range(n):
            k = 0
            while k <= q:
                color, begin = color_of(q, k), k
                while k <= q and color_of(q, k) == color:
                    k += 1
                if color:
                    self.rect(x + begin * cell, y + q * cell, (k - begin) * cell - 0.8, cell - 0.8, color)
        self.text(x + n * cell / 2, y - 6, "keys", SOFT, "middle", 11)
        self.text(x - 6, y + n * cell / 2, "queries", SOFT, "end", 11)

    def axes(self, x, y, w, h, xlabel, ylabel, xticks=(), yticks=()):
        """Returns the place of a point of [0, 1] x [0, 1]."""
        self.line([(x, y), (x, y + h), (x + w, y + h)], SOFT, 1)
        self.text(x + w, y + h + 30, xlabel, SOFT, "end", 11)
        self.text(x - 4, y - 8, ylabel, SOFT, "start", 11)
        for at, words in xticks:
            self.text(x + w * at, y + h + 15, words, SOFT, "middle", 11)
        for at, words in yticks:
            self.text(x - 5, y + h - h * at + 4, words, SOFT, "end", 11)
            self.line([(x, y + h - h * at), (x + w, y + h - h * at)], GRID, 1)
        return lambda u, v: (x + w * u, y + h - h * v)

    def save(self, path):
        style = "".join(f".{k}{{fill:{v}}}.{k}-line{{stroke:{v};fill:none}}" for k, v in LIGHT.items())
        dark = "".join(f".{k}{{fill:{v}}}.{k}-line{{stroke:{v}}}" for k, v in DARK.items())
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} '
            f'{self.height}" role="img" font-family="system-ui, sans-serif">\n<title>{self.title}</title>\n'
            f"<style>{style}@media (prefers-color-scheme:dark){{{dark}}}</style>\n"
            f'<rect width="{WIDTH}" height="{self.height}" rx="8" class="paper"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def curve(f, n=200):
    return [(i / n, f(i / n)) for i in range(n + 1)]


N, CELL, LEFT, TOP, KEY = 24, 7, 60, 26, 270
STARTS = (0, 9, 16)  # of the documents of a packed sequence


def document(token):
    return max(i for i, start in enumerate(STARTS) if token >= start)


def packed(title, anchor, reset):
    p = Picture(title)
    shift = 1 if anchor else 0

    def color(q, k):
        if anchor and k == 0:
            return B
        if anchor and q == 0:
            return None
        return A if document(q - shift) == document(k - shift) else None

    p.mask(LEFT, TOP, N, CELL, color)
    rows = [(A, "tokens of the same document")]
    if anchor:
        rows.append((B, "the anchor, at position 0, seen by all"))
    p.legend(KEY, 50, rows)
    p.text(KEY, 50 + 20 * len(rows) + 10, "three documents in one sequence; positions:", INK)
    at = p.axes(KEY + 10, 122, 320, 52, "token", "", (), ())
    for i, start in enumerate(STARTS):
        end = STARTS[i + 1] if i + 1 < len(STARTS) else N
        for of, dash, c in ((lambda t: t, "4 3" if reset else None, A), (lambda t, s=start: t - s, None, C)):
            if c == C and not reset:
                continue
            p.line([at(t / N, of(t) / N) for t in (start, end)], c, 2, dash)
    if reset:
        p.text(KEY + 195, 176 + 28, "solid: -reset, dashed: running on", SOFT, "middle", 11)
    return p


SEPARATORS = (5, 8, 12, 15, 19)


def sepllm():
    p = Picture("SepLLM and FixLLM")

    def color(q, k, far):
        if k < 2:
            return B
        if q - k < 5:
            return A
        return C if far(k) else None

    p.mask(LEFT, TOP, N, CELL, lambda q, k: color(q, k, lambda k: k in SEPARATORS))
    p.mask(LEFT + 228, TOP, N, CELL, lambda q, k: color(q, k, lambda k: k % 5 == 2))
    p.text(LEFT + N * CELL / 2, 206, "SepLLM", INK, "middle")
    p.text(LEFT + 228 + N * CELL / 2, 206, "FixLLM", INK, "middle")
    p.legend(478, 60, [(B, "first tokens"), (A, "window"), (C, "separators, or")])
    p.text(496, 120, "each d-th token", INK)
    return p


def streaming():
    p = Picture("StreamingLLM")
    p.mask(LEFT, TOP, N, CELL, lambda q, k: B if k < 2 else A if q - k < 6 else None)
    p.legend(KEY, 44, [(B, "first tokens stay"), (A, "the newest stay")])
    p.text(KEY, 94, "text, and the rank at which a query reads a key:", INK)
    for i in range(22):
        held = i < 2 or i >= 16
        p.rect(KEY + i * 15, 104, 13, 13, B if i < 2 else A if held else GRID)
        if held:
            rank = i if i < 2 else i - 14
            p.rect(KEY + rank * 15, 150, 13, 13, B if i < 2 else A)
            if i in (0, 1, 16, 21):
                p.line([(KEY + i * 15 + 6, 118), (KEY + rank * 15 + 6, 149)], SOFT, 0.8)
            p.text(KEY + rank * 15 + 6, 178, str(rank), SOFT, "middle", 10)
    return p


def frequencies(schemes, title, note):
    p = Picture(title)
    at = p.axes(70, 30, 300, 140, "pair of channels, fast to slow", "new frequency / old one", ((0, "0"), (1, "31")),
                ((1, "1"), (0.25, "1/4")))
    dashes = (None, "6 4", "2 3")
    for i, (f, color, words) in enumerate(schemes):
        p.line([at(u, f(u)) for u, _ in curve(lambda u: u)], color, 2.5, dashes[i % 3])
        p.text(KEY + 140, 56 + 22 * i, words, color)
    for i, words in enumerate(note):
        p.text(KEY + 140, 66 + 22 * len(schemes) + 18 * i, words, SOFT)
    return p


def scaled():
    def yarn(u, factor=4, context=2048, theta=1e4, dims=64):
        turns = context * theta ** (-u * (dims - 2) / dims) / (2 * math.pi)
        keep = min(1.0, max(0.0, (turns - 1) / (32 - 1)))
        return keep + (1 - keep) / factor

    return frequencies([(lambda u: 0.25, A, "linear (PI)"), (lambda u: 4 ** (-u), B, "NTK"), (yarn, C, "YaRN")],
                       "Scaled rotations", ["four times the context"])


def base():
    ratio = 1e4 / 5e5
    return frequencies([(lambda u: ratio ** (u * 31 / 32), A, "theta 10,000 to 500,000")], "A larger base",
                       ["the slowest pairs turn", "fifty times slower"])


def entropy():
    p = Picture("Entropy-aware scales")
    top = 1.4
    at = p.axes(70, 30, 420, 140, "position (log)", "scale of the query", ((0, "L / 16"), (0.5, "L"), (1, "16 L")),
                ((1 / top, "1"), (1.333 / top, "4/3")))
    p.line([at(u, max(1.0, 1 + (u - 0.5) * 2 * math.log(16) / math.log(4096)) / top) for u, _ in curve(lambda u: u)], A, 2.5)
    p.text(505, 70, "max(1, ln(p + 1) / ln L)", INK, size=11)
    p.text(505, 90, "for L = 4096", SOFT, size=11)
    return p


def skipping():
    p = Picture("Positions that skip")
    for j, (words, position, color) in enumerate((
            ("PoSE: two chunks", lambda t: t if t < 40 else t + 44, A),
            ("SkipAlign: at answers", lambda t: t + (0 if t < 30 else 22 if t < 60 else 56), B),
            ("RandPos: at every token", lambda t: sum(0.4 + 2.3 * ((i * 37 % 101) / 101) for i in range(t)), C))):
        at = p.axes(56 + j * 198, 34, 160, 130, "token", "position", ((1, "short"),), ((0.625, ""), (1, "long")))
        last, run = None, []
        for t in range(101):
            now = position(t)
            if last is not None and now - last > 8:
                p.line(run, color, 2.5)
                p.line([run[-1], at(t / 100, now / 160)], color, 1, "2 3")
                run = []
            run.append(at(t / 100, now / 160))
            last = now
        p.line(run, color, 2.5)
        p.text(56 + j * 198 + 10, 52, words, color, size=11)
    return p


def longce():
    p = Picture("LongCE")
    at = p.axes(60, 30, 430, 140, "token of the text", "weight of its loss", (), ((0.2, "1"), (1, "most")))
    for i in range(60):
        h = 0.2 * math.exp(0.25 * math.sin(i * 2.1) + 0.1 * math.cos(i * 5.3))
        far = i in (17, 18, 33, 47, 48, 49)
        h = min(1.0, h * (4.4 if far else 1))
        x, y = at(i / 60, h)
        p.rect(x, y, 5.5, 170 - y, B if far else A)
    p.legend(505, 60, [(B, "far text tells it"), (A, "near text does")])
    return p


def string():
    p = Picture("STRING")
    at = p.axes(70, 30, 330, 140, "distance of a key", "distance that it is read at",
                ((0, "0"), (0.333, "S"), (1, "L")), ((0.333, "S"), (0.667, "L - S + W")))
    p.line([at(0, 0), at(1, 1)], SOFT, 1.5, "4 4")
    p.line([at(0, 0), at(0.333, 0.333)], A, 3)
    p.line([at(0.333, 0.04), at(1, 0.707)], B, 3)
    p.line([at(0.333, 0.333), at(0.333, 0.04)], SOFT, 1, "2 3")
    p.legend(430, 60, [(A, "near: as it is"), (B, "far: less the shift S,"), (SOFT, "plain model")])
    p.text(448, 134, "plus the window W", SOFT)
    return p


def focus():
    p = Picture("FocusLLM")
    for c in range(3):
        x = 40 + c * 150
        p.rect(x, 36, 100, 22, A)
        p.rect(x + 102, 36, 26, 22, C)
        p.rect(x + 129, 36, 9, 22, B)
        p.text(x + 50, 51, f"chunk {c + 1}", "paper", "middle")
        p.line([(x + 133, 60), (196 + c * 14, 122)], B, 1.5)
        p.rect(190 + c * 14, 124, 12, 22, B)
    p.rect(236, 124, 150, 22, C)
    p.text(311, 139, "window", "paper", "middle")
    p.line([(388, 135), (420, 135)], INK, 1.5)
    p.text(428, 139, "next token", INK)
    p.legend(40, 178, [(A, "long text; no chunk sees another"), (B, "candidate: one key and value a layer")])
    p.legend(340, 178, [(C, "newest tokens, and their end as prompt")])
    return p


def alibi():
    p = Picture("ALiBi interpolation")
    heads = ((0.5, "steep"), (0.09, "flat"))
    for j, (words, change) in enumerate((("linear: all slopes / 4", lambda m, i: m / 4),
                                         ("NTK-ALiBi: flat ones alone", lambda m, i: m / (1.25, 4)[i]))):
        at = p.axes(60 + j * 295, 34, 240, 126, "distance", "bias", ((0, "0"), (1, "4 L")), ())
        for i, (m, name) in enumerate(heads):
            for slope, dash, color in ((m, "5 4", SOFT), (change(m, i), None, (B, A)[i])):
                end = min(1.0, 1 / (slope * 10))
                p.line([at(0, 1), at(end, 1 - slope * 10 * end)], color, 2.5 if dash is None else 1.3, dash)
        p.text(60 + j * 295 + 50, 30, words, INK)
    p.text(320, 204, "orange: a steep head, blue: a flat one; dashed: as trained", SOFT, "middle", 11)
    return p


def upsampling():
    p = Picture("Length up-sampling")
    at = p.axes(60, 30, 330, 140, "length of documents (log)", "share of tokens", ((0, "128"), (1, "64K")), ())
    before = lambda u: 0.75 * math.exp(-((u - 0.35) / 0.2) ** 2)
    after = lambda u: 0.42 * math.exp(-((u - 0.35) / 0.2) ** 2) + 0.6 * math.exp(-((u - 0.8) / 0.12) ** 2)
    p.line([at(*xy) for xy in curve(before)], SOFT, 2, "5 4")
    p.line([at(*xy) for xy in curve(after)], A, 2.5)
    p.legend(420, 70, [(SOFT, "as the data are (dashed)"), (A, "as they are drawn")])
    return p


def adapters():
    p = Picture("Low-rank adapters")
    p.rect(150, 50, 120, 110, GRID)
    p.text(210, 110, "W, fixed", INK, "middle")
    p.text(295, 112, "+", INK, "middle", 20)
    p.rect(320, 50, 26, 110, A)
    p.text(333, 110, "B", "paper", "middle")
    p.rect(352, 50, 120, 26, A)
    p.text(412, 67, "A", "paper", "middle")
    p.text(352, 110, "rank r, trained: r (n + m)", INK)
    p.text(352, 130, "values instead of n m", INK)
    return p


def bilevel():
    p = Picture("Bilevel positions")
    cells, starts = 26, (0, 6, 11, 19)
    for i in range(cells):
        s = max(j for j, b in enumerate(starts) if i >= b)
        x = 60 + i * 20
        p.rect(x, 46, 18, 22, (A, B, C, D)[s])
        p.text(x + 9, 92, str(i - starts[s]), INK, "middle", 11)
        p.text(x + 9, 132, str(s), INK, "middle", 11)
    p.text(60, 36, "tokens, by segment", SOFT)
    p.text(60, 110, "place in the segment: a learned row added to the token", SOFT)
    p.text(60, 150, "number of the segment: the rotation of queries and keys", SOFT)
    return p


def self_adjusting():
    p = Picture("Self-adjusting softmax")
    scores = [-1.2, 0.3, 2.2, -0.4, 1.3, -2.0, 0.8, 2.6, -0.9, 0.1, 1.0, -1.5]
    total = sum(math.exp(s) for s in scores)
    weights = [math.exp(s) / total for s in scores]
    low, high = min(scores), max(scores)
    adjusted = [w * (s - low) / (high - low) for s, w in zip(scores, weights)]
    for j, (words, values, color) in enumerate((("softmax", weights, SOFT), ("times the score's place in its range", adjusted, A))):
        at = p.axes(50 + j * 300, 36, 250, 130, "keys", "weight", (), ())
        for i, v in enumerate(values):
            x, y = at(i / len(values), v / 0.45)
            p.rect(x + 2, y, 14, 166 - y, color)
        p.text(50 + j * 300 + 50, 30, words, INK)
    return p


def chosen():
    p = Picture("SnapKV, TOVA and Expected Attention")
    weights = [0.2, 0.5, 0.1, 0.9, 0.3, 0.1, 0.15, 0.7, 0.2, 0.1, 0.05, 0.8, 0.4, 0.1, 0.2, 0.6, 0.1, 0.25, 0.1, 0.3, 0.2, 0.15]
    keep = sorted(range(len(weights)), key=lambda i: -weights[i])[:6]
    for i, w in enumerate(weights):
        p.rect(40 + i * 20, 120 - 80 * w, 16, 80 * w, A if i in keep else GRID)
        p.rect(40 + i * 20, 124, 16, 12, A if i in keep else GRID)
    for i in range(5):
        p.rect(40 + (22 + i) * 20, 124, 16, 12, B)
    place = 0
    for i in sorted(keep):
        p.rect(40 + place * 20, 164, 16, 12, A)
        place += 1
    for i in range(5):
        p.rect(40 + place * 20, 164, 16, 12, B)
        place += 1
    p.text(40, 30, "weight that the choosing queries give each key of the prompt", SOFT)
    p.text(480, 118, "newest", SOFT)
    p.text(40, 198, "the cache behind the prompt, of each layer its own", SOFT)
    return p


def squeezed():
    p = Picture("Squeezed Attention")
    sizes, kept = (5, 3, 6, 4, 7, 3, 5, 4), (1, 4)
    x = 70
    for i, n in enumerate(sizes):
        for k in range(n):
            p.rect(x + k * 11, 110, 9, 22, A if i in kept else GRID)
        p.line([(x + n * 5.5, 106), (x + n * 5.5, 74)], SOFT, 0.8)
        p.rect(x + n * 5.5 - 6, 60, 12, 12, C)
        x += n * 11 + 8
    for k in range(2):
        p.rect(42 + k * 11, 110, 9, 22, B)
    for k in range(4):
        p.rect(x + k * 11, 110, 9, 22, B)
    p.text(40, 46, "the query looks at centroids,", INK)
    p.text(40, 154, "and reads the keys of the best clusters, which lie together", INK)
    p.legend(40, 178, [(C, "centroids")])
    p.legend(150, 178, [(A, "keys that are read")])
    p.legend(310, 178, [(B, "first tokens and last ones: always")])
    return p


def eight_bits():
    p = Picture("Caches in 8 bits")
    p.text(40, 40, "32 values of a key, 16 bits each", SOFT)
    for i in range(32):
        p.rect(40 + i * 17, 50, 15, 30, A)
    p.text(40, 112, "a scale of 16 bits, and 32 numbers of 8 bits", SOFT)
    p.rect(40, 122, 15, 30, B)
    for i in range(32):
        p.rect(58 + i * 8.5, 122, 7, 30, C)
    p.text(40, 180, "64 bytes become 34", INK)
    return p


def windows():
    p = Picture("A window for each layer")
    for i, share in enumerate((0.15, 0.2, 0.9, 1.0, 0.5, 0.3, 0.2, 0.15)):
        y = 32 + i * 19
        p.rect(110, y, 430, 14, GRID)
        p.rect(540 - 430 * share, y, 430 * share, 14, A)
        p.text(100, y + 11, f"layer {i}", SOFT, "end", 11)
    p.text(110, 204, "first token", SOFT)
    p.text(540, 204, "newest", SOFT, "end")
    return p


PICTURES = {
    "anchor": lambda: packed("AnchorAttention", True, False), "intra": lambda: packed("Intra-document attention", False, True),
    "sepllm": sepllm, "streaming": streaming, "scaled": scaled, "base": base, "entropy": entropy, "skipping": skipping,
    "longce": longce, "string": string, "focus": focus, "alibi": alibi, "upsampling": upsampling, "adapters": adapters,
    "bilevel": bilevel, "self-adjusting": self_adjusting, "chosen": chosen, "squeezed": squeezed, "eight-bits": eight_bits,
    "windows": windows,
}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "docs" / "methods")
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().save(folder / f"{name}.svg")
    print(f"{len(PICTURES)} pictures in {folder}")


if __name__ == "__main__":
    main()
