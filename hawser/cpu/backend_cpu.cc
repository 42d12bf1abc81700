#include "hawser/cpu/backend_cpu.h"

#include <cstring>

#include "hawser/base/parallel.h"
#include "hawser/cpu/act.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/clusters.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/embed.h"
#include "hawser/cpu/linear.h"
#include "hawser/cpu/loss.h"
#include "hawser/cpu/matmul.h"
#include "hawser/cpu/norm.h"
#include "hawser/cpu/optim.h"
#include "hawser/cpu/rope.h"
#include "hawser/ops/op_args.h"

namespace hawser {
namespace {

class CpuBackend final : public Backend {
 public:
  std::string Describe() const override {
    return fmt::format("cpu: simd {}, matmul {}, attention {}, {} threads", SimdTarget(), OneDnnIsa(), AttentionIsa(),
                       NumThreads());
  }

  Matrix NewMatrix(int64_t rows, int64_t cols, DType dtype) override { return Matrix(rows, cols, dtype); }
  void Upload(const void* host, Mat to) override {
    const size_t row_bytes = static_cast<size_t>(to.cols) * SizeOf(to.dtype);
    for (int64_t r = 0; r < to.rows; ++r) {
      std::memcpy(static_cast<char*>(to.Rows(r, 1).data), static_cast<const char*>(host) + r * row_bytes, row_bytes);
    }
  }
  void Download(ConstMat from, void* host) override {
    const size_t row_bytes = static_cast<size_t>(from.cols) * SizeOf(from.dtype);
    for (int64_t r = 0; r < from.rows; ++r) {
      std::memcpy(static_cast<char*>(host) + r * row_bytes, from.Rows(r, 1).data, row_bytes);
    }
  }
  void Copy(ConstMat from, Mat to) override {
    ValidateSameShape("copy", from, to);
    CopyMat(from, to);
  }
  void Fill(Mat to, float value) override {
    CheckMat("fill", "the matrix", to);
    FillMat(to, value);
  }

  void Quantize(ConstMat from, int32_t head_dim, Mat to) override {
    ValidateQuantize(from, head_dim, to);
    QuantizeMat(from, head_dim, to);
  }

  void MatMul(const MatMulArgs& args) override {
    Validate(args);
    matmul_.Run(args);
  }
  void Linear(const LinearArgs& args) override {
    Validate(args);
    linear_.Run(args, matmul_);
  }
  void LinearBackward(const LinearBackwardArgs& args) override {
    Validate(args);
    hawser::LinearBackward(args, matmul_);
  }
  void NormForward(const NormArgs& args) override {
    Validate(args);
    hawser::NormForward(args);
  }
  void NormBackward(const NormBackwardArgs& args) override {
    Validate(args);
    hawser::NormBackward(args, scratch_);
  }
  void Rope(const RopeArgs& args) override {
    Validate(args);
    hawser::Rope(args);
  }
  void ActForward(const ActArgs& args) override {
    Validate(args);
    hawser::ActForward(args);
  }
  void ActBackward(const ActBackwardArgs& args) override {
    Validate(args);
    hawser::ActBackward(args);
  }
  void Add(ConstMat x, Mat y) override {
    ValidateSameShape("add", x, y);
    AddMat(x, y);
  }
  void Clamp(Mat x, float limit) override {
    CheckMat("clamp", "x", x);
    ValidateLimit("clamp", limit);
    ClampMat(x, limit);
  }
  void ClampBackward(ConstMat x, float limit, Mat dx) override {
    ValidateSameShape("clamp backward", x, dx);
    ValidateLimit("clamp backward", limit);
    ClampBackwardMat(x, limit, dx);
  }

  void AttentionForward(const AttentionArgs& args) override { hawser::AttentionForward(args); }
  void AttentionBackward(const AttentionBackwardArgs& args) override { hawser::AttentionBackward(args); }
  void AttentionDecode(const DecodeArgs& args) override { hawser::AttentionDecode(args); }
  int64_t AttentionScratchBytes(const AttentionBackwardArgs& args) const override {
    return AttentionForwardScratch(args) + AttentionBackwardScratch(args);
  }
  int64_t CrossEntropyScratchBytes(int64_t tokens, int64_t vocab) const override {
    const CrossEntropyTile tile = ChooseCrossEntropyTile(tokens, vocab, true);
    return tile.tokens * tile.panel * static_cast<int64_t>(sizeof(float));
  }

  void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) override {
    ValidateEmbed("embed", table, ids, y);
    hawser::EmbedForward(table, ids, y, scale);
  }
  void EmbedBackward(ConstMat dy, const int32_t* ids, Mat dtable, float scale) override {
    ValidateEmbed("embed backward", dtable, ids, dy);
    CheckF32("embed backward", "dtable", dtable);
    hawser::EmbedBackward(dy, ids, dtable, scale);
  }
  CrossEntropyResult CrossEntropy(const CrossEntropyArgs& args) override {
    Validate(args);
    return cross_entropy_.Run(args, matmul_);
  }
  void CapLogits(Mat logits, float scale, float cap) override {
    CheckMat("cap logits", "logits", logits);
    ValidateCap("cap logits", scale, cap);
    CapMat(logits, scale, cap);
  }
  void DotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, Mat to) override {
    ValidateDotRows(x, rows, runs, to);
    hawser::DotRows(x, rows, runs, to);
  }
  void ClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores) override {
    ValidateClusterScores(logits, counts, scores);
    hawser::ClusterScores(logits, counts, scores);
  }

  double SumSquares(const float* x, int64_t n) override { return hawser::SumSquares(x, n); }
  void AdamW(const AdamWArgs& args) override {
    Validate(args);
    hawser::AdamW(args);
  }

 private:
  MatMulEngine matmul_;
  LinearEngine linear_;
  CrossEntropyEngine cross_entropy_;
  Scratch scratch_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend() { return std::make_unique<CpuBackend>(); }

}  // namespace hawser
