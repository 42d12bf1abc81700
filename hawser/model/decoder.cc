#include "hawser/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/block.h"
#include "hawser/model/fold_rules.h"
#include "hawser/model/workspace.h"

namespace hawser {
namespace {

// Rows of one decoding call at most, so that its scratch stays small whatever the length of a prompt.
constexpr int32_t kMaxChunk = 1024;

void CheckIds(std::span<const int32_t> ids, int32_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      Fail(ErrorKind::kUsage, "token {} has id {}, the vocabulary has ids 0 to {}; is it the model's own tokenizer?", i,
           ids[i], vocab - 1);
    }
  }
}

/// Errors: kUsage.
void CheckExtraTargets(const Batch& batch) {
  const size_t extra = batch.extra_rows.size();
  if (batch.extra_targets.size() != extra || batch.extra_weights.size() != extra) {
    Fail(ErrorKind::kUsage, "batch of {} extra rows has {} extra targets, {} extra weights", extra,
         batch.extra_targets.size(), batch.extra_weights.size());
  }
  for (size_t e = 0; e < extra; ++e) {
    const int32_t row = batch.extra_rows[e], least = e == 0 ? 0 : batch.extra_rows[e - 1];
    if (row >= least && row < batch.rows()) continue;
    Fail(ErrorKind::kUsage, "extra target {} is of row {}, wanted an ascending row in [{}, {})", e, row, least,
         batch.rows());
  }
}

void SetLoss(const CrossEntropyResult& result, StepStats* stats) {
  stats->loss = result.loss;
  stats->weight = result.weight;
  stats->nats = result.nats;
  stats->gains = result.gains;
}

/// The bank that a call of a decoder works with.
class BankInUse {
 public:
  BankInUse(KeyBank** used, KeyBank* bank) : used_(used) { *used_ = bank; }
  ~BankInUse() { *used_ = nullptr; }
  BankInUse(const BankInUse&) = delete;
  BankInUse& operator=(const BankInUse&) = delete;

 private:
  KeyBank** used_;
};

/// Takes back what streams have begun where a pass ends by an Error.
struct PassGuard {
  std::vector<KvCache::Chunk>* begun;
  ~PassGuard() { begun->clear(); }
};

/// Logits of rows into those of a matrix, consecutive ones of a call, from at(first row) on.
template <class At>
class LogitsSink : public RowSink {
 public:
  LogitsSink(Decoder* decoder, Mat logits, At at) : decoder_(decoder), logits_(logits), at_(at) {}
  void Rows(std::span<const Row> rows, ConstMat hidden) override {
    decoder_->Logits(hidden, logits_.Rows(at_(rows.front()), hidden.rows));
  }

 private:
  Decoder* decoder_;
  Mat logits_;
  At at_;
};

}  // namespace

struct Decoder::Impl {
  Backend* backend;
  Weights weights;
  Workspace work;
  DType qkv_dtype;
  std::vector<BlockSaved> saved;  // training: one a layer; kept between steps of the same shape
  BlockSaved scored;              // of a batch without backward: its layers take turns
  Matrix last;                    // [N, C] output of the last block (training)
  /// The rotations of a batch by one rope; layers share it.
  struct Rotation {
    const RopeSpec* rope;
    RopeFrequencies frequencies;
    std::vector<float> cos, sin;
    std::vector<float> query_scale;       // [N], where the rope has one
    std::vector<float> far_cos, far_sin;  // of the queries of far keys; empty: there are none
  };
  std::vector<Rotation> rotations;
  std::vector<int32_t> rotation_of;  // [L] in rotations; -1: the layer does not rotate
  std::vector<float> slopes;         // [H] of ALiBi, else empty
  std::vector<int32_t> row_places;   // [N] that they count with
  std::vector<int64_t> positions;    // of a batch, as rotations count them
  std::vector<int32_t> places;       // of its rows in their segments (bilevel positions)
  std::vector<DecodeArgs::Row> decode_rows;
  // Of a pass of Run, kept so that a token allocates nothing: the streams in it, their tokens, the rows that are
  // wanted.
  std::vector<KvCache*> caches;
  std::vector<KvCache::Chunk> begun;
  std::vector<int32_t> pass_ids;
  std::vector<RowSink::Row> wanted;
  std::vector<RowRange> runs, products;
  std::vector<size_t> done;
  std::vector<DecodeChunk> step_chunks;
  LayerPatterns patterns;
  std::vector<std::vector<AttnSchedule>> schedules;  // one list a pattern, one schedule a sequence
  std::vector<std::vector<AttnSequence>> sequences;
  KeyBank* bank = nullptr;  // of the call under way; null: there is none

