// model/decoder.h - one transformer block for training, scoring and decoding: what was trained is what is served.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/kv/cache.h"
#include "hawser/model/key_bank.h"
#include "hawser/model/params.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Rows of one or more packed sequences, concatenated. `sequences[b]` are rows [begin, begin + layout.size).
struct Batch {
  struct Sequence {
    int64_t begin = 0;
    TokenLayout layout;
    // > 0: a stem of so many leading tokens goes before each document of the layout (anchors in scope=doc), as if every
    // one of them had its own. Their positions say so too.
    int32_t stem = 0;
    // With a KeyBank. Keys in front of its rows, which the layout counts too: [begin, begin + layout.size - before) are
    // rows. And room in the bank behind its keys, for those of other passes.
    int32_t before = 0, behind = 0;
  };
  std::vector<int32_t> ids;        // [N]
  std::vector<int64_t> positions;  // [N] rotary positions; a model with bilevel ones (pos/segments.h) counts its own
  std::vector<int32_t> targets;    // [N]; -1: none
  std::vector<float> weights;      // [N] loss weights
  // [N] nats that rows have with less before them, for gains up to most_gain (CrossEntropyArgs); NaN: none; or empty
  std::vector<float> reference;
  float most_gain = 5;
  // Further targets of rows, for a row that predicts several tokens: row extra_rows[e], ascending, has also the target
  // extra_targets[e] with its loss weight. [E] each
  std::vector<int32_t> extra_rows, extra_targets;
  std::vector<float> extra_weights;
  std::vector<Sequence> sequences;
  LayeredPattern pattern;

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

/// kNone keeps every activation; kLayer keeps each layer's input, attention output and lse, and recomputes the rest in
/// backward (attention is never run twice forward).
enum class Recompute : uint8_t { kNone, kLayer };

/// Of which tokens of a chunk the last hidden rows are wanted.
enum class Wanted : uint8_t { kNone, kLast, kAll };

/// Tokens that a stream goes on with.
struct DecodeChunk {
  KvCache* cache = nullptr;
  std::span<const int32_t> tokens;
  Wanted wanted = Wanted::kLast;
  /// It gets the same bits whoever shares the pass: its rows are multiplied by themselves, single ones of several such
  /// chunks a few at a time (kAlikeRows), which costs further readings of the weights.
  bool apart = false;
};

/// A product of up to so many rows with the weights of a model gives each row the same bits however many they are
/// (ops/backend.h, Linear).
inline constexpr int64_t kAlikeRows = 8;

/// Takes what Decoder::Run gives.
class RowSink {
 public:
  struct Row {
    size_t chunk = 0;   // of those that were given
    int64_t token = 0;  // of the chunk
  };
  virtual ~RowSink() = default;
  /// hidden [rows.size(), C]: the last hidden rows, normed, of some tokens that were wanted. Each comes once, those of
  /// a chunk in their order. Valid during the call.
  virtual void Rows(std::span<const Row> rows, ConstMat hidden) = 0;
};

/// What row `row` of a batch is asked for: how probable is `token` behind it?
struct RowTarget {
  int32_t row = 0;
  int32_t token = 0;
};

struct StepStats {
  double loss = 0;    // sum of weight * nll, extra targets and gains included
  double weight = 0;  // sum of weights, extra targets included, without gains
  double nats = 0;    // sum of weight * nll, likewise
  GainCounts gains;
  int64_t visible_pairs = 0;  // summed over sequences, mean over layers
  int64_t causal_pairs = 0;
};

class Decoder {
 public:
  /// What the weights view outlives the decoder, and so does the backend.
  Decoder(Backend* backend, Weights weights);
  Decoder(Backend* backend, const ParamStore* weights) : Decoder(backend, Weights(*weights)) {}
  ~Decoder();

  const ModelSpec& spec() const;

