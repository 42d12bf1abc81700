#include "hawser/eval/separator_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/base/size.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

using Kinds = SeparatorAttention;

/// The separators that come most often, the lower id first where two come as often.
std::vector<int32_t> FrequentSeparators(const std::vector<uint8_t>& separators,
                                        std::span<const std::vector<int32_t>> sequences, int64_t most) {
  std::vector<int64_t> counts(separators.size());
  for (const std::vector<int32_t>& sequence : sequences) {
    for (size_t t = 1; t < sequence.size(); ++t) ++counts[static_cast<size_t>(sequence[t])];
  }
  std::vector<int32_t> ids;
  for (size_t id = 0; id < separators.size(); ++id) {
    if (separators[id] != 0 && counts[id] > 0) ids.push_back(static_cast<int32_t>(id));
  }
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
  if (static_cast<int64_t>(ids.size()) > most) ids.resize(static_cast<size_t>(most));
  return ids;
}

/// Mass and keys of one kind, mean over layers.
struct KindShare {
  double mass = 0, keys = 0;
};
KindShare ShareOf(const AttentionMass& mass, int32_t kind, bool far) {
  KindShare share;
  for (int32_t layer = 0; layer < mass.layers; ++layer) {
    share.mass += mass.LayerMass(layer, kind, far) / mass.layers;
    share.keys += mass.LayerKeys(layer, kind, far) / mass.layers;
  }
  return share;
}

double Times(double mass, double all_mass, double keys, double all_keys) {
  if (!(all_mass > 0) || !(keys > 0)) return std::numeric_limits<double>::quiet_NaN();
  return mass / all_mass / (keys / all_keys);
}

/// Of a kind against all but the first token.
double KindTimes(const SeparatorAttention& a, int32_t kind, bool far) {
  const KindShare share = ShareOf(a.mass, kind, far);
  const SeparatorShare all = LayerShare(a, -1, far);
  return Times(share.mass, all.separators + all.plain, share.keys, all.separator_keys + all.plain_keys);
}

nlohmann::json NumberOrNull(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(); }

nlohmann::json ShareJson(const SeparatorShare& s) {
  return {{"first", s.first},           {"separators", s.separators},
          {"plain", s.plain},           {"separator_keys", s.separator_keys},
          {"plain_keys", s.plain_keys}, {"times", NumberOrNull(s.times())}};
}

std::string SharePercent(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string TimesText(double times) { return std::isfinite(times) ? fmt::format("{:.2f}", times) : "-"; }

}  // namespace

double SeparatorShare::times() const {
  return plain_keys > 0 ? Times(separators, separators + plain, separator_keys, separator_keys + plain_keys)
                        : std::numeric_limits<double>::quiet_NaN();
}

SeparatorAttention MeasureSeparatorAttention(Backend* backend, const Weights& weights, const Tokenizer& tokenizer,
                                             const std::vector<uint8_t>& separators,
                                             std::span<const std::vector<int32_t>> sequences,
                                             const SeparatorAttentionOptions& options) {
  const int32_t dim = weights.spec().head_dim;
  if (dim <= Kinds::kNamed) {
    Fail(ErrorKind::kUsage, "attention by separators: wanted a head dimension above {}, found {}", Kinds::kNamed, dim);
  }
  for (const std::vector<int32_t>& sequence : sequences) {
    for (const int32_t id : sequence) {
      if (id >= 0 && static_cast<size_t>(id) < separators.size()) continue;
      Fail(ErrorKind::kUsage, "token id {} is outside the {} that separators are known of", id, separators.size());
    }
  }
  SeparatorAttention result{.window = options.window,
                            .tokens = sequences.empty() ? 0 : static_cast<int64_t>(sequences[0].size()),
                            .sequences = static_cast<int64_t>(sequences.size())};
  std::vector<int32_t> kinds(separators.size());
  for (size_t id = 0; id < kinds.size(); ++id) kinds[id] = separators[id] != 0 ? Kinds::kOther : Kinds::kPlain;
  for (const int32_t id :
       FrequentSeparators(separators, sequences, std::min<int64_t>(options.top, dim - Kinds::kNamed))) {
    kinds[static_cast<size_t>(id)] = Kinds::kNamed + static_cast<int32_t>(result.named.size());
    result.named.push_back({.id = id, .token = tokenizer.Display(id)});
  }
  std::vector<KindText> texts;
  for (const std::vector<int32_t>& sequence : sequences) {
    KindText& text = texts.emplace_back(KindText{.ids = sequence});
    for (const int32_t id : sequence) text.kinds.push_back(kinds[static_cast<size_t>(id)]);
    if (!text.kinds.empty()) text.kinds[0] = Kinds::kFirst;
  }
  result.mass = MeasureAttentionMass(backend, weights, texts,
                                     {.kinds = Kinds::kNamed + static_cast<int32_t>(result.named.size()),
                                      .window = options.window,
                                      .on_layer = options.on_layer});
  return result;
}

