#include "hawser/eval/compare.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/base/rng.h"
#include "hawser/base/text.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

constexpr double kEqualShare = 0.05;  // of the larger: methods that keep as many keys

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  return begin == text.npos ? std::string_view() : text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

/// FILE or FILE,keep=RULE.
IndexSight ParseIndexSight(std::string_view text) {
  constexpr std::string_view kKeep = ",keep=";
  const size_t keep = text.rfind(kKeep);
  IndexSight index{.file = text.substr(0, keep)};
  if (index.file.empty()) Fail(ErrorKind::kUsage, "which index? index:FILE,keep=0.1 has the file of hawser index");
  if (keep != text.npos) index.keep = ParseKeepRule(text.substr(keep + kKeep.size()));
  return index;
}

/// Behind the name of a cache stands a ':' or ',', behind the first word of a pattern a '=' or a blank. A word alone is
/// a cache, or what only patterns know.
Sight ParseSight(std::string_view text) {
  constexpr std::string_view kIndex = "index:";
  if (text.empty()) return {};
  if (text.starts_with(kIndex)) return {.index = ParseIndexSight(text.substr(kIndex.size()))};
  const size_t end = text.find_first_of(":,= \t\n");
  const auto pattern = [&]() -> Sight { return {.kv = std::nullopt, .pattern = ParseLayeredPattern(text)}; };
  if (end != text.npos && text[end] != ':' && text[end] != ',') return pattern();
  try {
    return {.kv = ParseKvForm(text), .pattern = {}};
  } catch (const Error&) {
    if (end != text.npos) throw;
    try {
      return pattern();
    } catch (const Error&) {
    }
    throw;
  }
}

PairedRatio RatioOf(double base, double other, double tokens) {
  const double ratio = tokens > 0 ? std::exp((other - base) / tokens) : std::numeric_limits<double>::quiet_NaN();
  return {ratio, ratio, ratio};
}

NatsSum ParseSum(const nlohmann::json& json) {
  const bool three =
      json.is_array() && json.size() == 3 && json[0].is_number_integer() && json[1].is_number() && json[2].is_number();
  if (!three) Fail(ErrorKind::kFormat, "wanted [tokens, nats, squares], found {}", ShownJson(json));
  return {.tokens = json[0].get<int64_t>(), .nats = json[1].get<double>(), .squares = json[2].get<double>()};
}

nlohmann::json SumJson(const NatsSum& sum) { return {sum.tokens, sum.nats, sum.squares}; }

const nlohmann::json& ListOf(const JsonObject& object, const char* key) {
  const nlohmann::json* list = object.Find(key);
  if (list == nullptr || !list->is_array()) Fail(ErrorKind::kFormat, "\"{}\": wanted a list", key);
  return *list;
}

}  // namespace

std::vector<Method> ParseMethods(std::string_view text) {
  std::vector<Method> methods;
  if (text.find_first_not_of("; ") == text.npos) {
    Fail(ErrorKind::kUsage, "no methods to compare; give such as --methods \"full; sink:4,796; sepllm; window=256\"");
  }
  for (const std::string_view piece : SplitAt(text, ';')) {
    const std::string_view name = Trimmed(piece);
    if (name.empty()) Fail(ErrorKind::kUsage, "methods '{}': nothing stands between two ';' or at an end", text);
    const size_t at = name.find('@');
    Method method{.name = std::string(name), .sight = {}};
    WithFrame(
        fmt::format(
            "method '{}' (a cache, an attention pattern or index:FILE,keep=0.1, and behind @ a position scheme)", name),
        [&] {
          method.sight = ParseSight(Trimmed(name.substr(0, at)));
          if (at == name.npos) return;
          method.rope = Trimmed(name.substr(at + 1));
          if (method.rope.empty()) Fail(ErrorKind::kUsage, "nothing stands behind @; wanted such as @ yarn:factor=2");
        });
    const auto same = std::ranges::find_if(
        methods, [&](const Method& other) { return other.sight == method.sight && other.rope == method.rope; });
    if (same != methods.end()) {
      Fail(ErrorKind::kUsage, "method '{}' is there twice, also as '{}'", method.name, same->name);
    }
    methods.push_back(std::move(method));
  }
  return methods;
}

