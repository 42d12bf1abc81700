#include "hawser/eval/short_context.h"

#include <algorithm>
#include <limits>

#include "hawser/base/progress.h"

namespace hawser {

std::vector<ShortWindow> PlanShortWindows(const ShortContext& context, int64_t tokens, bool with_first) {
  std::vector<ShortWindow> windows;
  for (int64_t begin = with_first ? 0 : context.delta; begin < tokens - context.k; begin += context.delta) {
    windows.push_back({begin, std::min(begin + context.first(), tokens), begin + context.k});
  }
  return windows;
}

std::vector<float> ShortContextNats(Decoder* decoder, std::span<const int32_t> tokens, const ShortContext& context,
                                    int64_t batch_tokens, bool with_first) {
  std::vector<float> nats(tokens.size(), std::numeric_limits<float>::quiet_NaN());
  const std::vector<ShortWindow> windows = PlanShortWindows(context, static_cast<int64_t>(tokens.size()), with_first);
  ProgressBar bar("short contexts", static_cast<int64_t>(windows.size()));
  std::vector<RowTarget> targets;
  std::vector<float> nll;
  for (size_t first = 0; first < windows.size();) {
    Batch batch;
    targets.clear();
    size_t last = first;
    for (; last < windows.size(); ++last) {
      const ShortWindow& w = windows[last];
      const int64_t rows = w.end - 1 - w.begin, base = batch.rows();
      if (last > first && base + rows > batch_tokens) break;
      batch.sequences.push_back({.begin = base, .layout = {.size = static_cast<int32_t>(rows)}});
      for (int64_t row = 0; row < rows; ++row) batch.positions.push_back(row);
      batch.ids.insert(batch.ids.end(), tokens.begin() + w.begin, tokens.begin() + w.end - 1);
      for (int64_t t = w.score_begin; t < w.end; ++t) {
        targets.push_back({static_cast<int32_t>(base + t - 1 - w.begin), tokens[t]});
      }
    }
    batch.targets.assign(batch.ids.size(), -1);
    batch.weights.assign(batch.ids.size(), 0);
    nll.resize(targets.size());
    decoder->ScoreRows(batch, targets, nll.data(), nullptr);
    size_t at = 0;
    for (; first < last; ++first) {
      for (int64_t t = windows[first].score_begin; t < windows[first].end; ++t) nats[t] = nll[at++];
    }
    bar.Update(static_cast<int64_t>(last), "");
  }
  return nats;
}

}  // namespace hawser