SeparatorShare LayerShare(const SeparatorAttention& a, int32_t layer, bool far) {
  SeparatorShare share;
  const int32_t begin = layer < 0 ? 0 : layer, end = layer < 0 ? a.mass.layers : layer + 1;
  for (int32_t l = begin; l < end; ++l) {
    share.first += a.mass.LayerMass(l, Kinds::kFirst, far);
    share.plain += a.mass.LayerMass(l, Kinds::kPlain, far);
    share.plain_keys += a.mass.LayerKeys(l, Kinds::kPlain, far);
    for (int32_t kind = Kinds::kOther; kind < a.mass.kinds; ++kind) {
      share.separators += a.mass.LayerMass(l, kind, far);
      share.separator_keys += a.mass.LayerKeys(l, kind, far);
    }
  }
  for (double SeparatorShare::*field : {&SeparatorShare::first, &SeparatorShare::separators, &SeparatorShare::plain,
                                        &SeparatorShare::separator_keys, &SeparatorShare::plain_keys}) {
    share.*field /= end - begin;
  }
  return share;
}

nlohmann::json ToJson(const SeparatorAttention& a) {
  nlohmann::json json = {
      {"window", a.window},
      {"tokens", a.tokens},
      {"sequences", a.sequences},
      {"mean", {{"all", ShareJson(LayerShare(a, -1, false))}, {"far", ShareJson(LayerShare(a, -1, true))}}},
      {"by_layer", nlohmann::json::array()},
      {"by_head", nlohmann::json::array()},
      {"by_separator", nlohmann::json::array()}};
  for (int32_t layer = 0; layer < a.mass.layers; ++layer) {
    json["by_layer"].push_back(
        {{"all", ShareJson(LayerShare(a, layer, false))}, {"far", ShareJson(LayerShare(a, layer, true))}});
    for (int32_t head = 0; head < a.mass.heads; ++head) {
      const size_t at = (static_cast<size_t>(layer) * static_cast<size_t>(a.mass.heads) + static_cast<size_t>(head)) *
                        static_cast<size_t>(a.mass.kinds);
      double all = 0, far = 0;
      for (int32_t kind = Kinds::kOther; kind < a.mass.kinds; ++kind) {
        all += a.mass.mass[at + static_cast<size_t>(kind)];
        far += a.mass.far_mass[at + static_cast<size_t>(kind)];
      }
      json["by_head"].push_back({{"layer", layer},
                                 {"head", head},
                                 {"first", a.mass.mass[at]},
                                 {"separators", all},
                                 {"far_separators", far},
                                 {"far_plain", a.mass.far_mass[at + Kinds::kPlain]}});
    }
  }
  for (size_t n = 0; n < a.named.size(); ++n) {
    const auto kind = Kinds::kNamed + static_cast<int32_t>(n);
    const KindShare all = ShareOf(a.mass, kind, false), far = ShareOf(a.mass, kind, true);
    json["by_separator"].push_back({{"id", a.named[n].id},
                                    {"token", a.named[n].token},
                                    {"keys", all.keys},
                                    {"mass", all.mass},
                                    {"times", NumberOrNull(KindTimes(a, kind, false))},
                                    {"far_keys", far.keys},
                                    {"far_mass", far.mass},
                                    {"far_times", NumberOrNull(KindTimes(a, kind, true))}});
  }
  return json;
}

