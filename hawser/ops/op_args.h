// ops/op_args.h - the checks at an op's entry: shapes, dtypes, strides and pointers of the argument structs of
// ops/backend.h. Each Validate throws Error(kUsage) that names the op, the argument, what was wanted and what was
// found; past it an op does not throw. The attention structs are checked in ops/attention_args.cc.
#pragma once

#include <string_view>

#include "hawser/ops/backend.h"

namespace hawser {

void Validate(const MatMulArgs& args);
void Validate(const LinearArgs& args);
void Validate(const LinearBackwardArgs& args);
void Validate(const NormArgs& args);
void Validate(const NormBackwardArgs& args);
void Validate(const RopeArgs& args);
void Validate(const ActArgs& args);
void Validate(const ActBackwardArgs& args);
void Validate(const AttentionArgs& args);
void Validate(const AttentionBackwardArgs& args);
void Validate(const DecodeArgs& args);
void Validate(const CrossEntropyArgs& args);
void Validate(const AdamWArgs& args);

/// Copy, Add: the same shape, each F32 or BF16.
void ValidateSameShape(std::string_view op, ConstMat from, ConstMat to);
/// Quantize: `to` has the rows of `from` in blocks of heads of head_dim.
void ValidateQuantize(ConstMat from, int32_t head_dim, Mat to);
void ValidateEmbed(std::string_view op, ConstMat table, const int32_t* ids, ConstMat rows);
/// Clamp: limit > 0.
void ValidateLimit(std::string_view op, float limit);
/// Logits: a finite scale, a finite cap >= 0.
void ValidateCap(std::string_view op, float scale, float cap);
void ValidateDotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, ConstMat to);
void ValidateClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<const float> scores);

/// ld >= cols, data where it is not empty.
void CheckMemory(std::string_view op, std::string_view name, ConstMat mat);
/// A matrix of weights of this shape: F32, BF16, F16 or blocks (whole ones a row, ld in bytes).
void CheckWeights(std::string_view op, std::string_view name, ConstMat mat, int64_t rows, int64_t cols);
/// A matrix argument: F32 or BF16, CheckMemory.
void CheckMat(std::string_view op, std::string_view name, ConstMat mat);
/// CheckMat, and exactly this shape.
void CheckShape(std::string_view op, std::string_view name, ConstMat mat, int64_t rows, int64_t cols);
/// CheckMat or CheckShape passed before; this one adds: F32.
void CheckF32(std::string_view op, std::string_view name, ConstMat mat);

}  // namespace hawser
