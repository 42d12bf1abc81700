#include "hawser/eval/fit_kept.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "hawser/attn/schedule.h"
#include "hawser/base/error.h"
#include "hawser/model/kv_shape.h"

namespace hawser {
namespace {

constexpr int32_t kChunk = 4096;      // tokens
constexpr double kNearEnough = 0.05;  // of what is wanted

/// Rows as narrow as can be, and nothing to rotate: what is kept hangs on tokens and layers alone.
ModelSpec Narrow(const ModelSpec& spec) {
  ModelSpec narrow = spec;
  narrow.heads = narrow.kv_heads = 1;
  narrow.head_dim = narrow.rope.rotary_dim = 8;
  narrow.rope = {.rotary_dim = 8};
  narrow.local_rope.reset();
  narrow.places = Places::kNone;
  return narrow;
}

double KeptByCache(Backend* backend, const ModelSpec& spec, const KvForm& form, std::span<const int32_t> ids,
                   std::vector<uint8_t> separators) {
  KvForm plain = form;
  plain.dtype.reset();
  KvCache cache =
      NewKvCache(backend, Narrow(spec), plain, std::move(separators), DType::kF32, static_cast<int64_t>(ids.size()));
  const int64_t prompt = DensePrompt(form, static_cast<int64_t>(ids.size()));
  if (prompt > 0) cache.BeginPrefill(prompt);
  while (!ids.empty()) {
    const int64_t left = prompt - cache.seen();  // of the prompt
    KvCache::Chunk chunk = cache.Begin(ids, static_cast<int32_t>(left > 0 ? std::min<int64_t>(left, kChunk) : kChunk));
    ids = ids.subspan(static_cast<size_t>(chunk.size()));
    chunk.Commit();
    if (cache.seen() == prompt) cache.EndPrefill();
  }
  return cache.usage().mean;
}

double KeptByPattern(const ModelSpec& spec, const LayeredPattern& pattern, std::span<const int32_t> ids,
                     const std::vector<uint8_t>& separators) {
  const LayerPatterns layers = PatternsOfLayers(pattern, spec.layers, OwnPattern(spec));
  TokenLayout layout{.size = static_cast<int32_t>(ids.size())};
  if (pattern.separators) {
    for (const int32_t id : ids) layout.is_separator.push_back(separators[static_cast<size_t>(id)]);
  }
  std::vector<double> pairs;
  for (const AttnPattern& of : layers.distinct) {
    pairs.push_back(static_cast<double>(CompileSchedule(of, layout).visible_pairs));
  }
  double sum = 0;
  for (const size_t i : layers.of_layer) sum += pairs[i] / static_cast<double>(layers.of_layer.size());
  return sum / static_cast<double>(ids.size());
}

}  // namespace

double KeptKeys(Backend* backend, const ModelSpec& spec, const Sight& sight,
                std::span<const std::vector<int32_t>> texts,
                const std::function<std::vector<uint8_t>(const std::string& form)>& separators) {
  if (sight.index) {
    Fail(ErrorKind::kUsage, "behind an index all keys are kept and a share of them is read: say it as keep=0.1");
  }
  const std::vector<uint8_t> flags = separators(sight.kv ? sight.kv->separator_set : sight.pattern.separator_set);
  double sum = 0, tokens = 0;
  for (const std::vector<int32_t>& ids : texts) {
    if (ids.empty()) continue;
    const double kept =
        sight.kv ? KeptByCache(backend, spec, *sight.kv, ids, flags) : KeptByPattern(spec, sight.pattern, ids, flags);
    sum += kept * static_cast<double>(ids.size());
    tokens += static_cast<double>(ids.size());
  }
  return sum / std::max(1.0, tokens);
}

std::string FitNumber(std::string_view text, double wanted, int64_t most,
                      const std::function<double(const std::string& text)>& kept) {
  const size_t mark = text.find('?');
  HAWSER_CHECK(mark != text.npos);
  if (text.find('?', mark + 1) != text.npos) {
    Fail(ErrorKind::kUsage, "'{}': one ? at most is a number to be found", text);
  }
  const auto with = [&](int64_t number) {
    return fmt::format("{}{}{}", text.substr(0, mark), number, text.substr(mark + 1));
  };
  // Of the largest number an error is one of the form; of smaller ones it may be the number's.
  double above = kept(with(most));
  int64_t high = most, low = 0;
  std::optional<double> below;
  if (above < wanted * (1 - kNearEnough)) {
    Fail(ErrorKind::kUsage, "'{}' keeps {:.1f} keys at most on these texts, wanted {:.1f}", text, above, wanted);
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    std::optional<double> value;
    try {
      value = kept(with(middle));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUsage) throw;
    }
    if (value && *value >= wanted) {
      high = middle, above = *value;
    } else {
      low = middle, below = value;
    }
  }
  const bool lower = below && std::abs(*below - wanted) < std::abs(above - wanted);
  const double nearest = lower ? *below : above;
  if (std::abs(nearest - wanted) > kNearEnough * wanted) {
    Fail(ErrorKind::kUsage, "'{}' keeps {:.1f} keys on these texts as '{}', wanted {:.1f}: no number comes nearer",
         text, nearest, with(lower ? low : high), wanted);
  }
  return with(lower ? low : high);
}

}  // namespace hawser
