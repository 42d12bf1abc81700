// ops/forwarding_backend.h - a backend that hands every operation on to another: what watches some of them overrides
// those alone.
#pragma once

#include <cstdint>
#include <string>

#include "hawser/ops/backend.h"

namespace hawser {

class ForwardingBackend : public Backend {
 public:
  /// `to` outlives this.
  explicit ForwardingBackend(Backend* to) : to_(to) {}

  std::string Describe() const override { return to_->Describe(); }

  Matrix NewMatrix(int64_t rows, int64_t cols, DType dtype) override { return to_->NewMatrix(rows, cols, dtype); }
  void Upload(const void* host, Mat to) override { to_->Upload(host, to); }
  void Download(ConstMat from, void* host) override { to_->Download(from, host); }
  void Copy(ConstMat from, Mat to) override { to_->Copy(from, to); }
  void Fill(Mat to, float value) override { to_->Fill(to, value); }
  void Quantize(ConstMat from, int32_t head_dim, Mat to) override { to_->Quantize(from, head_dim, to); }

  void MatMul(const MatMulArgs& args) override { to_->MatMul(args); }
  void Linear(const LinearArgs& args) override { to_->Linear(args); }
  void LinearBackward(const LinearBackwardArgs& args) override { to_->LinearBackward(args); }
  void NormForward(const NormArgs& args) override { to_->NormForward(args); }
  void NormBackward(const NormBackwardArgs& args) override { to_->NormBackward(args); }
  void Rope(const RopeArgs& args) override { to_->Rope(args); }
  void ActForward(const ActArgs& args) override { to_->ActForward(args); }
  void ActBackward(const ActBackwardArgs& args) override { to_->ActBackward(args); }
  void Add(ConstMat x, Mat y) override { to_->Add(x, y); }
  void Clamp(Mat x, float limit) override { to_->Clamp(x, limit); }
  void ClampBackward(ConstMat x, float limit, Mat dx) override { to_->ClampBackward(x, limit, dx); }

  void AttentionForward(const AttentionArgs& args) override { to_->AttentionForward(args); }
  void AttentionBackward(const AttentionBackwardArgs& args) override { to_->AttentionBackward(args); }
  void AttentionDecode(const DecodeArgs& args) override { to_->AttentionDecode(args); }
  int64_t AttentionScratchBytes(const AttentionBackwardArgs& args) const override {
    return to_->AttentionScratchBytes(args);
  }
  int64_t CrossEntropyScratchBytes(int64_t tokens, int64_t vocab) const override {
    return to_->CrossEntropyScratchBytes(tokens, vocab);
  }

  void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) override {
    to_->EmbedForward(table, ids, y, scale);
  }
  void EmbedBackward(ConstMat dy, const int32_t* ids, Mat dtable, float scale) override {
    to_->EmbedBackward(dy, ids, dtable, scale);
  }
  CrossEntropyResult CrossEntropy(const CrossEntropyArgs& args) override { return to_->CrossEntropy(args); }
  void CapLogits(Mat logits, float scale, float cap) override { to_->CapLogits(logits, scale, cap); }
  void DotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, Mat to) override {
    to_->DotRows(x, rows, runs, to);
  }
  void ClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores) override {
    to_->ClusterScores(logits, counts, scores);
  }

  double SumSquares(const float* x, int64_t n) override { return to_->SumSquares(x, n); }
  void AdamW(const AdamWArgs& args) override { to_->AdamW(args); }

 private:
  Backend* to_;
};

}  // namespace hawser