  Impl(Backend* b, Weights w)
      : backend(b), weights(std::move(w)), work(b), qkv_dtype(QkvDType(weights.spec(), weights.dtype())) {
    for (int32_t layer = 0; layer < spec().layers; ++layer) {
      rotation_of.push_back(Rotates(spec(), layer) ? RotationBy(RopeOf(spec(), layer)) : -1);
    }
    if (spec().places == Places::kAlibi) {
      AlibiSpec alibi = spec().alibi;
      if (alibi.bf16) alibi.multiplier = 1;  // behind the rounding (BlockContext::Shape)
      slopes = AlibiSlopes(alibi, spec().heads);
    }
  }

  int32_t RotationBy(const RopeSpec& rope) {
    const auto same = std::ranges::find(rotations, &rope, &Rotation::rope);
    const auto index = static_cast<int32_t>(same - rotations.begin());
    if (same == rotations.end()) {
      rotations.push_back({.rope = &rope, .frequencies = ComputeFrequencies(rope, spec().context)});
    }
    return index;
  }

  const ModelSpec& spec() const { return weights.spec(); }
  DType dtype() const { return weights.dtype(); }

  StepStats Prepare(const Batch& batch) {
    const int64_t rows = batch.rows();
    const auto same = [&](size_t n) { return static_cast<int64_t>(n) == rows; };
    if (rows == 0) Fail(ErrorKind::kUsage, "a batch needs at least one token");
    if (!same(batch.positions.size()) || !same(batch.targets.size()) || !same(batch.weights.size())) {
      Fail(ErrorKind::kUsage, "batch of {} ids has {} positions, {} targets, {} weights", rows, batch.positions.size(),
           batch.targets.size(), batch.weights.size());
    }
    if (!batch.reference.empty() && !same(batch.reference.size())) {
      Fail(ErrorKind::kUsage, "batch of {} ids has references of {} rows", rows, batch.reference.size());
    }
    CheckIds(batch.ids, spec().vocab);
    CheckExtraTargets(batch);
    patterns = PatternsOfLayers(batch.pattern, spec().layers, OwnPattern(spec()));
    const size_t distinct = patterns.distinct.size();
    schedules.assign(distinct, {});
    sequences.assign(distinct, {});
    StepStats stats;
    int64_t next = 0, keys = 0;
    std::vector<int64_t> visible(distinct), key_begins;
    for (const Batch::Sequence& sequence : batch.sequences) {
      if (sequence.begin != next) {
        Fail(ErrorKind::kUsage, "batch sequence begins at row {}, wanted {}", sequence.begin, next);
      }
      key_begins.push_back(keys);
      next += sequence.layout.size - sequence.before;
      keys += sequence.layout.size + sequence.behind;
      stats.causal_pairs += static_cast<int64_t>(sequence.layout.size) * (sequence.layout.size + 1) / 2;
    }
    for (size_t p = 0; p < distinct; ++p) {
      schedules[p].reserve(batch.sequences.size());
      for (size_t b = 0; b < batch.sequences.size(); ++b) {
        const Batch::Sequence& sequence = batch.sequences[b];
        AttnPattern pattern = patterns.distinct[p];
        if (sequence.stem > 0) {
          pattern.scope = Scope::kDocument;
          pattern.anchors = sequence.stem;
        }
        schedules[p].push_back(CompileSchedule(pattern, sequence.layout, sequence.layout.size - sequence.before));
        sequences[p].push_back({sequence.begin, key_begins[b], &schedules[p].back()});
        visible[p] += schedules[p].back().visible_pairs;
      }
    }
    for (const size_t p : patterns.of_layer) stats.visible_pairs += visible[p];
    stats.visible_pairs /= spec().layers;
    if (next != rows) Fail(ErrorKind::kUsage, "batch sequences cover {} rows of {}", next, rows);
    CheckBank(rows, keys);
    positions = batch.positions;
    if (spec().segments.places > 0) PlaceSegments(batch);
    for (Rotation& rotation : rotations) FillRotation(batch, &rotation);
    if (spec().rope.fold.active()) FoldBatch(batch);
    if (!slopes.empty()) row_places.assign(positions.begin(), positions.end());
    return stats;
  }

