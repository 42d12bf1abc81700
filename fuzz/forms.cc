// Texts of options and recipes. What parses has a text form that parses to the same value.
#include <cmath>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/attn/pattern.h"
#include "hawser/attn/softmax.h"
#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/kv/form.h"
#include "hawser/pos/numerics.h"
#include "hawser/pos/scheme.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/tok/separators.h"
#include "hawser/train/config.h"

namespace hawser::fuzz {
namespace {

/// `parse` of the text of `value` gives `value`.
template <class T, class Parse>
void ExpectSame(const T& value, Parse&& parse) {
  const std::string text = ToString(value);
  try {
    if (parse(text) == value) return;
  } catch (const Error& error) {
    Finding(fmt::format("the text form of a value is refused: {}", error.what()));
  }
  Finding(fmt::format("'{}' parses to another value than the one it is the text of", text));
}

std::vector<std::string> Presets() {
  return {"text", "neox-9", "neox-20", "llama3-9", "llama3-17", "llama3-18", "falcon-13", "sepllm-neox-9"};
}

void RunVariant(std::string_view input) {
  const AttnVariant variant = ParseVariant(input);
  ExpectSame(variant, [](const std::string& text) { return ParseVariant(text); });
  constexpr int32_t kLayers = 4;
  const LayerPatterns patterns = PatternsOfLayers(variant.pattern, kLayers);
  if (patterns.of_layer.size() != kLayers) Finding("a layer has no pattern");
}

void RunRope(std::string_view input) {
  RopeSpec base;
  base.rotary_dim = 16;
  RopeSpec spec = ApplyRopeText(base, input, 2048);
  if (input.starts_with("theta=")) return;  // keeps a scaling of the base
  ExpectSame(spec, [&](const std::string& text) { return ApplyRopeText(base, text, 2048); });
  MaxContext(spec, 2048);
  const RopeFrequencies frequencies = ComputeFrequencies(spec, 4096);
  const int64_t positions[] = {0, 1, 4095, int64_t{1} << 31};
  float cos[4 * 8], sin[4 * 8];
  FillRopeTable(frequencies, positions, 4, cos, sin);
}

void RunKv(std::string_view input) {
  const KvForm form = ParseKvForm(input);
  ExpectSame(form, [](const std::string& text) { return ParseKvForm(text); });
  for (int32_t layer = 0; layer < 3; ++layer) form.OfLayer(layer, 3);
}

void RunRecipe(std::string_view input) {
  TrainConfig config;
  ApplyRecipe(config, input, "recipe");
  const std::string text = ToToml(config);
  TrainConfig again;
  try {
    ApplyRecipe(again, text, "recipe");
  } catch (const Error& error) {
    Finding(fmt::format("a recipe as it is written is refused: {}", error.what()));
  }
  if (ToToml(again) != text || !KeysThatMatter(config, again).empty()) Finding("a recipe comes back as another");
  Validate(config);
  if (config.model.empty()) ScratchSpec(config, 300);
}

std::vector<std::string> RecipeWords() {
  std::vector<std::string> words = {"\"x\"",  "true",    "1e300",   "nan",      "inf",        "[]",
                                    "[1, 2]", "{a = 1}", "[model]", "''",       "'''",        "\"\"\"",
                                    "[[a]]",  "1e3",     "0x7fff",  "\"bf16\"", "1979-05-27", "[a.b]"};
  const std::string text = ToToml(TrainConfig());
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    words.push_back(text.substr(begin, text.find(' ', begin) - begin));
    words.push_back(text.substr(begin, end - begin) + "\n");
    begin = end + 1;
  }
  return words;
}

void RunSeparators(std::string_view input) {
  static const testing::ByteTokenizer tokenizer;
  SeparatorFlags(tokenizer, input);
}

}  // namespace

