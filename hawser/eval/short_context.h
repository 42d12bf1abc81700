// eval/short_context.h - how probable tokens are behind a short context, for what a long one brings (arXiv:2410.23771):
// a long text in windows that overlap, each read by itself.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/model/decoder.h"

namespace hawser {

/// A token is predicted behind the K to K + delta - 1 tokens before it.
struct ShortContext {
  int64_t k = 4096;
  int64_t delta = 1024;

  bool operator==(const ShortContext&) const = default;
  /// The first token of a text whose short context is not all that came before it.
  int64_t first() const { return k + delta; }
};

/// One pass: reads [begin, end - 1) from position 0 on, predicts [score_begin, end).
struct ShortWindow {
  int64_t begin = 0, end = 0, score_begin = 0;

  bool operator==(const ShortWindow&) const = default;
};

/// Windows of K + delta tokens (the last is shorter), one every delta, of a text of `tokens`: each predicts its last
/// delta tokens. That at 0 sees all there is and is left out, but `with_first`. REQUIRES: k, delta >= 1.
std::vector<ShortWindow> PlanShortWindows(const ShortContext& context, int64_t tokens, bool with_first = false);

/// Nats [tokens] of each token behind its short context; NaN in front of the first window's predictions. Windows are
/// packed in passes of `batch_tokens` rows, a longer one alone; of the head only rows that predict are computed.
std::vector<float> ShortContextNats(Decoder* decoder, std::span<const int32_t> tokens, const ShortContext& context,
                                    int64_t batch_tokens, bool with_first = false);

}  // namespace hawser
