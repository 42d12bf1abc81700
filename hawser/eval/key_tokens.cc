#include "hawser/eval/key_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/hash.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/eval/report.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

constexpr int kKeyFormat = 1;
constexpr int64_t kMostTokens = int64_t{1} << 40;

std::string TextHash(std::string_view text) { return fmt::format("{:016x}", Hash64(std::as_bytes(std::span(text)))); }

/// JSON has no infinities.
nlohmann::json Bound(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(value < 0 ? "-inf" : "inf");
}

double BoundOf(const nlohmann::json& value, const char* key) {
  const nlohmann::json* member = JsonObject(value, "keys").Find(key);
  if (member != nullptr && member->is_number()) return member->get<double>();
  if (member != nullptr && member->is_string()) {
    if (const auto bound = ParseNumber<double>(member->get<std::string>())) return *bound;
  }
  Fail(ErrorKind::kFormat, "\"{}\": wanted a number, found {}", key,
       member == nullptr ? "nothing" : ShownJson(*member));
}

KeyDocument Judge(TextReader* judge, const Tokenizer& tokenizer, const TextDocument& document, const KeyRule& rule,
                  int64_t batch_tokens) {
  const auto before = static_cast<int64_t>(judge->prefix().size());
  const std::string_view text = CutToTokens(tokenizer, document.text, rule.length - before);
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  std::vector<int32_t> tokens = judge->prefix();
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  KeyDocument keys{.name = document.path,
                   .bytes = static_cast<int64_t>(text.size()),
                   .hash = TextHash(text),
                   .tokens = static_cast<int64_t>(tokens.size()),
                   .spans = {}};
  const int64_t first = rule.context.first();
  if (keys.tokens <= first) return keys;
  const std::vector<float> long_nats = judge->Read(ids).nats;
  const std::vector<float> short_nats = ShortContextNats(judge->decoder(), tokens, rule.context, batch_tokens);
  const std::vector<ByteSpan> places = TokenSpans(tokenizer, text, ids);
  for (int64_t i = first; i < keys.tokens; ++i) {
    const auto t = static_cast<size_t>(i - before);
    if (i < before || std::isnan(long_nats[t])) continue;
    ++keys.judged;
    if (!std::isfinite(short_nats[i])) {
      Fail(ErrorKind::kNumeric, "{}: the judge gives {} nats for token {}; its weights may be damaged", document.path,
           short_nats[i], i);
    }
    const double gain = static_cast<double>(short_nats[i]) - long_nats[t];
    if (!(gain > rule.alpha && -static_cast<double>(long_nats[t]) > rule.beta)) continue;
    ++keys.keys;
    keys.spans.push_back(places[t]);
  }
  keys.spans = MergeSpans(keys.spans);
  return keys;
}

nlohmann::json ToJson(const KeyDocument& document) {
  nlohmann::json spans = nlohmann::json::array();
  for (const ByteSpan& span : document.spans) spans.push_back({span.begin, span.end});
  return {{"name", document.name},     {"bytes", document.bytes}, {"hash", document.hash}, {"tokens", document.tokens},
          {"judged", document.judged}, {"keys", document.keys},   {"spans", spans}};
}

KeyDocument ParseDocument(const nlohmann::json& json) {
  const JsonObject object(json, "document");
  KeyDocument document{.name = object.String("name"),
                       .bytes = object.Int("bytes", 0, kMostTokens),
                       .hash = object.String("hash"),
                       .tokens = object.Int("tokens", 0, kMostTokens),
                       .spans = {}};
  document.judged = object.Int("judged", 0, document.tokens);
  document.keys = object.Int("keys", 0, document.judged);
  const nlohmann::json* spans = object.Find("spans");
  if (spans == nullptr || !spans->is_array()) Fail(ErrorKind::kFormat, "\"spans\": wanted a list of pairs of bytes");
  int64_t least = 0;
  for (const nlohmann::json& span : *spans) {
    const bool pair = span.is_array() && span.size() == 2 && span[0].is_number_integer() && span[1].is_number_integer();
    const ByteSpan bytes = pair ? ByteSpan{span[0].get<int64_t>(), span[1].get<int64_t>()} : ByteSpan{};
    if (!pair || bytes.begin < least || bytes.end <= bytes.begin || bytes.end > document.bytes) {
      Fail(ErrorKind::kFormat, "\"spans\" holds {}: wanted pairs of bytes in order, within the {} that were read",
           ShownJson(span), document.bytes);
    }
    document.spans.push_back(bytes);
    least = bytes.end;
  }
  return document;
}

}  // namespace

std::string KeyTokens::Identity() const {
  const auto of = [&](const char* key) {
    const auto member = judge.find(key);
    return member == judge.end() ? std::string("-") : member->second;
  };
  return fmt::format(
      "longppl-{} judge={} fingerprint={} dtype={} rope={} bos={} k={} delta={} alpha={:g} beta={:g} length={}",
      kKeyFormat, std::filesystem::path(of("model")).filename().string(), of("fingerprint"), of("dtype"), of("rope"),
      of("bos"), rule.context.k, rule.context.delta, rule.alpha, rule.beta, rule.length);
}

