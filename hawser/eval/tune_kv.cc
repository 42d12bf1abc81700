#include "hawser/eval/tune_kv.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/perplexity.h"

namespace hawser {
namespace {

constexpr int32_t kAll = AttnPattern::kAll;
constexpr int32_t kSmallest = 8;  // tokens

/// Measures a list of windows on one text.
class Judge {
 public:
  Judge(Backend* backend, const Weights& params, const Tokenizer& tokenizer, std::vector<TextDocument> documents,
        const TuneKvOptions& options)
      : backend_(backend),
        params_(params),
        tokenizer_(tokenizer),
        documents_(std::move(documents)),
        options_(options) {}

  PplReport Measure(const std::vector<int32_t>& windows) const {
    PplOptions options{.context = options_.context, .max_tokens = options_.max_tokens};
    options.bos = options_.bos;
    options.pattern = AttnPattern{.sinks = options_.sinks, .separators = true, .separator_set = options_.separator_set};
    options.pattern.layer_windows = windows;
    return MeasurePerplexity(backend_, params_, tokenizer_, documents_, options);
  }
  double Nll(const PplReport& report) const { return report.nll / static_cast<double>(report.tokens); }

 private:
  Backend* backend_;
  Weights params_;
  const Tokenizer& tokenizer_;
  std::vector<TextDocument> documents_;
  const TuneKvOptions& options_;
};

/// The halves of each document, cut at a line's end where there is one.
std::pair<std::vector<TextDocument>, std::vector<TextDocument>> Halves(const std::vector<TextDocument>& documents) {
  std::pair<std::vector<TextDocument>, std::vector<TextDocument>> halves;
  for (const TextDocument& document : documents) {
    const std::string& text = document.text;
    size_t cut = text.find('\n', text.size() / 2);
    if (cut == text.npos) cut = text.size() / 2;
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) ++cut;
    halves.first.push_back({document.source, document.path, text.substr(0, cut)});
    halves.second.push_back({document.source, document.path, text.substr(cut)});
  }
  return halves;
}

/// From the last candidate everywhere, the step of one layer to a smaller window that costs least for each share of
/// keys it saves, until the mean share is within the budget.
std::vector<size_t> Choose(const std::vector<std::vector<double>>& cost, const std::vector<double>& ratio,
                           double budget) {
  const size_t layers = cost.size();
  std::vector<size_t> at(layers, ratio.size() - 1);
  double mean = ratio.back();
  while (mean > budget) {
    size_t best_layer = layers, best_window = 0;
    double best = INFINITY;
    for (size_t layer = 0; layer < layers; ++layer) {
      for (size_t w = 0; w < at[layer]; ++w) {
        const double slope = (cost[layer][w] - cost[layer][at[layer]]) / (ratio[at[layer]] - ratio[w]);
        if (slope < best) best = slope, best_layer = layer, best_window = w;
      }
    }
    HAWSER_CHECK(best_layer < layers);  // the budget can be met
    mean -= (ratio[at[best_layer]] - ratio[best_window]) / static_cast<double>(layers);
    at[best_layer] = best_window;
  }
  return at;
}

}  // namespace

std::string KvChoice::Kv(int32_t sinks, const std::string& separator_set) const {
  if (std::ranges::all_of(windows, [](int32_t w) { return w == kAll; })) return "full";
  const bool same = std::ranges::all_of(windows, [&](int32_t w) { return w == windows.front(); });
  std::string text = fmt::format("sep:{},", sinks);
  for (size_t l = 0; l < (same ? 1 : windows.size()); ++l) {
    text += (l > 0 ? "+" : "") + (windows[l] == kAll ? "all" : fmt::format("{}", windows[l]));
  }
  return text + (separator_set.empty() ? "" : ",sep=" + separator_set);
}

TuneKvReport TuneKv(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                    const std::vector<TextDocument>& documents, const TuneKvOptions& given) {
  TuneKvOptions options = given;
  if (!(options.budget > 0 && options.budget <= 1)) {
    Fail(ErrorKind::kUsage, "budget {}: wanted a share of the keys above 0 and at most 1", options.budget);
  }
  if (options.context == 0) options.context = params.spec().context;
  auto [first, second] = Halves(documents);
  const Judge calibration(backend, params, tokenizer, std::move(first), options);
  const Judge held_out(backend, params, tokenizer, std::move(second), options);
  const auto layers = static_cast<size_t>(params.spec().layers);
  const auto uniform = [&](int32_t window) { return std::vector<int32_t>(layers, window); };

  TuneKvReport report{.context = options.context};
  for (int64_t w = kSmallest; w < options.context; w *= 2) report.candidates.push_back(static_cast<int32_t>(w));
  report.candidates.push_back(kAll);
  const size_t count = report.candidates.size();
  std::vector<double> ratio(count);
  for (size_t w = 0; w < count; ++w) ratio[w] = calibration.Measure(uniform(report.candidates[w])).kv.ratio;
  if (ratio[0] > options.budget) {
    Fail(ErrorKind::kUsage,
         "budget {}: initial tokens and separators alone are {:.3f} of the keys with a window of {}; choose a larger "
         "budget, or fewer separators with --sep",
         options.budget, ratio[0], kSmallest);
  }

  const PplReport whole = calibration.Measure(uniform(kAll));
  const double full_nll = calibration.Nll(whole);
  report.tokens = whole.tokens;
  report.cost.assign(layers, std::vector<double>(count));
  ProgressBar bar("tune-kv", static_cast<int64_t>(layers * (count - 1)));
  for (size_t layer = 0; layer < layers; ++layer) {
    for (size_t w = 0; w + 1 < count; ++w) {
      std::vector<int32_t> windows = uniform(kAll);
      windows[layer] = report.candidates[w];
      report.cost[layer][w] = calibration.Nll(calibration.Measure(windows)) - full_nll;
      bar.Update(static_cast<int64_t>(layer * (count - 1) + w + 1));
    }
  }
  bar.Finish();

  // The largest single window within the budget, by bisection: more window, more keys.
  int32_t low = kSmallest, high = static_cast<int32_t>(options.context);
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    (calibration.Measure(uniform(middle)).kv.ratio <= options.budget ? low : high) = middle;
  }
  report.full.windows = uniform(kAll);
  report.fixed.windows = uniform(options.budget >= 1 ? kAll : low);
  for (const size_t w : Choose(report.cost, ratio, options.budget)) {
    report.adaptive.windows.push_back(report.candidates[w]);
  }
  for (KvChoice* choice : {&report.full, &report.fixed, &report.adaptive}) {
    const PplReport judged = held_out.Measure(choice->windows);
    choice->nll = held_out.Nll(judged);
    choice->ratio = judged.kv.ratio;
    choice->tuned_nll = calibration.Nll(calibration.Measure(choice->windows));
  }
  return report;
}

}  // namespace hawser