std::string ToText(const SeparatorAttention& a) {
  std::string out = fmt::format(
      "attention over {} of {}; far: not among the last {}. \"times\": 1 where a separator draws as much as any other "
      "token but the first\n\n",
      Counted(a.sequences, "text"), Counted(a.tokens, "token"), a.window);
  TextTable layers({"layer", "first token", "separators", "times", "far", "far separators", "times"});
  for (int32_t layer = 0; layer <= a.mass.layers; ++layer) {
    const bool mean = layer == a.mass.layers;
    const SeparatorShare all = LayerShare(a, mean ? -1 : layer, false), far = LayerShare(a, mean ? -1 : layer, true);
    layers.Row({mean ? "mean" : std::to_string(layer), SharePercent(all.first), SharePercent(all.separators),
                TimesText(all.times()), SharePercent(far.separators + far.plain), SharePercent(far.separators),
                TimesText(far.times())});
  }
  out += layers.ToString() + "\n";
  TextTable tokens({"separator", "keys", "attention", "times", "far attention", "times"});
  const auto row = [&](const std::string& name, int32_t kind) {
    const KindShare all = ShareOf(a.mass, kind, false), far = ShareOf(a.mass, kind, true);
    tokens.Row({name, SharePercent(all.keys), SharePercent(all.mass), TimesText(KindTimes(a, kind, false)),
                SharePercent(far.mass), TimesText(KindTimes(a, kind, true))});
  };
  for (size_t n = 0; n < a.named.size(); ++n) {
    row(PrintableLine(a.named[n].token, 24), Kinds::kNamed + static_cast<int32_t>(n));
  }
  row("(other separators)", Kinds::kOther);
  row("(no separators)", Kinds::kPlain);
  return out + tokens.ToString();
}

std::string ToSvg(const SeparatorAttention& a) {
  const std::string of = fmt::format("{} of {}, far: not among the last {}", Counted(a.sequences, "text"),
                                     Counted(a.tokens, "token"), a.window);
  LinePlot shares{
      .title = "Where attention goes", .subtitle = of, .x = {.label = "layer"}, .y = {.label = "share (%)", .min = 0}};
  LinePlot times{.title = "Attention a separator, times that of any token but the first",
                 .subtitle = of,
                 .x = {.label = "layer"},
                 .y = {.label = "times", .min = 0}};
  PlotSeries first{.name = "first token"}, separators{.name = "separators"}, far{.name = "far separators"},
      plain{.name = "far others"}, all_times{.name = "all"}, far_times{.name = "far"};
  for (int32_t layer = 0; layer < a.mass.layers; ++layer) {
    const SeparatorShare near_and_far = LayerShare(a, layer, false), only_far = LayerShare(a, layer, true);
    const auto add = [&](PlotSeries& series, double y) {
      series.x.push_back(layer);
      series.y.push_back(y);
    };
    add(first, 100 * near_and_far.first);
    add(separators, 100 * near_and_far.separators);
    add(far, 100 * only_far.separators);
    add(plain, 100 * only_far.plain);
    add(all_times, near_and_far.times());
    add(far_times, only_far.times());
  }
  shares.series = {first, separators, far, plain};
  times.series = {all_times, far_times};
  const LinePlot plots[] = {shares, times};
  return RenderSvg(plots);
}

}  // namespace hawser
