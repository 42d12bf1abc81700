// Files in JSON, and lines of it.
#include <filesystem>
#include <limits>
#include <span>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/plot_input.h"
#include "hawser/infer/generation.h"
#include "hawser/io/json.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/metrics.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/hf_config.h"

namespace hawser::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> ConfigWords() {
  return {"model_type",
          "llama",
          "mistral",
          "qwen2",
          "vocab_size",
          "hidden_size",
          "num_hidden_layers",
          "num_attention_heads",
          "num_key_value_heads",
          "head_dim",
          "intermediate_size",
          "rms_norm_eps",
          "tie_word_embeddings",
          "max_position_embeddings",
          "sliding_window",
          "bos_token_id",
          "eos_token_id",
          "rope_theta",
          "rope_scaling",
          "rope_parameters",
          "rope_type",
          "type",
          "factor",
          "yarn",
          "linear",
          "dynamic",
          "llama3",
          "longrope",
          "ntk",
          "default",
          "original_max_position_embeddings",
          "beta_fast",
          "beta_slow",
          "mscale",
          "mscale_all_dim",
          "truncate",
          "attention_factor",
          "low_freq_factor",
          "high_freq_factor",
          "short_factor",
          "long_factor",
          "layer_types",
          "full_attention",
          "partial_rotary_factor",
          "hidden_act",
          "attention_bias",
          "quantization_config",
          "pretraining_tp",
          "context",
          "rope",
          "softmax",
          "segment_places",
          "segment_separators",
          "yarn:factor=4",
          "self-adjust"};
}

ModelSpec Spec(std::string_view rope = "default") {
  ModelSpec spec = TinySpec();
  spec.rope = ApplyRopeText(spec.rope, rope, 32);
  return spec;
}

/// The least that a family's config.json says.
std::string ConfigOf(const Family& family) {
  nlohmann::json config = {{"model_type", family.model_type}, {"vocab_size", 64}};
  const FamilyKeys& keys = family.keys;
  const std::pair<std::string_view, int> sizes[] = {{keys.width, 32},   {keys.layers, 2},   {keys.heads, 4},
                                                    {keys.kv_heads, 2}, {keys.head_dim, 8}, {keys.mlp_width, 48},
                                                    {keys.context, 128}};
  for (const auto& [key, size] : sizes) {
    if (!key.empty()) config[std::string(key.substr(0, key.find('|')))] = size;
  }
  return config.dump();
}

std::vector<std::string> Configs() {
  std::vector<std::string> texts;
  for (const Family& family : Families()) texts.push_back(ConfigOf(family));
  for (const char* rope : {"default", "linear:factor=4", "dynamic:factor=2", "yarn:factor=4", "llama3:factor=8"}) {
    texts.push_back(HfConfigText(Spec(rope), DType::kF32));
  }
  texts.push_back(
      R"({"model_type": "mistral", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8,
          "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 16, "eos_token_id": [2, 3]})");
  return texts;
}

/// config.json, and what a folder of this program is written with for it.
void RunConfig(std::string_view input) {
  const ModelSpec config = ParseHfConfig(input);
  const ModelSpec spec = MergeSideFile(config, "");
  std::string text;
  try {
    text = HfConfigText(spec, DType::kBF16);
    ParseHfConfig(text);
    SideFileText(spec, text);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kFormat) Finding(fmt::format("a written config.json is refused: {}", error.what()));
    throw;
  }
}

std::vector<std::string> Manifests() {
  // Made by the writer; the state beside it stays the one that it names.
  const fs::path folder = fs::path(InFile("checkpoints/x", "")).parent_path();
  static ParamStore weights = TinyModel(TinySpec({.vocab = 8, .layers = 1}), 1);
  SaveCheckpoint(folder, {.step = 1, .sequences = 4, .tokens = 64, .loss = 2, .recipe = "steps = 1"},
                 {.weights = &weights}, 1);
  return {ReadFile(folder / "step_000001" / "manifest.json")};
}

void RunManifest(std::string_view input) {
  static const std::vector<std::string> made = Manifests();
  const fs::path manifest = InFile("checkpoints/step_000001/manifest.json", input);
  LoadCheckpoint(manifest.parent_path().parent_path(), {});
}

