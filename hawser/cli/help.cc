// hawser help: more of a command, or a page on a text form that several commands take.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "hawser/attn/softmax.h"
#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/cli/command.h"
#include "hawser/kv/form.h"
#include "hawser/pos/alibi.h"
#include "hawser/pos/numerics.h"
#include "hawser/pos/position_map.h"
#include "hawser/pos/scheme.h"
#include "hawser/train/config.h"
#include "hawser/train/objective.h"

namespace hawser {
namespace {

std::string KvPage() {
  return "--kv FORM: what stays in the cache. Numbers are tokens, and may be written as 4k.\n\n" + KvFormHelp() +
         R"(
A number may be given by its letter (sep:a=3,n=256), and as one for each layer (sep:3,256+64+all).
options:
  positions=rank      a key stands at its slot, so that a text may go on for ever (sink, sep-stream: the default)
  positions=absolute  a key stands where it stands in the text (all others: the default)
  positions=cachelen  a key stands at the number of keys held when it came
  policy=overflow     compress after a token that made more than c (default); full: before one that would make c
  prefill=dense       tokens of a prompt see all of it (tova: the default; others: what the policy lets them see)
  full-layers=0+31    layers that keep everything; negative: from the last
  sep=FORM            which tokens separate; see help separators
  accumulate=off      each compression drops the separators that an earlier one kept
  bounded=off         all separators are kept, and c counts beyond them
  dtype=q8_0          keys and values in 8 bits; also f32, bf16 (full:dtype=q8_0)
)";
}

std::string RopePage() {
  return "--rope FORM: where a token stands. NAME:key=value,key=value, or theta=B.\n\n" + RopeHelp() +
         "\nof models with biases by distance (ALiBi):\n" + AlibiHelp() + R"(
keys:
  factor      how many times the original context; without it, the one that reaches --context
  original    tokens of the context the model was first trained on (default: the model's; 4k is 4096)
  theta       the base (default: the model's)
  numerics    how rotations are rounded; see help numerics
  q_temp      queries grow with their position p: logn by ln(p + 1) / ln(q_context), 1 at least; floor_log by
              1 + q_rate ln(floor((p + 1) / q_context) + 1)
  q_context   tokens of the context without growth (default: that of the model before it was scaled)
  q_first     first layer that scales (default: 2 of logn, 0 of floor_log)
  q_rate      of floor_log (default: 0.1)
  max_bias    of alibi: what the flattest slope of a power of two of heads is, as -log2 (default: the model's)
)";
}

std::string AttentionPage() {
  return R"(--attention FORM: what a token sees. A name, or fields joined by blanks.

names (arXiv:2411.13476):
  full          every earlier token
  intra         every earlier token of its document
  anchor        its document, and the first token of the sequence, which all documents share
  multi-bos     its document, which begins with a copy of the anchor at position 0
and behind a name of documents:
  -reset        positions restart at every document
  -tag          every document begins with the name of its source, not trained on
  -interleaved  documents are cut in chunks that are shuffled between one another

fields:
  scope=doc|seq       tokens of the document, or of the whole sequence
  window=W            the last W tokens, self included; all; or one a layer: window=64+64+all
  anchors=A           the first A tokens of the sequence
  sinks=S             the first S tokens of the document
  sep, sep=FORM       tokens that separate; see help separators
  every=D             each D-th token
  full-layers=0+31    layers that see everything; negative: from the last
  reset tag interleaved multi-bos   as behind a name

`hawser inspect pattern FORM` draws it.
)";
}

std::string PositionsPage() {
  return "--positions FORM: training on short sequences whose positions skip, up to those of --context.\n"
         "NAME:field=value,field=value; in brackets what holds where nothing is said.\n\n" +
         FormHelp<PositionMap>() + R"(
A text is a document, or the whole sequence where documents see each other (full). Each draws its own skips, and its
last position stays below --context. The trained model is served with ordinary positions.
)";
}

std::string ObjectivePage() {
  return "--objective FORM: what a run minimises.\n"
         "NAME:field=value,field=value; in brackets what holds where nothing is said.\n\n" +
         FormHelp<Objective>();
}

std::string NumericsPage() {
  std::string text = "rope numerics (numerics=FORM in --rope, drift --pipeline, rope_numerics of a recipe):\n\n";
  for (const RopeNumericsName& named : NamedRopeNumerics()) {
    text += fmt::format("  {:<15} {}\n", named.name, named.summary);
  }
  return text + "\nor fields joined by +: inv_freq=bf16+table=bf16 (docs/NUMERICS.md)\n";
}

std::string SoftmaxPage() { return "softmax (recipe key, --set softmax=FORM):\n\n" + SoftmaxHelp(); }

std::string SeparatorsPage() {
  return R"(separators (sep=FORM in --kv and --attention, segment_separators of a recipe):

  text              tokens that hold one of . , ? ! ; : or a line break, or are blank (default)
  NAME              the ids of a published model: neox-9, neox-20, llama3-9, llama3-17, llama3-18, falcon-13
  13+11             these token ids; parts are joined by +

`hawser inspect separators MODEL --sep FORM` lists what a form means for a vocabulary; with --data F --attention also
how much attention a model pays them.
)";
}