  /// Without a bank keys are those of the rows.
  void CheckBank(int64_t rows, int64_t keys) const {
    if (bank == nullptr || bank->keys() == 0) {
      HAWSER_CHECK(keys == rows);
      return;
    }
    HAWSER_CHECK(bank->keys() == keys && slopes.empty() && spec().segments.places == 0 && !spec().rope.fold.active());
    for (const Rotation& rotation : rotations) HAWSER_CHECK(!DependsOnLength(*rotation.rope));
  }

  void FillRotation(const Batch& batch, Rotation* rotation) {
    const size_t half = rotation->frequencies.inv_freq.size();
    rotation->cos.resize(static_cast<size_t>(batch.rows()) * half);
    rotation->sin.resize(rotation->cos.size());
    rotation->query_scale.clear();
    if (const QueryScale& scale = rotation->rope->query_scale) {
      for (const int64_t position : positions) rotation->query_scale.push_back(scale.At(position));
    }
    FillTables(batch, *rotation, /*far=*/false, rotation->cos.data(), rotation->sin.data());
  }

  /// cos, sin [N, half] of rows, or of rows as queries of far keys. Frequencies that depend on the length are those of
  /// each sequence's own.
  void FillTables(const Batch& batch, const Rotation& rotation, bool far, float* cos, float* sin) {
    const auto half = static_cast<int64_t>(rotation.frequencies.inv_freq.size());
    std::vector<int64_t> far_positions;
    for (const int64_t position : positions) {
      if (far) far_positions.push_back(rotation.rope->fold.FarPosition(position));
    }
    const std::vector<int64_t>& at = far ? far_positions : positions;
    if (!DependsOnLength(*rotation.rope)) {
      FillRopeTable(rotation.frequencies, at.data(), batch.rows(), cos, sin);
      return;
    }
    for (const Batch::Sequence& sequence : batch.sequences) {
      const int64_t* first = positions.data() + sequence.begin;
      int64_t length = 1;
      for (int32_t k = 0; k < sequence.layout.size; ++k) {
        if (!sequence.layout.IsPadding(k)) length = std::max(length, first[k] + 1);
      }
      FillRopeTable(ComputeFrequencies(*rotation.rope, length), at.data() + sequence.begin, sequence.layout.size,
                    cos + sequence.begin * half, sin + sequence.begin * half);
    }
  }

  /// Marks far keys in the schedules, and rotates the queries of these, in the layers that fold distances.
  void FoldBatch(const Batch& batch) {
    const RopeFold& fold = spec().rope.fold;
    CheckFold(spec(), batch.pattern);
    bool far = false;
    for (size_t p = 0; p < schedules.size(); ++p) {
      for (size_t b = 0; b < batch.sequences.size(); ++b) {
        AttnSchedule& schedule = schedules[p][b];
        const auto first = positions.begin() + batch.sequences[b].begin;
        SplitFar(fold.shift, {first, first + schedule.num_keys}, &schedule);
        far = far || schedule.has_far();
      }
    }
    for (Rotation& rotation : rotations) {
      const size_t table = far && rotation.rope->fold.active() ? rotation.cos.size() : 0;
      rotation.far_cos.resize(table);
      rotation.far_sin.resize(table);
      if (table > 0) FillTables(batch, rotation, /*far=*/true, rotation.far_cos.data(), rotation.far_sin.data());
    }
  }

  /// Bilevel positions, from the start of each sequence.
  void PlaceSegments(const Batch& batch) {
    places.clear();
    for (const Batch::Sequence& sequence : batch.sequences) {
      SegmentCounter counter;
      for (int64_t row = sequence.begin; row < sequence.begin + sequence.layout.size; ++row) {
        positions[static_cast<size_t>(row)] = counter.segment;
        places.push_back(counter.Row(spec().segments));
        counter.Pass(spec().segments, batch.ids[static_cast<size_t>(row)]);
      }
    }
  }

  /// x = embeddings of `ids`, and of their places where the model has them; without the norm that some put behind.
  void EmbedRows(const int32_t* ids, const int32_t* rows_of_places, Mat x) {
    backend->EmbedForward(weights.Get(Role::kEmbedding), ids, x, spec().embedding_scale);
    if (spec().segments.places == 0) return;
    const Mat added = work.Get(Workspace::kProjected, x.rows, x.cols, x.dtype);
    backend->EmbedForward(weights.Get(Role::kPlaces), rows_of_places, added);
    backend->Add(added, x);
  }

  /// What the first block reads.
  void Embed(const int32_t* ids, const int32_t* rows_of_places, Mat x) {
    EmbedRows(ids, rows_of_places, x);
    if (spec().embedding_norm) Norm(x, Role::kEmbeddingNorm, x, nullptr);
  }

