// The checks of every argument struct but attention's.
#include <cmath>

#include "hawser/base/q8.h"
#include "hawser/ops/op_args.h"
#include "hawser/quant/block.h"

namespace hawser {

void CheckMat(std::string_view op, std::string_view name, ConstMat mat) {
  if (mat.dtype != DType::kF32 && mat.dtype != DType::kBF16) {
    Fail(ErrorKind::kUsage, "[{}] {} must be f32 or bf16, found {}", op, name, Name(mat.dtype));
  }
  CheckMemory(op, name, mat);
}

void CheckMemory(std::string_view op, std::string_view name, ConstMat mat) {
  if (mat.rows < 0 || mat.cols < 0 || (mat.rows > 1 && mat.ld < mat.cols)) {
    Fail(ErrorKind::kUsage, "[{}] {} wants rows and cols >= 0 and ld >= cols, found {} x {} with ld {}", op, name,
         mat.rows, mat.cols, mat.ld);
  }
  if (mat.data == nullptr && !mat.empty()) {
    Fail(ErrorKind::kUsage, "[{}] {} [{}, {}] has no data", op, name, mat.rows, mat.cols);
  }
}

void CheckShape(std::string_view op, std::string_view name, ConstMat mat, int64_t rows, int64_t cols) {
  CheckMat(op, name, mat);
  if (mat.rows != rows || mat.cols != cols) {
    Fail(ErrorKind::kUsage, "[{}] {} must be [{}, {}], found [{}, {}]", op, name, rows, cols, mat.rows, mat.cols);
  }
}

void CheckWeights(std::string_view op, std::string_view name, ConstMat mat, int64_t rows, int64_t cols) {
  if (!IsBlocked(mat.dtype)) {
    if (mat.dtype != DType::kF16) return CheckShape(op, name, mat, rows, cols);
    mat.dtype = DType::kBF16;  // as large, and checked alike
    return CheckShape(op, name, mat, rows, cols);
  }
  if (mat.rows != rows || mat.cols != cols) {
    Fail(ErrorKind::kUsage, "[{}] {} must be [{}, {}], found [{}, {}]", op, name, rows, cols, mat.rows, mat.cols);
  }
  const std::optional<int64_t> bytes = RowBytes(mat.dtype, mat.cols);
  if (!bytes) {
    Fail(ErrorKind::kUsage, "[{}] rows of {} values of {} are no whole blocks of {}", op, mat.cols, name,
         Name(mat.dtype));
  }
  mat.cols = *bytes;
  CheckMemory(op, name, mat);
}

void CheckF32(std::string_view op, std::string_view name, ConstMat mat) {
  if (mat.dtype != DType::kF32) {
    Fail(ErrorKind::kUsage, "[{}] {} must be f32, found {}", op, name, Name(mat.dtype));
  }
}

namespace {

void CheckPointer(std::string_view op, std::string_view name, const void* pointer, int64_t count) {
  if (pointer == nullptr && count > 0) Fail(ErrorKind::kUsage, "[{}] {} [{}] must not be null", op, name, count);
}

void CheckSameDType(std::string_view op, ConstMat a, ConstMat b) {
  if (a.dtype != b.dtype) {
    Fail(ErrorKind::kUsage, "[{}] both factors must have one dtype, found {} and {}", op, Name(a.dtype), Name(b.dtype));
  }
}

}  // namespace

void Validate(const MatMulArgs& args) {
  CheckMat("matmul", "a", args.a);
  CheckMat("matmul", "b", args.b);
  CheckMat("matmul", "c", args.c);
  CheckSameDType("matmul", args.a, args.b);
  const int64_t m = args.trans_a ? args.a.cols : args.a.rows;
  const int64_t k = args.trans_a ? args.a.rows : args.a.cols;
  const int64_t b_rows = args.trans_b ? args.b.cols : args.b.rows;
  const int64_t n = args.trans_b ? args.b.rows : args.b.cols;
  if (k != b_rows) {
    Fail(ErrorKind::kUsage, "[matmul] op(a) is [{}, {}] and op(b) [{}, {}]: the inner sizes differ", m, k, b_rows, n);
  }
  CheckShape("matmul", "c", args.c, m, n);
  if (args.accumulate) CheckF32("matmul", "c to accumulate into", args.c);
}

void Validate(const LinearArgs& args) {
  constexpr std::string_view op = "linear";
  CheckMat(op, "x", args.x);
  CheckWeights(op, "w", args.w, args.w.rows, args.x.cols);
  if (!args.bias.empty()) CheckShape(op, "bias", args.bias, 1, args.w.rows);
  CheckShape(op, "y", args.y, args.x.rows, args.w.rows);
}

void Validate(const LinearBackwardArgs& args) {
  constexpr std::string_view op = "linear backward";
  CheckMat(op, "dy", args.dy);
  if (!args.dx.empty()) {
    CheckShape(op, "w", args.w, args.dy.cols, args.w.cols);
    CheckSameDType(op, args.dy, args.w);
    CheckShape(op, "dx", args.dx, args.dy.rows, args.w.cols);
  }
  if (!args.dw.empty()) {
    CheckShape(op, "x", args.x, args.dy.rows, args.x.cols);
    CheckSameDType(op, args.dy, args.x);
    CheckShape(op, "dw", args.dw, args.dy.cols, args.x.cols);
    CheckF32(op, "dw", args.dw);
  }
  if (!args.dbias.empty()) {
    CheckShape(op, "dbias", args.dbias, 1, args.dy.cols);
    CheckF32(op, "dbias", args.dbias);
  }
}

namespace {

/// Channels of a piece.
int64_t CheckPieces(std::string_view op, ConstMat x, int32_t heads) {
  CheckMat(op, "x", x);
  if (heads < 1 || x.cols % heads != 0) {
    Fail(ErrorKind::kUsage, "[{}] rows of {} channels are no {} heads", op, x.cols, heads);
  }
  return x.cols / heads;
}

}  // namespace

void Validate(const NormArgs& args) {
  constexpr std::string_view op = "norm";
  const int64_t width = CheckPieces(op, args.x, args.heads);
  CheckShape(op, "weight", args.weight, 1, width);
  if (!args.bias.empty()) CheckShape(op, "bias", args.bias, 1, width);
  CheckShape(op, "y", args.y, args.x.rows, args.x.cols);
  if (!(args.eps >= 0.0f)) Fail(ErrorKind::kUsage, "[norm] eps must be >= 0, found {}", args.eps);
}

void Validate(const NormBackwardArgs& args) {
  constexpr std::string_view op = "norm backward";
  const int64_t width = CheckPieces(op, args.x, args.heads);
  CheckShape(op, "weight", args.weight, 1, width);
  CheckPointer(op, "rstd", args.rstd, args.x.rows * args.heads);
  CheckShape(op, "dy", args.dy, args.x.rows, args.x.cols);
  if (!args.residual.empty()) CheckShape(op, "residual", args.residual, args.x.rows, args.x.cols);
  CheckShape(op, "dx", args.dx, args.x.rows, args.x.cols);
  for (const auto& [name, grad] : {std::pair<std::string_view, Mat>{"dweight", args.dweight}, {"dbias", args.dbias}}) {
    if (grad.empty()) continue;
    CheckShape(op, name, grad, 1, width);
    CheckF32(op, name, grad);
  }
}

void Validate(const RopeArgs& args) {
  CheckMat("rope", "x", args.x);
  if (args.heads < 1 || args.head_dim < 1 || args.half < 0 || 2 * static_cast<int64_t>(args.half) > args.head_dim) {
    Fail(ErrorKind::kUsage, "[rope] wants heads, head_dim >= 1 and 0 <= 2 * half <= head_dim, found {}, {}, half {}",
         args.heads, args.head_dim, args.half);
  }
  CheckShape("rope", "x", args.x, args.x.rows, static_cast<int64_t>(args.heads) * args.head_dim);
  CheckPointer("rope", "cos", args.cos, args.x.rows * args.half);
  CheckPointer("rope", "sin", args.sin, args.x.rows * args.half);
  if (args.row_scale != nullptr) CheckPointer("rope", "row_scale", args.row_scale, args.x.rows);
  if (args.math != FloatFormat::kF32 && args.math != FloatFormat::kBF16) {
    Fail(ErrorKind::kUnsupported, "[rope] rotates in f32 or bf16, not in {}", Name(args.math));
  }
}

void Validate(const ActArgs& args) {
  CheckMat("act", "y", args.y);
  CheckShape("act", "in", args.in, args.y.rows, (args.gated ? 2 : 1) * args.y.cols);
}

void Validate(const ActBackwardArgs& args) {
  constexpr std::string_view op = "act backward";
  CheckMat(op, "dy", args.dy);
  const int64_t cols = (args.gated ? 2 : 1) * args.dy.cols;
  CheckShape(op, "in", args.in, args.dy.rows, cols);
  CheckShape(op, "din", args.din, args.dy.rows, cols);
  if (!args.y.empty()) CheckShape(op, "y", args.y, args.dy.rows, args.dy.cols);
}

void Validate(const CrossEntropyArgs& args) {
  constexpr std::string_view op = "cross-entropy";
  CheckMat(op, "x", args.x);
  CheckWeights(op, "weight", args.weight, args.weight.rows, args.x.cols);
  CheckPointer(op, "targets", args.targets, args.x.rows);
  for (int64_t t = 0; t < args.x.rows; ++t) {
    if (args.targets[t] < -1 || args.targets[t] >= args.weight.rows) {
      Fail(ErrorKind::kUsage, "[cross-entropy] target {} of row {} is not in [-1, {})", args.targets[t], t,
           args.weight.rows);
    }
  }
  if (!args.dx.empty()) CheckShape(op, "dx", args.dx, args.x.rows, args.x.cols);
  if (!args.dweight.empty()) {
    CheckShape(op, "dweight", args.dweight, args.weight.rows, args.x.cols);
    CheckF32(op, "dweight", args.dweight);
  }
  if (args.reference != nullptr && !(args.most >= 1)) {
    Fail(ErrorKind::kUsage, "[cross-entropy] gains of at most {}; wanted 1 or more", args.most);
  }
  ValidateCap(op, args.logit_scale, args.logit_cap);
}

void Validate(const AdamWArgs& args) {
  CheckPointer("adamw", "w", args.w, args.n);
  CheckPointer("adamw", "grad", args.grad, args.n);
  CheckPointer("adamw", "m", args.m, args.n);
  CheckPointer("adamw", "v", args.v, args.n);
  if (args.n < 0 || args.step < 1) {
    Fail(ErrorKind::kUsage, "[adamw] wants n >= 0 and step >= 1, found n {} and step {}", args.n, args.step);
  }
  if (!(args.beta1 >= 0 && args.beta1 < 1 && args.beta2 >= 0 && args.beta2 < 1)) {
    Fail(ErrorKind::kUsage, "[adamw] betas must be in [0, 1), found {} and {}", args.beta1, args.beta2);
  }
}

void ValidateSameShape(std::string_view op, ConstMat from, ConstMat to) {
  CheckMat(op, "the source", from);
  CheckShape(op, "the destination", to, from.rows, from.cols);
}

void ValidateQuantize(ConstMat from, int32_t head_dim, Mat to) {
  constexpr std::string_view op = "quantize";
  CheckMat(op, "from", from);
  CheckMemory(op, "to", to);
  if (head_dim < 1 || from.cols % head_dim != 0) {
    Fail(ErrorKind::kUsage, "[{}] rows of {} values are no heads of {}", op, from.cols, head_dim);
  }
  const int64_t bytes = from.cols / head_dim * Q8Bytes(head_dim);
  if (to.dtype != DType::kQ8_0 || to.rows != from.rows || to.cols != bytes) {
    Fail(ErrorKind::kUsage, "[{}] to must be q8_0 [{}, {}], found {} [{}, {}]", op, from.rows, bytes, Name(to.dtype),
         to.rows, to.cols);
  }
}

void ValidateEmbed(std::string_view op, ConstMat table, const int32_t* ids, ConstMat rows) {
  CheckWeights(op, "table", table, table.rows, table.cols);
  CheckShape(op, "rows", rows, rows.rows, table.cols);
  CheckPointer(op, "ids", ids, rows.rows);
}

void ValidateLimit(std::string_view op, float limit) {
  if (!(limit > 0.0f)) Fail(ErrorKind::kUsage, "[{}] limit must be > 0, found {}", op, limit);
}

void ValidateCap(std::string_view op, float scale, float cap) {
  if (!std::isfinite(scale)) Fail(ErrorKind::kUsage, "[{}] the scale of logits must be finite, found {}", op, scale);
  if (!(cap >= 0.0f && std::isfinite(cap))) {
    Fail(ErrorKind::kUsage, "[{}] the cap of logits must be >= 0 and finite, found {}", op, cap);
  }
}

void ValidateDotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, ConstMat to) {
  constexpr std::string_view kOp = "dot rows";
  int64_t count = 0;
  for (const KvRange& run : runs) {
    if (run.begin < 0 || run.end < run.begin || run.end > rows.rows) {
      Fail(ErrorKind::kUsage, "[{}] runs must lie in {} rows, found [{}, {})", kOp, rows.rows, run.begin, run.end);
    }
    count += run.end - run.begin;
  }
  CheckMat(kOp, "x", x);
  CheckShape(kOp, "rows", rows, rows.rows, x.cols);
  CheckShape(kOp, "to", to, x.rows, count);
  for (const ConstMat& mat : {x, rows, to}) CheckF32(kOp, "x, rows and to", mat);
}

void ValidateClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<const float> scores) {
  constexpr std::string_view kOp = "cluster scores";
  CheckShape(kOp, "logits", logits, std::max<int64_t>(1, logits.rows), static_cast<int64_t>(counts.size()));
  CheckF32(kOp, "logits", logits);
  if (scores.size() != counts.size()) {
    Fail(ErrorKind::kUsage, "[{}] wants {} scores, found {}", kOp, counts.size(), scores.size());
  }
}

}  // namespace hawser
