// What a perplexity measurement says: derived figures, JSON for machines, tables for people.
#include <cmath>
#include <limits>
#include <numbers>

#include "hawser/eval/perplexity.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

double Ppl(double nll, int64_t tokens) {
  return tokens > 0 ? std::exp(nll / static_cast<double>(tokens)) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double PplBucket::ppl() const { return Ppl(nll, tokens); }
double PplReport::ppl() const { return Ppl(nll, tokens); }
double PplReport::bits_per_byte() const { return nll / (static_cast<double>(bytes) * std::numbers::ln2); }
double PplReport::ppl_window_mean() const { return Ppl(window_means, windows); }
double PplReport::ppl_stderr() const {
  const auto n = static_cast<double>(tokens);
  const double variance = std::max(0.0, nll_squares / n - (nll / n) * (nll / n));
  return std::sqrt(variance / (n - 1)) * ppl();
}

nlohmann::json ToJson(const PplReport& r) {
  const auto range = [](const PplBucket& b) {
    return nlohmann::json{{"begin", b.begin}, {"end", b.end}, {"tokens", b.tokens}, {"nll", b.nll}, {"ppl", b.ppl()}};
  };
  nlohmann::json json = {
      {"task", "ppl"},
      {"protocol", Name(r.protocol)},
      {"context", r.context},
      {"bos", r.bos >= 0},
      {"bos_id", r.bos >= 0 ? nlohmann::json(r.bos) : nlohmann::json()},
      {"bos_token", r.bos >= 0 ? nlohmann::json(r.bos_token) : nlohmann::json()},
      {"bos_rule", r.bos_rule},
      {"tokens", r.tokens},
      {"nll", r.nll},
      {"ppl", r.ppl()},
      {"ppl_stderr", r.ppl_stderr()},
      {"bytes", r.bytes},
      {"bits_per_byte", r.bits_per_byte()},
      {"byte_ppl", Ppl(r.nll, r.bytes)},
      {"words", r.words > 0 ? nlohmann::json(r.words) : nlohmann::json()},
      {"word_ppl", r.words > 0 ? nlohmann::json(Ppl(r.nll, r.words)) : nlohmann::json()},
      {"kv", {{"mean", r.kv.mean}, {"peak", r.kv.peak}, {"peak_mean", r.kv.peak_mean}, {"ratio", r.kv.ratio}}},
      {"seconds", r.seconds},
      {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
      {"peak_rss_bytes", r.peak_rss_bytes}};
  json["buckets"] = nlohmann::json::array();
  for (const PplBucket& bucket : r.buckets) json["buckets"].push_back(range(bucket));
  if (IsStreaming(r.protocol)) {
    json["kv_policy"] = r.kv_policy;
    json["kv"] = r.kv_report;
    json["windows"] = nlohmann::json::array();
    for (const PplStretch& s : r.stretches) {
      nlohmann::json row = range(s.range);
      row.update(
          {{"seconds", s.seconds}, {"kv_slots", s.kv_slots}, {"kv_bytes", s.kv_bytes}, {"rss_bytes", s.rss_bytes}});
      json["windows"].push_back(std::move(row));
    }
    return json;
  }
  json["attention"] = ToString(r.pattern);
  json["stride"] = r.stride > 0 ? nlohmann::json(r.stride) : nlohmann::json();
  json["num_windows"] = r.windows;
  json["ppl_window_mean"] = r.ppl_window_mean();
  json["documents"] = nlohmann::json::array();
  for (const PplDocument& d : r.documents) {
    json["documents"].push_back(
        {{"name", d.name}, {"tokens", d.tokens}, {"nll", d.nll}, {"ppl", Ppl(d.nll, d.tokens)}});
  }
  return json;
}

std::string ToText(const PplReport& r) {
  const auto label = [](const PplBucket& b) {
    return b.end - b.begin == 1 ? fmt::format("{}", b.begin) : fmt::format("{}-{}", b.begin, b.end - 1);
  };
  const auto mean = [](const PplBucket& b) { return HumanNumber(b.nll / static_cast<double>(b.tokens)); };
  TextTable table({"position", "tokens", "nats/token", "ppl"});
  for (const PplBucket& b : r.buckets) table.Row({label(b), HumanCount(b.tokens), mean(b), HumanNumber(b.ppl())});
  std::string out = table.ToString();
  if (!r.stretches.empty()) {
    TextTable stretches({"stream", "ppl", "tokens/s", "kv slots", "kv memory", "resident"});
    const size_t every = (r.stretches.size() + 15) / 16;
    for (size_t i = 0; i < r.stretches.size(); i += every) {
      const PplStretch& s = r.stretches[i];
      stretches.Row({label(s.range), HumanNumber(s.range.ppl()),
                     HumanNumber(static_cast<double>(s.range.tokens) / s.seconds), HumanCount(s.kv_slots),
                     HumanBytes(s.kv_bytes), HumanBytes(s.rss_bytes)});
    }
    out += "\n" + stretches.ToString();
  }
  out += fmt::format("\nppl {} +- {}  ({:.4f} nats/token, {:.4f} bits/byte", HumanNumber(r.ppl()),
                     HumanNumber(r.ppl_stderr()), r.nll / static_cast<double>(r.tokens), r.bits_per_byte());
  if (r.words > 0) out += fmt::format(", word ppl {}", HumanNumber(Ppl(r.nll, r.words)));
  out +=
      fmt::format(")\n{} {}, protocol {}", HumanCount(r.tokens), r.tokens == 1 ? "token" : "tokens", Name(r.protocol));
  if (IsStreaming(r.protocol)) {
    out += fmt::format(", {}", r.protocol == PplProtocol::kLines
                                   ? "each line a text of its own, as the reference of SepLLM reads PG-19"
                                   : "one text from end to end");
  } else {
    out += fmt::format(", context {}{}, {} {}, attention {}", r.context,
                       r.stride > 0 ? fmt::format(", stride {}", r.stride) : "", HumanCount(r.windows),
                       r.windows == 1 ? "window" : "windows", ToString(r.pattern));
  }
  out += fmt::format("\n{} in front ({})", r.bos >= 0 ? fmt::format("{} (id {})", r.bos_token, r.bos) : "no token",
                     r.bos_rule);
  if (IsStreaming(r.protocol)) {
    out += "\n" + r.kv_text + "\n";
  } else {
    const bool alike = std::abs(r.kv.peak_mean - static_cast<double>(r.kv.peak)) < 0.5;
    out += fmt::format(
        "\nkeys per query{}: mean {}, peak {}, {:.1f} % of full\n", alike ? "" : ", means over layers",
        HumanNumber(r.kv.mean),
        alike ? HumanCount(r.kv.peak)
              : fmt::format("{:.1f} ({} in the layer that sees most)", r.kv.peak_mean, HumanCount(r.kv.peak)),
        100 * r.kv.ratio);
  }
  out += fmt::format("{} tokens/s, {}, peak resident {}\n", HumanNumber(static_cast<double>(r.tokens) / r.seconds),
                     HumanSeconds(r.seconds), HumanBytes(r.peak_rss_bytes));
  return out;
}

}  // namespace hawser