  /// d: gradient of what the first block reads.
  void EmbedBackward(const Batch& batch, Mat d, ParamStore* grads) {
    if (spec().embedding_norm) {
      const Mat x = work.Get(Workspace::kGradNormed, d.rows, d.cols, d.dtype);
      EmbedRows(batch.ids.data(), places.data(), x);
      const Mat rstd = work.Get(Workspace::kRstd, 1, d.rows, DType::kF32);
      Norm(x, Role::kEmbeddingNorm, work.Get(Workspace::kNormed, d.rows, d.cols, d.dtype), rstd.Row<float>(0));
      NormBackward(x, Role::kEmbeddingNorm, rstd.Row<float>(0), d, d, grads);
    }
    if (const Mat table = grads->Get(Role::kEmbedding); !table.empty()) {
      backend->EmbedBackward(d, batch.ids.data(), table, spec().embedding_scale);
    }
    if (spec().segments.places == 0) return;
    if (const Mat table = grads->Get(Role::kPlaces); !table.empty()) {
      backend->EmbedBackward(d, places.data(), table);
    }
  }

  /// A norm outside of blocks.
  void Norm(ConstMat x, Role role, Mat y, float* rstd) {
    backend->NormForward({.x = x,
                          .weight = weights.Get(role),
                          .bias = weights.Bias(role),
                          .y = y,
                          .rstd = rstd,
                          .eps = spec().norm_eps,
                          .kind = spec().block.norm,
                          .plus_one = spec().block.norm_plus_one});
  }

  void NormBackward(ConstMat x, Role role, const float* rstd, ConstMat dy, Mat dx, ParamStore* grads) {
    backend->NormBackward({.x = x,
                           .weight = weights.Get(role),
                           .rstd = rstd,
                           .dy = dy,
                           .dx = dx,
                           .dweight = grads->Get(role),
                           .dbias = grads->Bias(role),
                           .kind = spec().block.norm,
                           .plus_one = spec().block.norm_plus_one});
  }

  /// Logits of rows that went through the last norm.
  void Logits(ConstMat normed, Mat logits) {
    backend->Linear({.x = normed, .w = weights.Head(), .y = logits});
    if (spec().logit_scale != 1 || spec().logit_cap > 0) {
      backend->CapLogits(logits, spec().logit_scale, spec().logit_cap);
    }
  }

  BlockContext Context(int32_t layer) {
    BlockContext context{.backend = backend, .work = &work, .weights = &weights, .decode_rows = &decode_rows};
    if (const int32_t index = rotation_of[static_cast<size_t>(layer)]; index >= 0) {
      const Rotation& rotation = rotations[static_cast<size_t>(index)];
      context.rope = rotation.rope;
      context.cos = rotation.cos.data();
      context.sin = rotation.sin.data();
      context.query_scale = rotation.query_scale.data();
      if (!rotation.far_cos.empty()) {
        context.far_cos = rotation.far_cos.data();
        context.far_sin = rotation.far_sin.data();
      }
    }
    if (!slopes.empty()) {
      context.slopes = slopes.data();
      context.places = row_places.data();
    }
    if (!sequences.empty()) context.sequences = sequences[patterns.of_layer[static_cast<size_t>(layer)]];
    if (bank != nullptr) context.bank = bank->Layer(layer);
    return context;
  }

  void Shape(Matrix& matrix, int64_t rows, int64_t cols, DType type) {
    if (matrix.rows() == rows && matrix.cols() == cols) return;
    matrix = Matrix();
    if (rows > 0) matrix = backend->NewMatrix(rows, cols, type);
  }

  void ShapeSaved(BlockSaved& s, int64_t rows, bool everything) {
    const ModelSpec& p = spec();
    const int64_t kept = everything ? rows : 0;
    Shape(s.x, rows, p.width, dtype());
    Shape(s.attn_out, rows, static_cast<int64_t>(p.heads) * p.head_dim, dtype());
    Shape(s.lse, rows, p.heads, DType::kF32);
    Shape(s.qkv, kept, static_cast<int64_t>(p.heads + 2 * p.kv_heads) * p.head_dim, qkv_dtype);
    Shape(s.raw_qkv, KeepsRawQkv(p) ? kept : 0, static_cast<int64_t>(p.heads + 2 * p.kv_heads) * p.head_dim, qkv_dtype);
    Shape(s.middle, p.block.residual == Residual::kSequential ? kept : 0, p.width, dtype());
    Shape(s.mlp_in, kept, MlpInWidth(p), dtype());
  }

