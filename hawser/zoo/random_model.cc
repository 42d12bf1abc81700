#include "hawser/zoo/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"
#include "hawser/zoo/builtin.h"

namespace hawser {
namespace {

/// 0: left out.
struct Sizes {
  int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, mlp = 0, vocab = 0, context = 0, tie = 0;
};

/// Sizes that models are published in.
struct NamedSizes {
  std::string_view name;
  Sizes sizes;
};
constexpr NamedSizes kNamed[] = {
    {"135m", {576, 30, 9, 3, 64, 1536, 49152, 8192, 1}},     {"360m", {960, 32, 15, 5, 64, 2560, 49152, 8192, 1}},
    {"1.1b", {2048, 22, 32, 4, 64, 5632, 32000, 2048, 0}},   {"1.7b", {2048, 24, 32, 32, 64, 8192, 49152, 8192, 1}},
    {"3b", {3072, 28, 24, 8, 128, 8192, 128256, 131072, 1}}, {"7b", {4096, 32, 32, 32, 128, 11008, 32000, 4096, 0}},
    {"8b", {4096, 32, 32, 8, 128, 14336, 128256, 8192, 0}},
};

struct Key {
  std::string_view name;
  int64_t Sizes::*size;
};
constexpr Key kKeys[] = {
    {"width", &Sizes::width},       {"layers", &Sizes::layers},     {"heads", &Sizes::heads},
    {"kv_heads", &Sizes::kv_heads}, {"head_dim", &Sizes::head_dim}, {"mlp", &Sizes::mlp},
    {"vocab", &Sizes::vocab},       {"context", &Sizes::context},   {"tie", &Sizes::tie},
};

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  return lower;
}

Sizes ParseSizes(std::string_view shape) {
  Sizes sizes;
  for (const std::string_view part : SplitAt(shape, ',')) {
    const size_t equals = part.find('=');
    if (equals == part.npos) {
      const auto named = std::ranges::find_if(kNamed, [&](const NamedSizes& n) { return n.name == Lower(part); });
      if (named == std::end(kNamed) || part.data() != shape.data()) {
        Fail(ErrorKind::kUsage, "--random {}: '{}' is no shape; it is {}", shape, part, ShapeHelp());
      }
      sizes = named->sizes;
      continue;
    }
    const auto key = std::ranges::find(kKeys, part.substr(0, equals), &Key::name);
    const std::optional<int64_t> value = ParseSize(part.substr(equals + 1));
    constexpr int64_t kMost = 1 << 26;
    if (key == std::end(kKeys) || !value || *value < 0 || *value > kMost) {
      Fail(ErrorKind::kUsage, "--random {}: '{}' is no size of a model; a shape is {}", shape, part, ShapeHelp());
    }
    sizes.*key->size = *value;
  }
  return sizes;
}

ModelSpec SpecOf(std::string_view shape, Sizes s, int64_t vocab) {
  constexpr int64_t kHead = 64;
  const auto or_else = [](int64_t& size, int64_t fallback) {
    if (size == 0) size = fallback;
  };
  if (s.width == 0 || s.layers == 0) {
    Fail(ErrorKind::kUsage, "--random {}: a shape has a width and layers; it is {}", shape, ShapeHelp());
  }
  or_else(s.heads, std::max<int64_t>(1, s.width / (s.head_dim > 0 ? s.head_dim : kHead)));
  or_else(s.kv_heads, s.heads);
  or_else(s.head_dim, s.width / s.heads);
  or_else(s.mlp, (s.width * 8 / 3 + 63) / 64 * 64);
  or_else(s.vocab, vocab);
  or_else(s.context, 2048);
  const auto narrow = [](int64_t size) { return static_cast<int32_t>(size); };
  ModelSpec spec{.vocab = narrow(s.vocab),
                 .width = narrow(s.width),
                 .layers = narrow(s.layers),
                 .heads = narrow(s.heads),
                 .kv_heads = narrow(s.kv_heads),
                 .head_dim = narrow(s.head_dim),
                 .mlp_width = narrow(s.mlp),
                 .tie_embeddings = s.tie != 0,
                 .context = s.context};
  spec.rope.rotary_dim = spec.head_dim;
  try {
    Validate(spec);
  } catch (const Error& error) {  // sizes of a command, not of a file
    Fail(ErrorKind::kUsage, "--random {}: {}", shape, error.what());
  }
  return spec;
}

constexpr int64_t kVocab = 32000;

}  // namespace

std::string ShapeHelp() {
  std::vector<std::string_view> names, keys;
  for (const NamedSizes& named : kNamed) names.push_back(named.name);
  for (const Key& key : kKeys) keys.push_back(key.name);
  return fmt::format("{}, or sizes as layers=2,width=64 ({}), or both", fmt::join(names, ", "), fmt::join(keys, ", "));
}

ModelSpec ParseShape(std::string_view shape) { return SpecOf(shape, ParseSizes(shape), kVocab); }

LoadedModel RandomModel(std::string_view shape, uint64_t seed, const std::filesystem::path& tokenizer) {
  LoadedModel model{.format = "random weights", .file_dtype = DType::kBF16};
  if (!tokenizer.empty()) model.tokenizer = LoadTokenizer(ResolveModel(tokenizer));
  const int64_t ids = model.tokenizer != nullptr ? model.tokenizer->vocab_size() : 0;
  model.spec = SpecOf(shape, ParseSizes(shape), ids > 0 ? ids : kVocab);
  if (ids > model.spec.vocab) {
    Fail(ErrorKind::kFormat, "{}: the tokenizer has {} ids, the shape {} only {}", tokenizer.string(), ids, shape,
         model.spec.vocab);
  }
  if (model.tokenizer != nullptr) {
    model.spec.bos = model.tokenizer->bos();
    if (model.tokenizer->eos() >= 0) model.spec.eos = {model.tokenizer->eos()};
  }
  model.params = ParamStore(model.spec, DType::kF32);
  InitializeParams(model.params, seed);
  return model;
}

}  // namespace hawser