  /// Negative log-likelihood of every target: nll [N] nats (0 where the target is -1; extra targets count in the loss
  /// alone). Memory grows linearly with N.
  StepStats Score(const Batch& batch, float* nll) { return Score(batch, nll, nullptr); }
  /// The same for `targets` in place of those of the batch, in any order and any number a row: logits are made of these
  /// rows alone. Of the result only pairs are set. nll [targets] nats; greatest [targets], if given: 1 where no token
  /// is more probable.
  StepStats ScoreRows(const Batch& batch, std::span<const RowTarget> targets, float* nll, uint8_t* greatest);

  /// Forward and backward, for weights that are those of a ParamStore; gradients of grad_scale * loss are added to
  /// `grads` (F32), which may hold some of the parameters only: the others' are not computed. Groups (ContinuesGroup)
  /// are there as a whole or not at all.
  StepStats ForwardBackward(const Batch& batch, float grad_scale, Recompute recompute, ParamStore* grads) {
    return ForwardBackward(batch, grad_scale, recompute, grads, nullptr);
  }

  // Passes that hand keys to one another. Sequences see the keys that lie in `bank` before their own ones, which go
  // there too: keys of the bank are those of the sequences, one behind another, with the room that they leave.
  // Positions of rows are those of the batch. Not for models that bias by distance, fold it, count segments, or whose
  // frequencies depend on the length.

  /// Runs the rows for their keys alone.
  void Forward(const Batch& batch, KeyBank* bank);
  /// The same, and what BackwardKept needs is kept until another call of this decoder.
  void ForwardKept(const Batch& batch, KeyBank* bank);
  /// Backward of the last ForwardKept where nothing but the rows' raw keys and values was used, whose gradients are
  /// those of the bank.
  void BackwardKept(KeyBank* bank, ParamStore* grads);
  StepStats Score(const Batch& batch, float* nll, KeyBank* bank);
  /// The bank's gradients are those of all keys that sequences see.
  StepStats ForwardBackward(const Batch& batch, float grad_scale, Recompute recompute, ParamStore* grads,
                            KeyBank* bank);

  /// Raw keys and values (into `bank`, [R] rows) of token r as if it came next in the stream of caches[r]. The streams
  /// have not seen it afterwards, and are all different.
  void Peek(std::span<const int32_t> tokens, std::span<KvCache* const> caches, KeyBank* bank);

  /// Runs the tokens of each chunk against and into its cache, all different, in as few passes over the weights as the
  /// policies allow: prompts and single tokens of streams of any lengths and policies share a pass. Each stream gets
  /// what it would get alone, to the bit where it is `apart`, else but for the rounding of products of several rows.
  /// After an Error caches have seen none or some of their tokens. `cancelled`, if given, is asked before each pass;
  /// once it says so, caches have seen what came before.
  void Run(std::span<const DecodeChunk> chunks, RowSink* sink, const std::function<bool()>& cancelled);
  void Run(std::span<const DecodeChunk> chunks, RowSink* sink);
  /// Logits [N, V] of such rows, F32.
  void Logits(ConstMat hidden, Mat logits);
  /// nll [N]: the nats of targets [N] (-1: 0) of such rows, without their logits; greatest [N], if given: 1 where no
  /// token is more probable.
  void Nll(ConstMat hidden, const int32_t* targets, float* nll, uint8_t* greatest = nullptr);

  /// Run of one chunk. `logits`, if given, is F32:
  /// [1, V] receives the row of the last token, [tokens, V] every row. `nll`, if given, receives for each token the
  /// nats of the token after it in `targets` [tokens] (-1: 0), without ever holding logits of more than a chunk, and
  /// `greatest`, if given, 1 where no token is more probable.
  void Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits, const std::function<bool()>& cancelled);
  void Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits);
  void ExtendScore(std::span<const int32_t> tokens, std::span<const int32_t> targets, KvCache* cache, float* nll,
                   uint8_t* greatest = nullptr);

  /// Run of one token for each of several streams: token r goes to caches[r], and its logits to row r of `logits`
  /// [R, V].
  void Step(std::span<const int32_t> tokens, std::span<KvCache* const> caches, Mat logits);

  /// Bytes of activations the last ForwardBackward or Score held at its peak.
  int64_t activation_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hawser