  /// Norm of x in the first rows of a matrix with room for `extra` more.
  Mat FinalNorm(ConstMat x, float* rstd, int64_t extra = 0) {
    const Mat y = work.Get(Workspace::kNormed, x.rows + extra, x.cols, x.dtype);
    Norm(x, Role::kFinalNorm, y.Rows(0, x.rows), rstd);
    return y;
  }

  /// Output of the last block for a prepared batch, without what a backward needs.
  Mat Forward(const Batch& batch) {
    // Two sets of activations are enough: the block's input and its output.
    ShapeSaved(scored, batch.rows(), /*everything=*/false);
    const Mat y = work.Get(Workspace::kResidual, batch.rows(), spec().width, dtype());
    Embed(batch.ids.data(), places.data(), scored.x.view());
    for (int32_t layer = 0; layer < spec().layers; ++layer) {
      BlockForward(Context(layer), layer, &scored, y);
      if (layer + 1 < spec().layers) backend->Copy(y, scored.x.view());
    }
    return y;
  }

  /// The same, with all that a backward needs; the result is `last`.
  void KeepForward(const Batch& batch, Recompute recompute) {
    const int64_t rows = batch.rows();
    const int32_t layers = spec().layers;
    saved.resize(static_cast<size_t>(layers));
    for (BlockSaved& of_layer : saved) ShapeSaved(of_layer, rows, recompute == Recompute::kNone);
    Shape(last, rows, spec().width, dtype());
    Embed(batch.ids.data(), places.data(), saved[0].x.view());
    for (int32_t layer = 0; layer < layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      BlockForward(Context(layer), layer, &saved[l], layer + 1 < layers ? saved[l + 1].x.view() : last.view());
    }
  }

  /// d: gradient of `last`; becomes that of what the first block reads.
  void BlocksBackward(Mat d, ParamStore* grads) {
    for (int32_t layer = spec().layers - 1; layer >= 0; --layer) {
      BlockBackward(Context(layer), layer, saved[static_cast<size_t>(layer)], d, grads);
    }
  }

  /// Loss of the batch whose last hidden rows, normed, are the first rows of `normed` [N + E, C]. A row with further
  /// targets is copied once for each: their gradients come back apart and are added up in f32, in order.
  CrossEntropyResult Loss(const Batch& batch, Mat normed, float* nll, Mat dnormed, Mat dweight, float grad_scale) {
    const int64_t rows = batch.rows(), extra = normed.rows - rows;
    CrossEntropyArgs args{.x = normed,
                          .weight = weights.Head(),
                          .targets = batch.targets.data(),
                          .weights = batch.weights.data(),
                          .nll = nll,
                          .dx = dnormed,
                          .dweight = dweight,
                          .most = batch.most_gain,
                          .grad_scale = grad_scale,
                          .logit_scale = spec().logit_scale,
                          .logit_cap = spec().logit_cap};
    std::vector<float> reference = batch.reference;
    if (!reference.empty()) {
      reference.resize(static_cast<size_t>(normed.rows), std::numeric_limits<float>::quiet_NaN());
      args.reference = reference.data();
    }
    if (extra == 0) return backend->CrossEntropy(args);
    backend->EmbedForward(normed.Rows(0, rows), batch.extra_rows.data(), normed.Rows(rows, extra));
    std::vector<int32_t> targets = batch.targets;
    std::vector<float> target_weights = batch.weights, all_nll;
    targets.insert(targets.end(), batch.extra_targets.begin(), batch.extra_targets.end());
    target_weights.insert(target_weights.end(), batch.extra_weights.begin(), batch.extra_weights.end());
    args.targets = targets.data();
    args.weights = target_weights.data();
    if (nll != nullptr) {
      all_nll.resize(targets.size());
      args.nll = all_nll.data();
    }
    const CrossEntropyResult result = backend->CrossEntropy(args);
    if (nll != nullptr) std::copy_n(all_nll.begin(), rows, nll);
    if (!dnormed.empty()) AddExtraGradients(batch.extra_rows, dnormed.Rows(rows, extra), dnormed.Rows(0, rows));
    return result;
  }

