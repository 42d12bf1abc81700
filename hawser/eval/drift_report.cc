// What a drift measurement says: JSON and CSV for machines, tables and plots for people.
#include <algorithm>
#include <cmath>
#include <map>

#include "hawser/base/size.h"
#include "hawser/eval/drift.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

std::string Short(double x) { return std::isnan(x) ? "NaN" : x == 0 ? "0" : fmt::format("{:.3g}", x); }
std::string Percent(double part, double whole) {
  return whole == 0 || std::isnan(whole) ? "" : fmt::format("{:.1f} %", 100 * part / whole);
}

/// The shift that tables by layer, token and length are about: the first of the paper's, 0, where it was measured.
const DriftShift& Shown(const DriftReport& report) {
  for (const DriftShift& shift : report.shifts) {
    if (shift.delta == 0 && report.reference != 0) return shift;
  }
  return report.shifts.front();
}

nlohmann::json SumsJson(const DriftSums& s) {
  return {{"d", s.d},         {"d_abs", s.abs},           {"d_l1", s.l1},
          {"first", s.first}, {"first_abs", s.first_abs}, {"first_l1", s.first_l1}};
}

/// Sums over the heads of each layer.
std::vector<DriftSums> ByLayer(const DriftReport& report, const DriftShift& shift) {
  std::vector<DriftSums> layers(static_cast<size_t>(report.layers));
  for (size_t i = 0; i < shift.heads.size(); ++i) layers[i / static_cast<size_t>(report.heads)].Add(shift.heads[i], 1);
  return layers;
}

TextTable ShiftTable(std::span<const DriftRun> runs) {
  std::vector<std::string> header = {"shift"};
  for (const DriftRun& run : runs) header.insert(header.end(), {run.name, "+-", "first"});
  TextTable table(header);
  for (size_t s = 0; s < runs[0].report.shifts.size(); ++s) {
    std::vector<std::string> row = {std::to_string(runs[0].report.shifts[s].delta)};
    for (const DriftRun& run : runs) {
      const DriftShift& shift = run.report.shifts[s];
      row.insert(row.end(),
                 {Short(shift.total.abs), Short(shift.spread.abs), Percent(shift.total.first_abs, shift.total.abs)});
    }
    table.Row(std::move(row));
  }
  return table;
}

TextTable MeasureTable(std::span<const DriftRun> runs) {
  TextTable table({"pipeline", "D", "+-", "D_abs", "D_l1", "first of D", "of D_abs", "of D_l1", "D_logit", "abs"});
  for (const DriftRun& run : runs) {
    const DriftShift& s = Shown(run.report);
    table.Row({run.name, Short(s.total.d), Short(s.spread.d), Short(s.total.abs), Short(s.total.l1),
               Percent(s.total.first, s.total.d), Percent(s.total.first_abs, s.total.abs),
               Percent(s.total.first_l1, s.total.l1), Short(s.logits.back().d), Short(s.logits.back().abs)});
  }
  return table;
}

TextTable LayerTable(std::span<const DriftRun> runs) {
  std::vector<std::string> header = {"layer"};
  for (const DriftRun& run : runs) header.insert(header.end(), {run.name, "first", "top head"});
  TextTable table(header);
  std::vector<std::vector<DriftSums>> layers;
  for (const DriftRun& run : runs) layers.push_back(ByLayer(run.report, Shown(run.report)));
  for (size_t l = 0; l < layers[0].size(); ++l) {
    std::vector<std::string> row = {std::to_string(l)};
    for (size_t r = 0; r < runs.size(); ++r) {
      const auto heads = static_cast<size_t>(runs[r].report.heads);
      const auto first = Shown(runs[r].report).heads.begin() + static_cast<int64_t>(l * heads);
      const auto top = std::max_element(first, first + static_cast<int64_t>(heads),
                                        [](const DriftSums& a, const DriftSums& b) { return a.abs < b.abs; });
      row.insert(row.end(), {Short(layers[r][l].abs), Percent(layers[r][l].first_abs, layers[r][l].abs),
                             fmt::format("{} ({})", top - first, Short(top->abs))});
    }
    table.Row(std::move(row));
  }
  return table;
}