NatsSum MethodRun::all() const {
  NatsSum sum;
  for (const CompareStretch& stretch : stretches) sum.Add(stretch.all);
  return sum;
}

NatsSum MethodRun::key() const {
  NatsSum sum;
  for (const CompareStretch& stretch : stretches) sum.Add(stretch.key);
  return sum;
}

MethodRun RunMethod(TextReader* reader, const std::string& name, std::span<const CompareText> texts, int64_t stretch,
                    int64_t first) {
  MethodRun run{
      .name = name, .index = reader->IndexName(), .bytes = {}, .prefix_read = {}, .stretches = {}, .buckets = {}};
  const auto start = std::chrono::steady_clock::now();
  double tokens = 0, bytes = 0, prefix_read = 0;
  bool cached = false, indexed = false;
  ProgressBar bar(name, static_cast<int64_t>(texts.size()));
  for (size_t d = 0; d < texts.size(); ++d) {
    const CompareText& text = texts[d];
    const TextNats read = WithFrame(text.name, [&] { return reader->Read(text.ids); });
    const auto n = static_cast<int64_t>(text.ids.size());
    for (int64_t t = 0; t < n; ++t) {
      if (t % stretch == 0) run.stretches.emplace_back();
      if (t < first || std::isnan(read.nats[t])) continue;
      run.stretches.back().all.Add(read.nats[t]);
      if (!text.key.empty() && text.key[t] != 0) run.stretches.back().key.Add(read.nats[t]);
      const auto bucket = static_cast<size_t>(PplBucketOf(t));
      if (bucket >= run.buckets.size()) run.buckets.resize(bucket + 1);
      ++run.buckets[bucket].tokens;
      run.buckets[bucket].nll += read.nats[t];
    }
    tokens += static_cast<double>(n);
    run.kept += read.kept * static_cast<double>(n);
    bytes += read.bytes.value_or(0) * static_cast<double>(n);
    cached = cached || read.bytes.has_value();
    prefix_read += read.prefix_read.value_or(0);
    indexed = indexed || read.prefix_read.has_value();
    bar.Update(static_cast<int64_t>(d) + 1, fmt::format("ppl {:.4g}", run.all().ppl()));
  }
  for (size_t b = 0; b < run.buckets.size(); ++b) {
    run.buckets[b].begin = PplBucketBegin(static_cast<int64_t>(b));
    run.buckets[b].end = PplBucketBegin(static_cast<int64_t>(b) + 1);
  }
  std::erase_if(run.buckets, [](const PplBucket& bucket) { return bucket.tokens == 0; });
  run.kept /= std::max(1.0, tokens);
  if (cached) run.bytes = bytes / std::max(1.0, tokens);
  if (indexed) run.prefix_read = prefix_read / static_cast<double>(texts.size());
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return run;
}

nlohmann::json ToJson(const MethodRun& run) {
  const NatsSum all = run.all(), key = run.key();
  nlohmann::json json = {{"name", run.name},
                         {"index", run.index.empty() ? nlohmann::json() : nlohmann::json(run.index)},
                         {"kept", run.kept},
                         {"bytes", run.bytes ? nlohmann::json(*run.bytes) : nlohmann::json()},
                         {"prefix_read", run.prefix_read ? nlohmann::json(*run.prefix_read) : nlohmann::json()},
                         {"seconds", run.seconds},
                         {"tokens", all.tokens},
                         {"ppl", all.ppl()},
                         {"key_tokens", key.tokens}};
  json["longppl"] = key.tokens > 0 ? nlohmann::json(key.ppl()) : nlohmann::json();
  nlohmann::json& stretches = json["stretches"] = nlohmann::json::array();
  for (const CompareStretch& s : run.stretches) stretches.push_back({SumJson(s.all), SumJson(s.key)});
  nlohmann::json& buckets = json["buckets"] = nlohmann::json::array();
  for (const PplBucket& b : run.buckets) {
    buckets.push_back({{"begin", b.begin}, {"end", b.end}, {"tokens", b.tokens}, {"nll", b.nll}, {"ppl", b.ppl()}});
  }
  return json;
}