std::vector<Target> FormTargets() {
  const auto rope_words = [] {
    std::vector<std::string> words = {"default",
                                      "linear",
                                      "ntk",
                                      "dynamic",
                                      "yarn",
                                      "llama3",
                                      "theta=5e6",
                                      "factor",
                                      "original",
                                      "beta_fast",
                                      "beta_slow",
                                      "ramp",
                                      "rotations",
                                      "index",
                                      "truncate",
                                      "blend",
                                      "period",
                                      "frequency",
                                      "attention_factor",
                                      "mscale",
                                      "mscale_all_dim",
                                      "low",
                                      "high",
                                      "numerics",
                                      "string",
                                      "string:shift=700,window=28",
                                      "temperature",
                                      "1e30",
                                      "1.5",
                                      "8",
                                      "nan",
                                      "inf",
                                      "1e-300"};
    for (const RopeNumericsName& named : NamedRopeNumerics()) words.emplace_back(named.name);
    return words;
  };
  return {
      {.name = "pattern",
       .seeds =
           [] {
             return std::vector<std::string>{"full",
                                             "intra-reset",
                                             "anchor-tag",
                                             "multi-bos",
                                             "intra-interleaved",
                                             "scope=doc anchors=1 sinks=3 window=256 sep",
                                             "window=2+all+5+7 every=3",
                                             "sinks=4 window=8 sep=neox-20 full-layers=0+-1"};
           },
       .run = RunVariant,
       .mutate =
           WordMutator({"full", "intra", "anchor", "multi-bos", "reset", "tag", "interleaved", "scope", "doc", "seq",
                        "window", "all", "full-layers", "sinks", "anchors", "sep", "every", "text", "neox-20"},
                       " =+-")},
      {.name = "rope",
       .seeds =
           [] {
             return std::vector<std::string>{
                 "default",
                 "linear:factor=8",
                 "ntk:factor=4,theta=5e5",
                 "dynamic:factor=2,original=512",
                 "yarn:factor=8,original=4096,beta_fast=16,ramp=rotations,blend=period,mscale=1,mscale_all_dim=0.5",
                 "llama3:factor=8,low=1,high=4,original=8192,numerics=hf-f32",
                 "theta=5e6"};
           },
       .run = RunRope,
       .mutate = WordMutator(rope_words(), ":,=+")},
      {.name = "numerics",
       .seeds =
           [] {
             std::vector<std::string> names = {"inv_freq=f32+angle=iterated+qk=bf16"};
             for (const RopeNumericsName& named : NamedRopeNumerics()) names.emplace_back(named.name);
             return names;
           },
       .run =
           [](std::string_view input) {
             ExpectSame(ParseRopeNumerics(input), [](const std::string& text) { return ParseRopeNumerics(text); });
           },
       .mutate = WordMutator({"inv_freq", "positions", "angle", "table", "math", "qk", "f64", "f32", "tf32", "f16",
                              "bf16", "turns", "iterated"},
                             "=+")},
      {.name = "kv",
       .seeds =
           [] {
             return std::vector<std::string>{"full",
                                             "window:256",
                                             "sink:4,all",
                                             "sep:4,64+all+32,full-layers=0+2",
                                             "fix:4,64,8",
                                             "sep-stream:4,64,256,800,policy=full,accumulate=off",
                                             "sepcache:init_cache_size=2,local_size=8,APPLY_PE_SHIFT=True",
                                             "sep-stream:1+2+3,3,4,90,dtype=q8_0,sep=13+11"};
           },
       .run = RunKv,
       .mutate = WordMutator({"full",
                              "window",
                              "sink",
                              "sep",
                              "fix",
                              "sep-stream",
                              "sepcache",
                              "all",
                              "positions",
                              "absolute",
                              "rank",
                              "cachelen",
                              "policy",
                              "overflow",
                              "prefill",
                              "sparse",
                              "dense",
                              "full-layers",
                              "accumulate",
                              "bounded",
                              "on",
                              "off",
                              "dtype",
                              "f32",
                              "bf16",
                              "q8_0",
                              "text",
                              "init_cache_size",
                              "sep_cache_size",
                              "local_size",
                              "cache_size",
                              "SEP_ACCUMULATION",
                              "USE_MAX_SEP_CACHE",
                              "APPLY_PE_SHIFT",
                              "separator_token_ids",
                              "true",
                              "False",
                              "a",
                              "n",
                              "w",
                              "c",
                              "s",
                              "d",
                              "W"},
                             ":,=+")},
      {.name = "softmax",
       .seeds =
           [] {
             return std::vector<std::string>{"standard", "self-adjust", "self-adjust:nb=0.5,db=2",
                                             "self-adjust-product"};
           },
       .run =
           [](std::string_view input) {
             ExpectSame(ParseSoftmax(input), [](const std::string& text) { return ParseSoftmax(text); });
           },
       .mutate = WordMutator(
           {"standard", "self-adjust", "self-adjust-product", "nb", "db", "0", "1e29", "1e-30", "nan"}, ":,=")},
      {.name = "separators",
       .seeds =
           [] {
             return std::vector<std::string>{"text", "13+11", "text+5+250"};
           },
       .run = RunSeparators,
       .mutate = WordMutator(Presets(), "+-")},
      {.name = "recipe",
       .seeds =
           [] {
             TrainConfig scratch, extend;
             scratch.dims = {.vocab = 300, .width = 32, .layers = 2, .heads = 4};
             scratch.context = 128;
             scratch.data = {"a.txt"};
             scratch.steps = 3;
             extend.model = "model";
             extend.data = {"a", "b.jsonl"};
             extend.tokens = 1 << 20;
             extend.anchor = {1, 2};
             return std::vector<std::string>{
                 ToToml(scratch), ToToml(extend),
                 "data = 'x'\nsteps = 2e3\ncontext = 64\n[model]\nwidth = 64\nlayers = 1\nheads = 2\n"};
           },
       .run = RunRecipe,
       .mutate = WordMutator(RecipeWords(), "\n =,[]{}\"'.#")},
      {.name = "setting",
       .seeds =
           [] {
             return std::vector<std::string>{"lr=1e-3", "data=a.txt", "anchor=[1, 2]", "schedule=wsd"};
           },
       .run =
           [](std::string_view input) {
             TrainConfig config;
             ApplySetting(config, input);
           },
       .mutate = WordMutator(RecipeWords(), "=.,[]\"'\n")},
  };
}

}  // namespace hawser::fuzz