int64_t KeyTokens::keys() const {
  int64_t sum = 0;
  for (const KeyDocument& document : documents) sum += document.keys;
  return sum;
}

KeyTokens JudgeKeyTokens(TextReader* judge, const Tokenizer& tokenizer, std::span<const TextDocument> documents,
                         const KeyRule& rule, int64_t batch_tokens, const JudgeNames& who) {
  KeyTokens all{.rule = rule, .judge = who, .documents = {}};
  int64_t longest = 0, judged = 0;
  for (const TextDocument& document : documents) {
    all.documents.push_back(
        WithFrame(document.path, [&] { return Judge(judge, tokenizer, document, rule, batch_tokens); }));
    const KeyDocument& keys = all.documents.back();
    longest = std::max(longest, keys.tokens);
    judged += keys.judged;
    LogLine(fmt::format("judge: {}: {} key of {} tokens judged", document.path, HumanCount(keys.keys),
                        HumanCount(keys.judged)));
  }
  if (judged == 0) {
    Fail(ErrorKind::kUsage,
         "nothing to judge: k={} and delta={} want more than {} tokens of a text, the longest has {} (at most {} are "
         "read); lower k and delta, or raise --context",
         rule.context.k, rule.context.delta, rule.context.first(), longest, rule.length);
  }
  if (all.keys() == 0) {
    Fail(ErrorKind::kUsage,
         "no key tokens: of {} tokens judged none gains more than alpha={:g} nats by what lies more than k={} tokens "
         "back and is then above beta={:g}; take longer texts, or lower alpha, beta or k",
         judged, rule.alpha, rule.context.k, rule.beta);
  }
  return all;
}

std::string_view JudgedText(const KeyDocument& keys, const TextDocument& document) {
  const std::string_view text = document.text;
  if (static_cast<int64_t>(text.size()) < keys.bytes || TextHash(text.substr(0, keys.bytes)) != keys.hash) {
    Fail(ErrorKind::kUsage, "{}: another text than the one judged as {}, of {} bytes with hash {}", document.path,
         keys.name, keys.bytes, keys.hash);
  }
  return text.substr(0, keys.bytes);
}

void SaveKeyTokens(const KeyTokens& keys, const std::filesystem::path& file) {
  const KeyRule& rule = keys.rule;
  const nlohmann::json head = {
      {"hawser_keys", kKeyFormat},   {"judge", keys.judge},         {"k", rule.context.k},
      {"delta", rule.context.delta}, {"alpha", Bound(rule.alpha)},  {"beta", Bound(rule.beta)},
      {"length", rule.length},       {"identity", keys.Identity()}, {"documents", keys.documents.size()}};
  std::string text = JsonText(head) + "\n";
  for (const KeyDocument& document : keys.documents) text += JsonText(ToJson(document)) + "\n";
  WriteFileAtomically(file, text);
}

KeyTokens LoadKeyTokens(const std::filesystem::path& file) {
  const std::string text = ReadFile(file);
  KeyTokens keys;
  size_t number = 0, wanted = 0;
  for (const std::string_view line : SplitWords(text, "\n")) {
    WithFrame(fmt::format("{}:{}", file.string(), ++number), [&] {
      const nlohmann::json json = ParseJson(line);
      if (number > 1) {
        keys.documents.push_back(ParseDocument(json));
        return;
      }
      if (!json.is_object() || !json.contains("hawser_keys")) {
        Fail(ErrorKind::kFormat, "no file of key tokens: wanted an object with \"hawser_keys\", found {}",
             ShownJson(json));
      }
      const JsonObject head(json, "keys");
      if (const int64_t version = head.Int("hawser_keys"); version != kKeyFormat) {
        Fail(ErrorKind::kUnsupported, "key tokens of format {}; this program reads {}", version, kKeyFormat);
      }
      const nlohmann::json* judge = head.Find("judge");
      if (judge == nullptr || !judge->is_object()) Fail(ErrorKind::kFormat, "\"judge\": wanted an object");
      const JsonObject names(*judge, "judge");
      for (const auto& [name, value] : judge->items()) keys.judge[name] = names.String(name.c_str());
      keys.rule = {.context = {.k = head.Int("k", 1, kMostTokens), .delta = head.Int("delta", 1, kMostTokens)},
                   .alpha = BoundOf(json, "alpha"),
                   .beta = BoundOf(json, "beta"),
                   .length = head.Int("length", 1, kMostTokens)};
      wanted = static_cast<size_t>(head.Int("documents", 1));
    });
  }
  if (number == 0 || keys.documents.size() != wanted) {
    Fail(ErrorKind::kFormat, "{}: {} of {} documents are there; was it cut off?", file.string(), keys.documents.size(),
         wanted);
  }
  return keys;
}

void CheckKeysFit(const KeyTokens& keys, std::span<const TextDocument> documents) {
  for (size_t i = 0; i < documents.size(); ++i) {
    if (i == keys.documents.size()) {
      Fail(ErrorKind::kUsage,
           "{}: not judged: the file of key tokens has {} of {} texts; give the same --data, or judge again",
           documents[i].path, keys.documents.size(), documents.size());
    }
    JudgedText(keys.documents[i], documents[i]);
  }
}

}  // namespace hawser
