#include "hawser/eval/longppl.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/report.h"

namespace hawser {

double NatsSum::ppl() const {
  return tokens > 0 ? std::exp(nats / static_cast<double>(tokens)) : std::numeric_limits<double>::quiet_NaN();
}

double NatsSum::stderr_ppl() const {
  if (tokens < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto n = static_cast<double>(tokens);
  const double variance = std::max(0.0, squares / n - (nats / n) * (nats / n));
  return std::sqrt(variance / (n - 1)) * ppl();
}

NatsSum LongPplReport::all() const {
  NatsSum sum;
  for (const LongPplDocument& document : documents) sum.Add(document.all);
  return sum;
}

NatsSum LongPplReport::key() const {
  NatsSum sum;
  for (const LongPplDocument& document : documents) sum.Add(document.key);
  return sum;
}

NatsSum LongPplReport::other() const {
  NatsSum sum = all();
  const NatsSum keys = key();
  sum.Add({.tokens = -keys.tokens, .nats = -keys.nats, .squares = -keys.squares});
  return sum;
}

std::vector<uint8_t> KeyTokensOf(const KeyDocument& keys, const Tokenizer& tokenizer, std::string_view text,
                                 std::span<const int32_t> ids) {
  return TokensInside(TokenSpans(tokenizer, text, ids), keys.spans);
}

LongPplReport MeasureLongPpl(TextReader* reader, const Tokenizer& tokenizer, std::span<const TextDocument> documents,
                             const KeyTokens& keys) {
  CheckKeysFit(keys, documents);
  LongPplReport report{.identity = keys.Identity(), .documents = {}, .prefix_read = {}};
  const auto start = std::chrono::steady_clock::now();
  double held = 0, read_tokens = 0;
  ProgressBar bar("longppl", static_cast<int64_t>(documents.size()));
  for (size_t d = 0; d < documents.size(); ++d) {
    const KeyDocument& judged = keys.documents[d];
    const std::string_view text = JudgedText(judged, documents[d]);
    const std::vector<int32_t> ids = tokenizer.Encode(text);
    const std::vector<uint8_t> key = KeyTokensOf(judged, tokenizer, text, ids);
    const TextNats read = WithFrame(documents[d].path, [&] { return reader->Read(ids); });
    LongPplDocument document{.name = documents[d].path, .all = {}, .key = {}};
    for (size_t t = 0; t < ids.size(); ++t) {
      if (std::isnan(read.nats[t])) continue;
      document.all.Add(read.nats[t]);
      if (key[t] != 0) document.key.Add(read.nats[t]);
    }
    report.judged += judged.judged;
    report.judge_keys += judged.keys;
    held += read.kept * static_cast<double>(ids.size());
    if (read.prefix_read) {
      report.prefix_read = report.prefix_read.value_or(0) + *read.prefix_read / static_cast<double>(documents.size());
    }
    read_tokens += static_cast<double>(ids.size());
    report.documents.push_back(std::move(document));
    bar.Update(static_cast<int64_t>(d) + 1, fmt::format("longppl {:.4g}", report.key().ppl()));
  }
  report.kept = held / std::max(1.0, read_tokens);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (report.key().tokens == 0) {
    Fail(ErrorKind::kUsage,
         "no token of the model lies inside one of the {} key tokens of the judge{}: their tokenizers cut the text too "
         "differently, or the texts hold too few",
         report.judge_keys, reader->FirstPredicted() > 1 ? " that stand behind the indexed prefix" : "");
  }
  return report;
}

nlohmann::json ToJson(const LongPplReport& r) {
  const NatsSum all = r.all(), key = r.key(), other = r.other();
  nlohmann::json json = {{"task", "longppl"},
                         {"identity", r.identity},
                         {"longppl", key.ppl()},
                         {"longppl_stderr", key.stderr_ppl()},
                         {"key_tokens", key.tokens},
                         {"key_nats", key.nats},
                         {"ppl", all.ppl()},
                         {"ppl_stderr", all.stderr_ppl()},
                         {"tokens", all.tokens},
                         {"nats", all.nats},
                         {"other_ppl", other.ppl()},
                         {"judge_tokens", r.judged},
                         {"judge_key_tokens", r.judge_keys},
                         {"kept", r.kept},
                         {"prefix_read", r.prefix_read ? nlohmann::json(*r.prefix_read) : nlohmann::json()},
                         {"seconds", r.seconds}};
  json["documents"] = nlohmann::json::array();
  for (const LongPplDocument& d : r.documents) {
    json["documents"].push_back({{"name", d.name},
                                 {"longppl", d.key.ppl()},
                                 {"key_tokens", d.key.tokens},
                                 {"key_nats", d.key.nats},
                                 {"ppl", d.all.ppl()},
                                 {"tokens", d.all.tokens},
                                 {"nats", d.all.nats}});
  }
  return json;
}

std::string ToText(const LongPplReport& r) {
  TextTable table({"text", "tokens", "key tokens", "ppl", "longppl"});
  const auto shown = [](const NatsSum& sum) { return sum.tokens > 0 ? HumanNumber(sum.ppl()) : std::string("-"); };
  for (const LongPplDocument& d : r.documents) {
    table.Row({d.name, HumanCount(d.all.tokens), HumanCount(d.key.tokens), shown(d.all), shown(d.key)});
  }
  const NatsSum all = r.all(), key = r.key();
  return table.ToString() +
         fmt::format("\nlongppl {} +- {} over {} key tokens; ppl {} over all {}, {} over the others\n", shown(key),
                     HumanNumber(key.stderr_ppl()), HumanCount(key.tokens), shown(all), HumanCount(all.tokens),
                     shown(r.other())) +
         fmt::format("the judge found {} key of {} tokens ({:.2f} %); keys held a token: mean {}{}; {}\n",
                     HumanCount(r.judge_keys), HumanCount(r.judged),
                     100.0 * static_cast<double>(r.judge_keys) / static_cast<double>(std::max<int64_t>(1, r.judged)),
                     HumanNumber(r.kept),
                     r.prefix_read ? fmt::format(", of the prefix {:.1f} % read", 100 * *r.prefix_read) : "",
                     HumanSeconds(r.seconds)) +
         r.identity + "\n";
}

}  // namespace hawser