MethodRun ParseMethodRun(const nlohmann::json& json) {
  constexpr int64_t kMost = int64_t{1} << 53;
  const JsonObject object(json, "method");
  MethodRun run{.name = object.String("name"),
                .index = object.StringOr("index", ""),
                .kept = object.Number("kept"),
                .bytes = {},
                .prefix_read = {},
                .seconds = object.Number("seconds"),
                .stretches = {},
                .buckets = {}};
  if (object.Find("bytes") != nullptr) run.bytes = object.Number("bytes");
  if (object.Find("prefix_read") != nullptr) run.prefix_read = object.Number("prefix_read");
  for (const nlohmann::json& stretch : ListOf(object, "stretches")) {
    if (!stretch.is_array() || stretch.size() != 2) {
      Fail(ErrorKind::kFormat, "\"stretches\": wanted pairs of sums, found {}", ShownJson(stretch));
    }
    run.stretches.push_back({.all = ParseSum(stretch[0]), .key = ParseSum(stretch[1])});
  }
  for (const nlohmann::json& bucket : ListOf(object, "buckets")) {
    const JsonObject of(bucket, "bucket");
    run.buckets.push_back({.begin = of.Int("begin", 0, kMost),
                           .end = of.Int("end", 0, kMost),
                           .tokens = of.Int("tokens", 1, kMost),
                           .nll = of.Number("nll")});
  }
  return run;
}

PairedRatio ComparePair(const MethodRun& base, const MethodRun& other, bool key, int64_t draws, uint64_t seed) {
  HAWSER_CHECK(base.stretches.size() == other.stretches.size());
  const auto of = [&](const MethodRun& run, size_t s) -> const NatsSum& {
    return key ? run.stretches[s].key : run.stretches[s].all;
  };
  const NatsSum a = key ? base.key() : base.all(), b = key ? other.key() : other.all();
  PairedRatio ratio = RatioOf(a.nats, b.nats, static_cast<double>(a.tokens));
  std::vector<double> drawn;
  for (int64_t draw = 0; draw < draws && a.tokens > 0; ++draw) {
    Rng rng{.seed = seed, .stream = static_cast<uint64_t>(draw)};
    double from = 0, to = 0, tokens = 0;
    for (size_t s = 0; s < base.stretches.size(); ++s) {
      const size_t at = rng.Below(base.stretches.size());
      from += of(base, at).nats;
      to += of(other, at).nats;
      tokens += static_cast<double>(of(base, at).tokens);
    }
    if (tokens > 0) drawn.push_back(RatioOf(from, to, tokens).ratio);
  }
  if (drawn.empty()) return ratio;
  std::ranges::sort(drawn);
  const auto at = [&](double share) {
    return drawn[static_cast<size_t>(std::lround(share * static_cast<double>(drawn.size() - 1)))];
  };
  ratio.low = at(0.025);
  ratio.high = at(0.975);
  return ratio;
}

void CompareMethods(Comparison* c, uint64_t seed) {
  HAWSER_CHECK(!c->methods.empty());
  c->tokens = c->methods[0].all().tokens;
  c->key_tokens = c->methods[0].key().tokens;
  c->all.clear(), c->key.clear(), c->equal.clear();
  for (const MethodRun& run : c->methods) {
    c->all.push_back(ComparePair(c->methods[0], run, /*key=*/false, c->draws, seed));
    c->key.push_back(ComparePair(c->methods[0], run, /*key=*/true, c->draws, seed));
  }
  for (size_t i = 0; i < c->methods.size(); ++i) {
    for (size_t j = i + 1; j < c->methods.size(); ++j) {
      const MethodRun &first = c->methods[i], &second = c->methods[j];
      if (std::abs(first.kept - second.kept) > kEqualShare * std::max(first.kept, second.kept)) continue;
      c->equal.push_back({.first = i,
                          .second = j,
                          .all = ComparePair(first, second, /*key=*/false, c->draws, seed),
                          .key = ComparePair(first, second, /*key=*/true, c->draws, seed)});
    }
  }
}

}  // namespace hawser
