#include "hawser/train/objective.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hawser/data/windows.h"

namespace hawser {
namespace {

/// Windows that wait for their pass.
struct WindowBatch {
  Batch batch;
  std::vector<RowTarget> targets;
  std::vector<size_t> rows;  // that the targets are of, in all sequences
};

/// Of `length` rows from `begin` on, behind the anchors.
TokenLayout WindowLayout(const PackedSequence& s, int32_t anchors, int32_t begin, int32_t length) {
  TokenLayout layout = MakeLayout(anchors, {length});
  const std::vector<uint8_t>& separators = s.layout.is_separator;
  if (separators.empty()) return layout;
  layout.is_separator.assign(separators.begin(), separators.begin() + anchors);
  layout.is_separator.insert(layout.is_separator.end(), separators.begin() + begin,
                             separators.begin() + begin + length);
  return layout;
}

/// Appends a window of the document that begins at row `document` of a sequence, anchors in front.
void AppendWindow(const PackedSequence& s, int32_t document, const ShortWindow& window, size_t first_row,
                  WindowBatch* out) {
  Batch& batch = out->batch;
  const int32_t anchors = batch.pattern.anchors, begin = document + static_cast<int32_t>(window.begin);
  const auto length = static_cast<int32_t>(window.length), start = static_cast<int32_t>(batch.rows());
  Batch::Sequence sequence{.begin = start, .layout = WindowLayout(s, anchors, begin, length)};
  const auto append = [&](int32_t row, int64_t position) {
    batch.ids.push_back(s.ids[row]);
    batch.positions.push_back(position);
  };
  for (int32_t a = 0; a < anchors; ++a) append(a, s.positions[a]);
  for (int32_t r = begin; r < begin + length; ++r) append(r, anchors + s.positions[r] - s.positions[begin]);
  for (auto r = static_cast<int32_t>(window.scored); r < length; ++r) {
    if (s.targets[begin + r] < 0 || !(s.weights[begin + r] > 0)) continue;
    out->targets.push_back({start + anchors + r, s.targets[begin + r]});
    out->rows.push_back(first_row + static_cast<size_t>(begin + r));
  }
  batch.sequences.push_back(std::move(sequence));
}

bool HasTarget(const PackedSequence& s, int64_t from, int64_t to) {
  for (int64_t r = from; r < to; ++r) {
    if (s.targets[r] >= 0 && s.weights[r] > 0) return true;
  }
  return false;
}

/// visit(sequence, row at which the document begins, window) for each window with something to score, in order.
template <class Visit>
void ForEachWindow(std::span<const PackedSequence> sequences, int32_t anchors, const LongCe& long_ce, Visit&& visit) {
  for (const PackedSequence& s : sequences) {
    const TokenLayout& layout = s.layout;
    for (int32_t begin = anchors, end = begin; begin < layout.size; begin = end) {
      while (end < layout.size && layout.doc_begin[end] == layout.doc_begin[begin]) ++end;
      if (layout.IsPadding(begin)) continue;
      for (const ShortWindow& window : ShortWindows(end - begin, long_ce.k, long_ce.delta)) {
        const int64_t at = begin + window.begin;
        if (HasTarget(s, at + window.scored, at + window.length)) visit(s, begin, window);
      }
    }
  }
}

/// Scores the windows that wait and forgets them.
void RunWindows(Decoder* decoder, WindowBatch* windows, std::vector<float>* nats, ShortPasses* passes) {
  Batch& batch = windows->batch;
  if (batch.rows() == 0) return;
  batch.targets.assign(batch.ids.size(), -1);
  batch.weights.assign(batch.ids.size(), 0.0f);
  std::vector<float> nll(windows->targets.size());
  passes->visible_pairs += decoder->ScoreRows(batch, windows->targets, nll.data(), nullptr).visible_pairs;
  passes->rows += batch.rows();
  for (size_t t = 0; t < nll.size(); ++t) (*nats)[windows->rows[t]] = nll[t];
  *windows = {.batch = {.pattern = batch.pattern}};
}

}  // namespace

Objective ParseObjective(std::string_view text) {
  return text.empty() ? Objective() : ParseForm<Objective>("objective", text);
}

std::vector<float> ShortContextNats(Decoder* decoder, std::span<const PackedSequence> sequences,
                                    const LayeredPattern& pattern, const LongCe& long_ce, int64_t rows_at_once,
                                    ShortPasses* passes) {
  std::vector<float> nats;
  WindowBatch windows{.batch = {.pattern = pattern}};
  std::vector<size_t> first_rows;
  for (const PackedSequence& s : sequences) {
    first_rows.push_back(nats.size());
    nats.resize(nats.size() + s.ids.size(), std::nanf(""));
  }
  ForEachWindow(sequences, pattern.anchors, long_ce,
                [&](const PackedSequence& s, int32_t document, const ShortWindow& window) {
                  const int64_t rows = windows.batch.rows();
                  if (rows > 0 && rows + pattern.anchors + window.length > rows_at_once) {
                    RunWindows(decoder, &windows, &nats, passes);
                  }
                  AppendWindow(s, document, window, first_rows[static_cast<size_t>(&s - sequences.data())], &windows);
                });
  RunWindows(decoder, &windows, &nats, passes);
  return nats;
}

std::vector<TokenLayout> ShortLayouts(std::span<const PackedSequence> sequences, const LayeredPattern& pattern,
                                      const LongCe& long_ce) {
  std::vector<TokenLayout> layouts;
  ForEachWindow(sequences, pattern.anchors, long_ce,
                [&](const PackedSequence& s, int32_t document, const ShortWindow& window) {
                  layouts.push_back(WindowLayout(s, pattern.anchors, document + static_cast<int32_t>(window.begin),
                                                 static_cast<int32_t>(window.length)));
                });
  return layouts;
}

}  // namespace hawser