  /// to[rows[e]] += from[e].
  void AddExtraGradients(const std::vector<int32_t>& rows, ConstMat from, Mat to) {
    std::vector<int32_t> distinct, slots;
    for (const int32_t row : rows) {
      if (distinct.empty() || distinct.back() != row) distinct.push_back(row);
      slots.push_back(static_cast<int32_t>(distinct.size()) - 1);
    }
    const Mat sums = work.Get(Workspace::kProjected, static_cast<int64_t>(distinct.size()), to.cols, DType::kF32);
    backend->Fill(sums, 0.0f);
    backend->EmbedBackward(from, slots.data(), sums);
    for (size_t d = 0; d < distinct.size(); ++d) {
      backend->Add(sums.Rows(static_cast<int64_t>(d), 1), to.Rows(distinct[d], 1));
    }
  }

  /// Raw keys and values, from row `first` of the bank on, of a token of each stream, which is then taken back.
  void PeekPass(std::span<const int32_t> tokens, std::span<KvCache* const> streams, int64_t first) {
    const PassGuard guard{&begun};
    caches.assign(streams.begin(), streams.end());
    places.clear();
    for (size_t r = 0; r < tokens.size(); ++r) {
      begun.push_back(streams[r]->Begin(tokens.subspan(r, 1), 1));
      places.insert(places.end(), streams[r]->segment_places().begin(), streams[r]->segment_places().end());
    }
    const Mat x = work.Get(Workspace::kResidual, static_cast<int64_t>(tokens.size()), spec().width, dtype());
    Embed(tokens.data(), places.data(), x);
    for (int32_t layer = 0; layer < spec().layers; ++layer) {
      BlockContext context = Context(layer);
      context.bank.raw_k = context.bank.raw_k.Rows(first, x.rows);
      context.bank.raw_v = context.bank.raw_v.Rows(first, x.rows);
      BlockDecode(context, layer, caches, x);
    }
  }

  /// One pass over the weights: as many of the tokens left as the policies and kMaxChunk allow.
  void Pass(std::span<const DecodeChunk> chunks, std::vector<size_t>* done, RowSink* sink) {
    const PassGuard guard{&begun};
    caches.clear();
    pass_ids.clear();
    places.clear();
    wanted.clear();
    runs.clear();
    products.clear();
    int32_t rows = 0;
    enum class Sharing : uint8_t { kAny, kFew, kNone };  // of a product, by the rows of a chunk
    Sharing last = Sharing::kNone;
    for (size_t i = 0; i < chunks.size() && rows < kMaxChunk; ++i) {
      const std::span<const int32_t> rest = chunks[i].tokens.subspan((*done)[i]);
      if (rest.empty()) continue;
      // What else is in the pass must not cut a chunk that is to be as if alone.
      const bool cut = rest.size() > static_cast<size_t>(kMaxChunk - rows);
      if (chunks[i].apart && rows > 0 && cut) continue;
      KvCache* cache = chunks[i].cache;
      caches.push_back(cache);
      begun.push_back(cache->Begin(rest, kMaxChunk - rows));
      const int32_t n = begun.back().size();
      pass_ids.insert(pass_ids.end(), rest.begin(), rest.begin() + n);
      places.insert(places.end(), cache->segment_places().begin(), cache->segment_places().end());
      const bool ends = static_cast<size_t>(n) == rest.size();
      const int32_t first = chunks[i].wanted == Wanted::kAll ? 0 : n - 1;
      if (chunks[i].wanted == Wanted::kAll || (chunks[i].wanted == Wanted::kLast && ends)) {
        runs.push_back({rows + first, n - first});
        for (int32_t r = first; r < n; ++r) wanted.push_back({i, static_cast<int64_t>((*done)[i]) + r});
      }
      const Sharing sharing = !chunks[i].apart ? Sharing::kAny : n == 1 ? Sharing::kFew : Sharing::kNone;
      const bool joins = sharing == last &&
                         (sharing == Sharing::kAny || (sharing == Sharing::kFew && products.back().count < kAlikeRows));
      if (joins) {
        products.back().count += n;
      } else {
        products.push_back({rows, n});
      }
      last = sharing;
      (*done)[i] += static_cast<size_t>(n);
      rows += n;
    }
    const Mat x = work.Get(Workspace::kResidual, rows, spec().width, dtype());
    Embed(pass_ids.data(), places.data(), x);
    for (int32_t layer = 0; layer < spec().layers; ++layer) {
      BlockContext context = Context(layer);
      context.products = products;
      BlockDecode(context, layer, caches, x);
    }
    for (KvCache::Chunk& chunk : begun) chunk.Commit();
    if (wanted.empty()) return;
    const Mat hidden = work.Get(Workspace::kNormed, static_cast<int64_t>(wanted.size()), x.cols, x.dtype);
    int64_t to = 0;
    for (const auto& [first, count] : runs) {
      Norm(x.Rows(first, count), Role::kFinalNorm, hidden.Rows(to, count), nullptr);
      to += count;
    }
    sink->Rows(wanted, hidden);
  }
};