std::string GrammarPage() {
  return R"(--grammar FILE (generate), or "grammar" of a request (serve): what a text may be, in the notation of llama.cpp
(GBNF).

  root ::= greeting ", " name+ ("!" | "?")     # what a text is; # begins a comment
  greeting ::= "hello" | "good " [dm] "ay"     # texts, characters, choices, other rules
  name ::= [A-Z] [^ \x00-\x1f]{2,9} " "?       # classes, not these, how often

how often:  * any  + one or more  ? none or one  {3}  {3,}  {3,9}
escapes:    \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH; . is any character
A rule must not begin with itself, and every text needs an end. A rule ends with its line, but not inside of
parentheses or behind |. --json-schema FILE makes the grammar of a JSON Schema (docs/SERVE.md).
)";
}

std::string RecipePage() {
  std::string text =
      "Keys of a recipe (TOML) and of --set key=value, with what holds where nothing is said.\n"
      "Whole numbers may be sizes: --set context=16k, or context = \"16k\" in a file. Keys of a model from scratch,\n"
      "model.width and so on, stand in the table [model] of a file.\n\n";
  for (const RecipeKey& key : RecipeKeys()) {
    std::string help(key.help);
    std::erase(help, '`');
    text += fmt::format("{} = {}\n    {}\n", key.key, key.standard, help);
  }
  return text;
}

std::string SizesPage() {
  return R"(sizes: every option that takes a whole number takes 4096, 4k, 16K, 1M, 2G and 2e6.
k, M, G and T are powers of 1024 (16k is 16384); an exponent is decimal (2e6 is 2000000).
)";
}

struct Page {
  std::string_view name;
  std::string (*text)();
};
constexpr Page kPages[] = {{"kv", KvPage},
                           {"rope", RopePage},
                           {"attention", AttentionPage},
                           {"positions", PositionsPage},
                           {"objective", ObjectivePage},
                           {"numerics", NumericsPage},
                           {"softmax", SoftmaxPage},
                           {"separators", SeparatorsPage},
                           {"grammar", GrammarPage},
                           {"recipe", RecipePage},
                           {"sizes", SizesPage}};

std::string PageNames() {
  std::vector<std::string_view> names;
  for (const Page& page : kPages) names.push_back(page.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::function<int()> SetupHelp(Command command, CommonOptions& common) {
  auto words = std::make_shared<std::vector<std::string>>();
  command.Add("TOPIC", *words, fmt::format("A command (inspect data), or {}", PageNames()));
  return [words, command, &common] {
    std::optional<std::string> text;
    std::vector<std::string_view> names;
    for (const Page& page : kPages) {
      names.push_back(page.name);
      if (words->size() == 1 && words->front() == page.name) text = page.text();
    }
    if (!text) text = command.HelpOf(*words);
    if (!text) {
      const std::vector<std::string> commands = command.SiblingNames();
      names.insert(names.end(), commands.begin(), commands.end());
      const std::string topic = fmt::format("{}", fmt::join(*words, " "));
      Fail(ErrorKind::kUsage, "no help on '{}'{}", topic, SuggestName(topic, names));
    }
    if (words->empty()) {
      *text += fmt::format("\nPages on text forms: help {}\n", PageNames());
    }
    common.json ? PrintJson({{"topic", fmt::format("{}", fmt::join(*words, " "))}, {"text", *text}}) : PrintText(*text);
    return 0;
  };
}

}  // namespace hawser
