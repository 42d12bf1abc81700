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

/// Appends a window of the document that begins at row `document` of a sequence, anchors in front.
void AppendWindow(const PackedSequence& s, int32_t document, const ShortWindow& window, size_t first_row,
                  WindowBatch* out) {
  Batch& batch = out->batch;
  const int32_t anchors = batch.pattern.anchors, begin = document + static_cast<int32_t>(window.begin);
  const auto length = static_cast<int32_t>(window.length), start = static_cast<int32_t>(batch.rows());
  Batch::Sequence sequence{.begin = start, .layout = MakeLayout(anchors, {length})};
  const auto append = [&](int32_t row, int64_t position) {
    batch.ids.push_back(s.ids[row]);
    batch.positions.push_back(position);
    if (!s.layout.is_separator.empty()) sequence.layout.is_separator.push_back(s.layout.is_separator[row]);
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
  size_t first_row = 0;
  for (const PackedSequence& s : sequences) nats.resize(nats.size() + s.ids.size(), std::nanf(""));
  for (const PackedSequence& s : sequences) {
    const TokenLayout& layout = s.layout;
    for (int32_t begin = pattern.anchors, end = begin; begin < layout.size; begin = end) {
      while (end < layout.size && layout.doc_begin[end] == layout.doc_begin[begin]) ++end;
      if (layout.IsPadding(begin)) continue;
      for (const ShortWindow& window : ShortWindows(end - begin, long_ce.k, long_ce.delta)) {
        const int64_t at = begin + window.begin;
        if (!HasTarget(s, at + window.scored, at + window.length)) continue;
        if (windows.batch.rows() > 0 && windows.batch.rows() + pattern.anchors + window.length > rows_at_once) {
          RunWindows(decoder, &windows, &nats, passes);
        }
        AppendWindow(s, begin, window, first_row, &windows);
      }
    }
    first_row += s.ids.size();
  }
  RunWindows(decoder, &windows, &nats, passes);
  return nats;
}

}  // namespace hawser