TextTable LengthTable(std::span<const DriftRun> runs) {
  std::vector<std::string> header = {"T"};
  for (const DriftRun& run : runs) header.insert(header.end(), {run.name, "abs"});
  TextTable table(header);
  for (size_t n = 0; n < Shown(runs[0].report).logits.size(); ++n) {
    std::vector<std::string> row = {std::to_string(Shown(runs[0].report).logits[n].length)};
    for (const DriftRun& run : runs) {
      const DriftLogit& logit = Shown(run.report).logits[n];
      row.insert(row.end(), {Short(logit.d), Short(logit.abs)});
    }
    table.Row(std::move(row));
  }
  return table;
}

}  // namespace

nlohmann::json ToJson(const DriftReport& r) {
  nlohmann::json json = {{"pipeline", ToString(r.numerics)},
                         {"mode", Name(r.mode)},
                         {"round", Name(r.side)},
                         {"dtype", Name(r.dtype)},
                         {"reference", r.reference},
                         {"tokens", r.tokens},
                         {"sequences", r.sequences},
                         {"layers", r.layers},
                         {"heads", r.heads},
                         {"seconds", r.seconds}};
  json["shifts"] = nlohmann::json::array();
  for (const DriftShift& s : r.shifts) {
    nlohmann::json shift = SumsJson(s.total);
    shift["delta"] = s.delta;
    shift["spread"] = SumsJson(s.spread);
    shift["by_layer"] = nlohmann::json::array();
    for (const DriftSums& sums : ByLayer(r, s)) shift["by_layer"].push_back(SumsJson(sums));
    shift["by_head"] = nlohmann::json::array();
    for (const DriftSums& sums : s.heads) shift["by_head"].push_back(SumsJson(sums));
    if (&s == &Shown(r)) {
      shift["tokens"] = s.tokens;
      shift["tokens_abs"] = s.tokens_abs;
    }
    shift["logits"] = nlohmann::json::array();
    for (const DriftLogit& logit : s.logits) {
      shift["logits"].push_back({{"length", logit.length}, {"d", logit.d}, {"abs", logit.abs}});
    }
    json["shifts"].push_back(std::move(shift));
  }
  return json;
}

std::string ToText(std::span<const DriftRun> runs) {
  const DriftReport& r = runs[0].report;
  const int64_t shown = Shown(r).delta;
  std::string out =
      fmt::format("{} of {}, {} of {}, mode {}, rounding {}, activations {}; positions against a shift of {}\n",
                  Counted(r.sequences, "sequence"), Counted(r.tokens, "token"), Counted(r.layers, "layer"),
                  Counted(r.heads, "head"), Name(r.mode), Name(r.side), Name(r.dtype), r.reference);
  out += "\nD_abs by shift, its standard deviation over sequences, and the share of the first token\n";
  out += ShiftTable(runs).ToString();
  out += fmt::format("\nshift {} against {}\n{}", shown, r.reference, MeasureTable(runs).ToString());
  out += fmt::format("\nD_abs by layer, shift {} against {}\n{}", shown, r.reference, LayerTable(runs).ToString());
  out += fmt::format("\nD_logit of the first key over T tokens, shift {} against {}\n{}", shown, r.reference,
                     LengthTable(runs).ToString());
  return out;
}

