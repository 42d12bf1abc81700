// infer/focus.h - reading far beyond the context with FocusLLM's candidates (model/focus.h).
// Each token joins the prompt of every chunk and becomes the candidate; every `sync` tokens candidates are made anew
// and the window is read again behind them. In between the window grows by what it is given. sync=1 is the paper's
// method.
//   rows of a prompt of n tokens, M of them memory in k chunks:  M + k (P + 1), then the window
//   rows of a token, in the mean:                                k + (k + W) / sync + 1 - 1 / sync
// with P = bos + prompt - 1, and W the window with BOS and all that came behind it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/infer/generation.h"
#include "hawser/kv/cache.h"
#include "hawser/model/decoder.h"
#include "hawser/model/focus.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct FocusOptions {
  FocusShape shape;
  int64_t sync = 1;  // tokens between candidates
};

/// Rows that went through the network.
struct FocusRows {
  int64_t chunk = 0;      // of memory and prompts
  int64_t candidate = 0;  // with projections of their own
  int64_t local = 0;      // of windows
  int64_t total() const { return chunk + candidate + local; }
};

/// How many tokens of a text of `tokens` are memory: what is in front of the window, or nothing where BOS alone would
/// be.
int64_t FocusMemory(const FocusShape& shape, int64_t tokens, bool bos);

/// The token that a text may begin with, as prompts are made; -1: none.
int32_t FocusBos(const Tokenizer& tokenizer, BosRule rule);

/// New tokens that fit behind a text of `tokens`. Errors: kUsage where the text itself does not.
int64_t FocusRoom(const ModelSpec& spec, const FocusShape& shape, int64_t tokens, bool bos);

/// The longest text that fits with `more` behind it.
int64_t FocusReach(const ModelSpec& spec, const FocusShape& shape, int64_t more);

class FocusStream : public LogitsSource {
 public:
  /// The decoders, of one backend, are of a model and of WithCandidates of it; both outlive this. `bos`: what a text
  /// may begin with, -1: nothing. Errors: kUnsupported as CheckFocus; kUsage for sizes below 1.
  FocusStream(Backend* backend, Decoder* base, Decoder* candidates, DType activations, int32_t bos,
              const FocusOptions& options);

  int32_t vocab() const override { return static_cast<int32_t>(logits_.cols()); }
  /// A text up to shape.local tokens has no memory and is read as by Generation. A further turn is read with all before
  /// it from the beginning. Errors: also those of CheckFocusFits.
  std::span<const float> Prefill(std::span<const int32_t> ids, const Cancelled& cancelled = {}) override;
  /// Errors: kUsage where the token fits no more (CheckFocusFits).
  std::span<const float> Step(int32_t id) override;
  /// Forgets the text, rows apart.
  void Reset();

  int64_t memory() const { return memory_; }
  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()); }
  const FocusRows& rows() const { return rows_; }
  int64_t bytes() const;  // of keys and values
  /// Raw keys and values of the candidates of the last sync, [chunks, G*D] a layer.
  KeyBank& candidates() { return *candidates_; }

 private:
  KvCache NewCache() const;
  std::span<const float> Logits() const { return {logits_.Row<float>(0), static_cast<size_t>(logits_.cols())}; }
  void FeedChunks(int64_t end);
  void Sync();
  void ReadWindow();

  Backend* backend_;
  Decoder* base_;
  Decoder* condense_;
  DType activations_;
  int32_t bos_;
  FocusOptions options_;
  std::vector<int32_t> text_;
  bool has_bos_ = false;  // the text begins with it
  int64_t memory_ = 0;    // tokens
  int64_t fed_ = 0;       // of the text, to every chunk
  int64_t since_sync_ = 0;
  std::vector<std::unique_ptr<KvCache>> chunks_;
  std::unique_ptr<KvCache> local_;
  std::unique_ptr<KeyBank> candidates_;
  FocusRows rows_;
  Matrix logits_;  // [1, V]
};

}  // namespace hawser
