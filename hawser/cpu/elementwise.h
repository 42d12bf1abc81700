// cpu/elementwise.h - copies, sums and fills of matrices, any mix of F32 and BF16; validated by the caller.
#pragma once

#include "hawser/base/buffer.h"

namespace hawser {

void CopyMat(ConstMat from, Mat to);  // to = from
void AddMat(ConstMat x, Mat y);       // y += x
void FillMat(Mat to, float value);
/// Clamp, ClampBackward, CapLogits of ops/backend.h.
void ClampMat(Mat x, float limit);
void ClampBackwardMat(ConstMat x, float limit, Mat dx);
void CapMat(Mat logits, float scale, float cap);
void QuantizeMat(ConstMat from, int32_t head_dim, Mat to);  // to Q8_0, heads of head_dim

/// The instruction set the Highway kernels run on, "AVX3" and the like.
const char* SimdTarget();

}  // namespace hawser
