#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

/// Bytes of the keys and values that one token adds to a full cache.
int64_t KvBytes(const ModelSpec& spec, DType dtype) {
  return int64_t{2} * spec.layers * spec.kv_heads * spec.head_dim * static_cast<int64_t>(SizeOf(dtype));
}

nlohmann::json Describe(const LoadedModel& model) {
  const ModelSpec& spec = model.spec;
  nlohmann::json tokenizer;
  if (model.tokenizer != nullptr) {
    tokenizer = {{"kind", model.tokenizer->Kind()},
                 {"vocab", model.tokenizer->vocab_size()},
                 {"bos", model.tokenizer->bos()},
                 {"eos", model.tokenizer->eos()}};
  }
  return {{"architecture", spec.family},
          {"parameters", NumParameters(spec)},
          {"layers", spec.layers},
          {"width", spec.width},
          {"heads", spec.heads},
          {"kv_heads", spec.kv_heads},
          {"head_dim", spec.head_dim},
          {"mlp_width", spec.mlp_width},
          {"vocab", spec.vocab},
          {"context", spec.context},
          {"positions", PlacesText(spec)},
          {"softmax", ToString(spec.softmax)},
          {"segment_places", spec.segments.places},
          {"sliding_window", spec.sliding_window > 0 ? nlohmann::json(spec.sliding_window) : nullptr},
          {"full_layers", spec.full_layers},
          {"tied", spec.tie_embeddings},
          {"bos", spec.bos},
          {"eos", spec.eos},
          {"dtype", Name(model.file_dtype)},
          {"format", model.format},
          {"tokenizer", tokenizer},
          {"kv_bytes_per_token", {{"f32", KvBytes(spec, DType::kF32)}, {"bf16", KvBytes(spec, DType::kBF16)}}}};
}

void PrintForPeople(const LoadedModel& model) {
  const ModelSpec& spec = model.spec;
  std::vector<std::pair<const char*, std::string>> lines = {
      {"architecture", spec.family},
      {"parameters", fmt::format("{}{}", NumParameters(spec), spec.tie_embeddings ? " (embedding and head tied)" : "")},
      {"layers", fmt::format("{}", spec.layers)},
      {"width", fmt::format("{}, mlp {}", spec.width, spec.mlp_width)},
      {"heads", fmt::format("{} of {}, {} key-value", spec.heads, spec.head_dim, spec.kv_heads)},
      {"vocabulary", fmt::format("{}", spec.vocab)},
      {"context", fmt::format("{} tokens", spec.context)},
      {"positions", PlacesText(spec)},
      {"kv cache",
       fmt::format("{} bytes a token in f32, {} in bf16", KvBytes(spec, DType::kF32), KvBytes(spec, DType::kBF16))},
      {"format", fmt::format("{}, {}", model.format, Name(model.file_dtype))},
      {"tokenizer", model.tokenizer == nullptr
                        ? "none; pass --tokenizer FILE"
                        : fmt::format("{}, {} ids, bos {}, eos {}", model.tokenizer->Kind(),
                                      model.tokenizer->vocab_size(), model.tokenizer->bos(), model.tokenizer->eos())}};
  if (spec.segments.places > 0) {
    lines.insert(lines.end() - 3, {"segments", fmt::format("{} places, ended by {} of the token ids",
                                                           spec.segments.places, spec.segments.separators.size())});
  }
  if (spec.softmax != SoftmaxSpec()) lines.insert(lines.end() - 3, {"softmax", ToString(spec.softmax)});
  if (spec.sliding_window > 0) {
    const std::string except =
        spec.full_layers.empty() ? "" : fmt::format("; none in layers {}", fmt::join(spec.full_layers, ", "));
    lines.insert(lines.end() - 3, {"window", fmt::format("{} tokens, self included{}", spec.sliding_window, except)});
  }
  std::string text;
  for (const auto& [name, value] : lines) text += fmt::format("{:<13}{}\n", name, value);
  PrintText(text);
}

}  // namespace

std::function<int()> SetupInfo(Command command, CommonOptions& common) {
  auto options = std::make_shared<ModelOptions>();
  AddModelOptions(command, *options);
  return [options, &common] {
    const LoadedModel model = InspectModel(options->model, options->tokenizer);
    common.json ? PrintJson(Describe(model)) : PrintForPeople(model);
    return 0;
  };
}

}  // namespace hawser
