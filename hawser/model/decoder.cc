#include "hawser/model/decoder.h"

#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/batch_plan.h"
#include "hawser/model/block.h"
#include "hawser/model/ends.h"
#include "hawser/model/fold_rules.h"
#include "hawser/model/stream_pass.h"
#include "hawser/model/workspace.h"

namespace hawser {
namespace {

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
  Ends ends;
  BatchPlan plan;
  StreamPass streams;
  DType qkv_dtype;
  std::vector<BlockSaved> saved;  // training: one a layer; kept between steps of the same shape
  BlockSaved scored;              // of a batch without backward: its layers take turns
  Matrix last;                    // [N, C] output of the last block (training)
  KeyBank* bank = nullptr;        // of the call under way; null: there is none
  std::vector<DecodeChunk> step_chunks;

  Impl(Backend* b, Weights w)
      : backend(b),
        weights(std::move(w)),
        work(b),
        ends(b, &weights, &work),
        plan(&weights.spec()),
        streams(b, &weights, &work, &ends, &plan),
        qkv_dtype(QkvDType(weights.spec(), weights.dtype())) {}

  const ModelSpec& spec() const { return weights.spec(); }
  DType dtype() const { return weights.dtype(); }

  StepStats Prepare(const Batch& batch) {
    ends.CheckIds(batch.ids);
    return plan.Compile(batch, bank);
  }

  BlockContext Context(int32_t layer) {
    BlockContext context{.backend = backend, .work = &work, .weights = &weights};
    plan.Fill(layer, &context);
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

  /// Output of the last block for a prepared batch, without what a backward needs.
  Mat Forward(const Batch& batch) {
    // Two sets of activations are enough: the block's input and its output.
    ShapeSaved(scored, batch.rows(), /*everything=*/false);
    const Mat y = work.Get(Workspace::kResidual, batch.rows(), spec().width, dtype());
    ends.Embed(batch.ids.data(), plan.places().data(), scored.x.view());
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
    ends.Embed(batch.ids.data(), plan.places().data(), saved[0].x.view());
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
  const Mat normed = m.ends.FinalNorm(y, nullptr, static_cast<int64_t>(batch.extra_rows.size()));
  SetLoss(m.ends.Loss(batch, normed, nll, {}, {}, 1.0f), &stats);
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
  m.ends.CheckIds(tokens);
  const Mat y = m.Forward(batch);
  if (targets.empty()) return stats;
  const Mat wanted = m.work.Get(Workspace::kProjected, static_cast<int64_t>(rows.size()), y.cols, y.dtype);
  m.backend->EmbedForward(y, rows.data(), wanted);
  m.ends.Norm(wanted, Role::kFinalNorm, wanted, nullptr);
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
  const Mat normed = m.ends.FinalNorm(m.last.view(), rstd.Row<float>(0), static_cast<int64_t>(batch.extra_rows.size()));
  const Mat dnormed = m.work.Get(Workspace::kGradNormed, normed.rows, m.spec().width, m.dtype());
  SetLoss(m.ends.Loss(batch, normed, nullptr, dnormed, grads->Head(), grad_scale), &stats);
  const Mat d = m.work.Get(Workspace::kResidual, rows, m.spec().width, m.dtype());
  m.ends.NormBackward(m.last.view(), Role::kFinalNorm, rstd.Row<float>(0), dnormed.Rows(0, rows), d, grads);
  m.BlocksBackward(d, grads);
  m.ends.EmbedBackward(batch.ids.data(), m.plan.places().data(), d, grads);
  return stats;
}

void Decoder::Run(std::span<const DecodeChunk> chunks, RowSink* sink) { Run(chunks, sink, {}); }

void Decoder::Run(std::span<const DecodeChunk> chunks, RowSink* sink, const std::function<bool()>& cancelled) {
  impl_->streams.Run(chunks, sink, cancelled);
}

void Decoder::Peek(std::span<const int32_t> tokens, std::span<KvCache* const> caches, KeyBank* bank) {
  impl_->streams.Peek(tokens, caches, bank);
}

void Decoder::Logits(ConstMat hidden, Mat logits) { impl_->ends.Logits(hidden, logits); }

void Decoder::Nll(ConstMat hidden, const int32_t* targets, float* nll, uint8_t* greatest) {
  impl_->ends.Nll(hidden, targets, nll, greatest);
}

void Decoder::Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits) { Extend(tokens, cache, logits, {}); }

void Decoder::Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits,
                     const std::function<bool()>& cancelled) {
  const auto total = static_cast<int64_t>(tokens.size());
  if (!logits.empty() && (logits.cols != spec().vocab || (logits.rows != 1 && logits.rows != total))) {
    Fail(ErrorKind::kUsage, "logits are [{}, {}], wanted [1 or {}, {}]", logits.rows, logits.cols, total, spec().vocab);
  }
  const bool every_row = logits.rows == total;
  const Wanted wanted = logits.empty() ? Wanted::kNone : every_row ? Wanted::kAll : Wanted::kLast;
  const DecodeChunk chunk{.cache = cache, .tokens = tokens, .wanted = wanted};
  LogitsSink sink(this, logits, [&](const RowSink::Row& row) { return every_row ? row.token : 0; });
  Run({&chunk, 1}, &sink, cancelled);
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
  return sum + impl_->scored.bytes() + impl_->plan.bytes();
}

}  // namespace hawser