std::string ToCsv(std::span<const DriftRun> runs) {
  std::string out = "run,pipeline,mode,round,dtype,reference,delta,layer,head,d,d_abs,d_l1,first,first_abs,first_l1\n";
  for (const DriftRun& run : runs) {
    const DriftReport& r = run.report;
    for (const DriftShift& shift : r.shifts) {
      for (size_t i = 0; i < shift.heads.size(); ++i) {
        const DriftSums& s = shift.heads[i];
        out += fmt::format("{},{},{},{},{},{},{},{},{},{:.9g},{:.9g},{:.9g},{:.9g},{:.9g},{:.9g}\n", run.name,
                           ToString(r.numerics), Name(r.mode), Name(r.side), Name(r.dtype), r.reference, shift.delta,
                           i / static_cast<size_t>(r.heads), i % static_cast<size_t>(r.heads), s.d, s.abs, s.l1,
                           s.first, s.first_abs, s.first_l1);
      }
    }
  }
  return out;
}

std::string ToSvg(std::span<const DriftRun> runs) {
  const DriftReport& r = runs[0].report;
  const int64_t shown = Shown(r).delta;
  const std::string of =
      fmt::format("{} of {}, mode {}", Counted(r.sequences, "sequence"), Counted(r.tokens, "token"), Name(r.mode));
  // Shift 0 has a place on a log axis where distances from the reference do.
  LinePlot by_shift{.title = fmt::format("Shift by d positions against {}", r.reference),
                    .subtitle = "D_abs by |d - reference|, band: standard deviation over sequences; " + of,
                    .x = {.label = "distance of the shifts", .scale = AxisScale::kLog10},
                    .y = {.label = "D_abs", .scale = AxisScale::kLog10}};
  LinePlot by_token{.title = fmt::format("By key token, shift {} against {}", shown, r.reference),
                    .subtitle = "mean |column difference|, summed over layers and heads",
                    .x = {.label = "key token, counted from 1", .scale = AxisScale::kLog2},
                    .y = {.label = "n |C - C'|", .scale = AxisScale::kLog10}};
  LinePlot by_length{.title = fmt::format("Logits of the first key, shift {} against {}", shown, r.reference),
                     .subtitle = "|D_logit| over the first T rows",
                     .x = {.label = "T (tokens)", .scale = AxisScale::kLog2},
                     .y = {.label = "|D_logit|", .scale = AxisScale::kLog10}};
  for (const DriftRun& run : runs) {
    struct Mean {
      double sum = 0, spread = 0;
      int count = 0;
    };
    std::map<int64_t, Mean> distances;
    for (const DriftShift& shift : run.report.shifts) {
      if (shift.delta == run.report.reference) continue;
      Mean& mean = distances[std::abs(shift.delta - run.report.reference)];
      mean.sum += shift.total.abs;
      mean.spread += shift.spread.abs;
      ++mean.count;
    }
    PlotSeries shifts{.name = run.name, .dashed = run.random_weights};
    PlotSeries tokens = shifts, lengths = shifts;
    for (const auto& [distance, mean] : distances) {
      shifts.x.push_back(static_cast<double>(distance));
      shifts.y.push_back(mean.sum / mean.count);
      if (r.sequences < 2) continue;
      shifts.low.push_back((mean.sum - mean.spread) / mean.count);
      shifts.high.push_back((mean.sum + mean.spread) / mean.count);
    }
    const DriftShift& shift = Shown(run.report);
    const auto count = static_cast<int64_t>(shift.tokens_abs.size());
    for (int64_t begin = 0; begin < count;) {  // eighths of octaves
      const int64_t end = std::min(count, std::max(begin + 1, begin + begin / 8));
      double sum = 0;
      for (int64_t j = begin; j < end; ++j) sum += shift.tokens_abs[j];
      tokens.x.push_back(static_cast<double>(begin + 1));
      tokens.y.push_back(sum / static_cast<double>(end - begin));
      begin = end;
    }
    for (const DriftLogit& logit : shift.logits) {
      lengths.x.push_back(static_cast<double>(logit.length));
      lengths.y.push_back(std::abs(logit.d));
    }
    by_shift.series.push_back(std::move(shifts));
    by_token.series.push_back(std::move(tokens));
    by_length.series.push_back(std::move(lengths));
  }
  const LinePlot plots[] = {by_shift, by_token, by_length};
  return RenderSvg(plots);
}

}  // namespace hawser