/// Most are sealed again, so that more than the seal is looked at.
std::string MutateManifest(std::string_view input, Rng& rng) {
  static const Mutator one = JsonMutator({"step", "format", "sequences", "state_hash", "state_bytes", "loss", "seal"});
  std::string text = one(input, rng);
  nlohmann::json json = ToMutate(text);
  if (!json.is_object() || rng.Below(4) == 0) return text;
  SealManifest(&json);
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void RunMetrics(std::string_view input) {
  const std::string path = InFile("metrics.jsonl", input);
  const size_t lines = ReadMetrics(path).size();
  { MetricsLog log(path, std::numeric_limits<int64_t>::max()); }
  if (ReadMetrics(path).size() != lines) Finding("opening metrics for appending drops whole lines");
}

void RunDocuments(std::string_view input) {
  static const testing::ByteTokenizer tokenizer;
  DocumentSet set = LoadDocuments({InFile("data.jsonl", input)}, tokenizer);
  set.MakeTags(tokenizer);
  int64_t tokens = 0;
  for (int64_t d = 0; d < set.size(); ++d) tokens += static_cast<int64_t>(set.Get(d).tokens.size());
  if (tokens != set.tokens()) Finding("documents have other tokens than their set says");
}

}  // namespace

std::vector<Target> JsonTargets() {
  return {
      {.name = "json",
       .seeds = [] { return std::vector<std::string>{R"({"a": [1, -2.5e3, "x\u00e9", null, true, {}]})"}; },
       .run =
           [](std::string_view input) {
             const nlohmann::json value = ParseJson(input);
             if (ParseJson(value.dump()) != value) Finding("JSON comes back as another value");
           },
       .mutate = JsonMutator({"a", "b"})},
      {.name = "config", .seeds = Configs, .run = RunConfig, .mutate = JsonMutator(ConfigWords())},
      {.name = "generation_config",
       .seeds = [] { return std::vector<std::string>{GenerationConfigText(Spec())}; },
       .run =
           [](std::string_view input) {
             ModelSpec spec = Spec();
             MergeGenerationConfig(input, spec);
           },
       .mutate = JsonMutator(ConfigWords())},
      {.name = "hawser_spec",
       .seeds =
           [] {
             ModelSpec spec = Spec("yarn:factor=4,ramp=rotations");
             spec.softmax = ParseSoftmax("self-adjust");
             spec.segments = {.places = 3, .separators = {2, 9}};
             return std::vector<std::string>{SideFileText(spec, HfConfigText(spec, DType::kF32))};
           },
       .run =
           [](std::string_view input) {
             static const ModelSpec config =
                 ParseHfConfig(HfConfigText(Spec("yarn:factor=4,ramp=rotations"), DType::kF32));
             MergeSideFile(config, input);
           },
       .mutate = JsonMutator(ConfigWords())},
      {.name = "manifest", .seeds = Manifests, .run = RunManifest, .mutate = MutateManifest},
      {.name = "metrics",
       .seeds =
           [] {
             return std::vector<std::string>{"{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"validation_loss\": 3}\n"};
           },
       .run = RunMetrics,
       .mutate = JsonLinesMutator({"step", "loss", "lr", "tokens_per_s"})},
      {.name = "documents",
       .seeds =
           [] {
             return std::vector<std::string>{
                 "{\"text\": \"one\", \"source\": \"web\"}\n{\"text\": \"two\"}\n",
                 "{\"input_ids\": [1, 2, 3, 4], \"source\": [{\"end\": 1}, {\"start\": 1, \"end\": 4, \"source\": "
                 "\"x\"}]}\n"};
           },
       .run = RunDocuments,
       .mutate = JsonLinesMutator({"text", "source", "input_ids", "start", "end"})},
      {.name = "plot",
       .seeds =
           [] {
             return std::vector<std::string>{
                 R"({"title": "t", "x": {"label": "tokens", "scale": "log2"}, "y": {"scale": "log10", "min": 1},
                     "series": [{"name": "a", "x": [1, 2, 4], "y": [3, null, 5]}, {"x": [1], "y": [2], "dashed": true}],
                     "marks": [{"x": 2, "name": "here"}]})"};
           },
       .run =
           [](std::string_view input) {
             const fs::path file = InFile("plot.json", input);
             RenderSvg(PlotOfFiles(std::span(&file, 1), ""));
           },
       .mutate = JsonMutator({"title", "subtitle", "x", "y", "series", "marks", "label", "scale", "min", "max",
                              "linear", "log2", "log10", "name", "dashed"})},
      {.name = "text_state",
       .seeds = [] { return std::vector<std::string>{R"({"pending": [1], "seen": [1, 2], "rng": [1, 2, 3]})"}; },
       .run = [](std::string_view input) { ParseTextState(ParseJson(input), 64); },
       .mutate = JsonMutator({"pending", "seen", "rng"})},
  };
}

}  // namespace hawser::fuzz