Decoder::Decoder(Backend* backend, Weights weights) {
  Validate(weights.spec());
  impl_ = std::make_unique<Impl>(backend, std::move(weights));
}
Decoder::~Decoder() = default;

const ModelSpec& Decoder::spec() const { return impl_->spec(); }

StepStats Decoder::Score(const Batch& batch, float* nll, KeyBank* bank) {
  Impl& m = *impl_;
  const BankInUse use(&m.bank, bank);
  StepStats stats = m.Prepare(batch);
  const Mat y = m.Forward(batch);
  const Mat normed = m.FinalNorm(y, nullptr, static_cast<int64_t>(batch.extra_rows.size()));
  SetLoss(m.Loss(batch, normed, nll, {}, {}, 1.0f), &stats);
  return stats;
}

StepStats Decoder::ScoreRows(const Batch& batch, std::span<const RowTarget> targets, float* nll, uint8_t* greatest) {
  Impl& m = *impl_;
  const StepStats stats = m.Prepare(batch);
  std::vector<int32_t> rows, tokens;
  for (const RowTarget& target : targets) {
    HAWSER_CHECK(target.row >= 0 && target.row < batch.rows());
    rows.push_back(target.row);
    tokens.push_back(target.token);
  }
  CheckIds(tokens, m.spec().vocab);
  const Mat y = m.Forward(batch);
  if (targets.empty()) return stats;
  const Mat wanted = m.work.Get(Workspace::kProjected, static_cast<int64_t>(rows.size()), y.cols, y.dtype);
  m.backend->EmbedForward(y, rows.data(), wanted);
  m.Norm(wanted, Role::kFinalNorm, wanted, nullptr);
  Nll(wanted, tokens.data(), nll, greatest);
  return stats;
}

void Decoder::Forward(const Batch& batch, KeyBank* bank) {
  Impl& m = *impl_;
  const BankInUse use(&m.bank, bank);
  m.Prepare(batch);
  m.Forward(batch);
}

void Decoder::ForwardKept(const Batch& batch, KeyBank* bank) {
  Impl& m = *impl_;
  const BankInUse use(&m.bank, bank);
  CheckTrainable(m.spec());
  m.Prepare(batch);
  m.KeepForward(batch, Recompute::kNone);
}

void Decoder::BackwardKept(KeyBank* bank, ParamStore* grads) {
  Impl& m = *impl_;
  const BankInUse use(&m.bank, bank);
  HAWSER_CHECK(grads->dtype() == DType::kF32);
  const Mat d = m.work.Get(Workspace::kResidual, m.last.rows(), m.spec().width, m.dtype());
  m.backend->Fill(d, 0.0f);
  m.BlocksBackward(d, grads);
}

StepStats Decoder::ForwardBackward(const Batch& batch, float grad_scale, Recompute recompute, ParamStore* grads,
                                   KeyBank* bank) {
  Impl& m = *impl_;
  const BankInUse use(&m.bank, bank);
  HAWSER_CHECK(grads->dtype() == DType::kF32);
  CheckTrainable(m.spec());
  StepStats stats = m.Prepare(batch);
  const int64_t rows = batch.rows();
  m.KeepForward(batch, recompute);

  const Mat rstd = m.work.Get(Workspace::kRstd, 1, rows, DType::kF32);
  const Mat normed = m.FinalNorm(m.last.view(), rstd.Row<float>(0), static_cast<int64_t>(batch.extra_rows.size()));
  const Mat dnormed = m.work.Get(Workspace::kGradNormed, normed.rows, m.spec().width, m.dtype());
  SetLoss(m.Loss(batch, normed, nullptr, dnormed, grads->Head(), grad_scale), &stats);
  const Mat d = m.work.Get(Workspace::kResidual, rows, m.spec().width, m.dtype());
  m.NormBackward(m.last.view(), Role::kFinalNorm, rstd.Row<float>(0), dnormed.Rows(0, rows), d, grads);
  m.BlocksBackward(d, grads);
  m.EmbedBackward(batch, d, grads);
  return stats;
}

void Decoder::Run(std::span<const DecodeChunk> chunks, RowSink* sink) {
  Impl& m = *impl_;
  size_t left = 0;
  for (const DecodeChunk& chunk : chunks) {
    CheckIds(chunk.tokens, m.spec().vocab);
    left += chunk.tokens.size();
  }
  m.done.assign(chunks.size(), 0);
  while (left > 0) {
    m.Pass(chunks, &m.done, sink);
    left -= m.pass_ids.size();
  }
}

void Decoder::Peek(std::span<const int32_t> tokens, std::span<KvCache* const> caches, KeyBank* bank) {
  Impl& m = *impl_;
  const auto rows = static_cast<int64_t>(tokens.size());
  HAWSER_CHECK(caches.size() == tokens.size() && bank->rows() == rows);
  CheckIds(tokens, m.spec().vocab);
  const BankInUse use(&m.bank, bank);
  for (int64_t first = 0; first < rows; first += kMaxChunk) {
    const auto at = static_cast<size_t>(first), count = static_cast<size_t>(std::min<int64_t>(kMaxChunk, rows - first));
    m.PeekPass(tokens.subspan(at, count), caches.subspan(at, count), first);
  }
}

void Decoder::Logits(ConstMat hidden, Mat logits) { impl_->Logits(hidden, logits); }

void Decoder::Nll(ConstMat hidden, const int32_t* targets, float* nll, uint8_t* greatest) {
  impl_->backend->CrossEntropy({.x = hidden,
                                .weight = impl_->weights.Head(),
                                .targets = targets,
                                .nll = nll,
                                .greatest = greatest,
                                .logit_scale = spec().logit_scale,
                                .logit_cap = spec().logit_cap});
}

void Decoder::Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits) {
  const auto total = static_cast<int64_t>(tokens.size());
  if (!logits.empty() && (logits.cols != spec().vocab || (logits.rows != 1 && logits.rows != total))) {
    Fail(ErrorKind::kUsage, "logits are [{}, {}], wanted [1 or {}, {}]", logits.rows, logits.cols, total, spec().vocab);
  }
  const bool every_row = logits.rows == total;
  const Wanted wanted = logits.empty() ? Wanted::kNone : every_row ? Wanted::kAll : Wanted::kLast;
  const DecodeChunk chunk{.cache = cache, .tokens = tokens, .wanted = wanted};
  LogitsSink sink(this, logits, [&](const RowSink::Row& row) { return every_row ? row.token : 0; });
  Run({&chunk, 1}, &sink);
}

void Decoder::ExtendScore(std::span<const int32_t> tokens, std::span<const int32_t> targets, KvCache* cache, float* nll,
                          uint8_t* greatest) {
  HAWSER_CHECK(tokens.size() == targets.size());
  struct NllSink : RowSink {
    void Rows(std::span<const Row> rows, ConstMat hidden) override {
      const int64_t first = rows.front().token;
      decoder->Nll(hidden, targets + first, nll + first, greatest != nullptr ? greatest + first : nullptr);
    }
    Decoder* decoder;
    const int32_t* targets;
    float* nll;
    uint8_t* greatest;
  } sink;
  sink.decoder = this;
  sink.targets = targets.data();
  sink.nll = nll;
  sink.greatest = greatest;
  const DecodeChunk chunk{.cache = cache, .tokens = tokens, .wanted = Wanted::kAll};
  Run({&chunk, 1}, &sink);
}

void Decoder::Step(std::span<const int32_t> tokens, std::span<KvCache* const> caches, Mat logits) {
  const auto rows = static_cast<int64_t>(tokens.size());
  if (rows == 0 || caches.size() != tokens.size() || logits.rows != rows || logits.cols != spec().vocab) {
    Fail(ErrorKind::kUsage, "a step of {} tokens for {} caches into logits [{}, {}], wanted one of each a row", rows,
         caches.size(), logits.rows, logits.cols);
  }
  std::vector<DecodeChunk>& chunks = impl_->step_chunks;
  chunks.clear();
  for (size_t r = 0; r < caches.size(); ++r) chunks.push_back({.cache = caches[r], .tokens = tokens.subspan(r, 1)});
  LogitsSink sink(this, logits, [](const RowSink::Row& row) { return static_cast<int64_t>(row.chunk); });
  Run(chunks, &sink);
}

int64_t Decoder::activation_bytes() const {
  int64_t sum = impl_->work.bytes() + static_cast<int64_t>(impl_->last.bytes());
  for (const BlockSaved& saved : impl_->saved) sum += saved.bytes();
  sum += impl_->scored.bytes();
  for (const Impl::Rotation& rotation : impl_->rotations) {
    sum += static_cast<int64_t>((rotation.cos.size() + rotation.sin.size()) * sizeof(float));
  }
  return sum;
}

}  // namespace hawser
