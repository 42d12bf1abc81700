#include "hawser/cpu/matmul.h"

#include <algorithm>
#include <array>

#include "hawser/base/parallel.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/matmul_matvec.h"

namespace hawser {
namespace {

constexpr size_t kMaxProducts = 1024;  // primitives kept; beyond it the cache starts over

/// The rows that the last rows of c are computed as. Every primitive holds some 40 KB of code, and streams come in
/// chunks of any number of rows, so there are 16 sizes up to 512; at most a fifth is for nothing above 64 rows.
int64_t RoundRows(int64_t rows) {
  const int64_t step = rows <= 128 ? 16 : rows <= 256 ? 32 : 64;
  return (rows + step - 1) / step * step;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The pieces of c: blocks of `rows` x `cols`, the last ones smaller. Depends on the shape and dtype alone.
struct Cut {
  int64_t rows = 0, cols = 0;
};

// Every piece packs its part of a and b anew, so what a cut costs depends on where it goes. Speed of the pieces over
// that of the whole product, one thread, f32 and AMX bf16: 256 rows of all columns 0.95 to 1.05, 512 columns 0.8
// to 1.1, 128 rows 0.8 to 0.95, 256 columns 0.7 to 0.9, 64 columns 0.5. So: many pieces while blocks of rows give them,
// and dearer cuts only until there are a few. Of at most 64 long rows, 512 columns beat 4096 by 0.1.
Cut ChooseCut(int64_t m, int64_t n, int64_t k, DType dtype) {
  struct Limit {
    int64_t pieces, rows, cols;
  };
  constexpr Limit kLimits[] = {{32, 256, 4096}, {4, 256, 512}, {4, 128, 512}, {4, 128, 256}, {4, 64, 256}};
  const int64_t least = dtype == DType::kBF16 ? int64_t{32} << 20 : int64_t{4} << 20;  // multiply-adds: about 50 us
  Cut cut{std::min<int64_t>(m, 512), std::min<int64_t>(n, m <= 64 && k >= 256 ? 512 : 4096)};
  for (const Limit& limit : kLimits) {
    const auto halve = [&](int64_t& size, int64_t down_to) {
      while (size > down_to && CeilDiv(m, cut.rows) * CeilDiv(n, cut.cols) < limit.pieces &&
             cut.rows * cut.cols * k >= 2 * least) {
        size = std::max(down_to, CeilDiv(size, 128) * 64);  // half of it, in whole vectors and tiles
      }
    };
    halve(cut.rows, limit.rows);
    halve(cut.cols, limit.cols);
  }
  return cut;
}

// The stride of a single row means nothing and may hold anything.
int64_t Stride(ConstMat mat) { return mat.rows > 1 ? mat.ld : mat.cols; }

Mat Widen(ConstMat from, Scratch& scratch) {
  const Mat to{scratch.Get<float>(from.rows * from.cols), DType::kF32, from.rows, from.cols, from.cols};
  CopyMat(from, to);
  return to;
}

const char* At(ConstMat mat, int64_t row, int64_t col) {
  return static_cast<const char*>(mat.data) + (row * mat.ld + col) * static_cast<int64_t>(SizeOf(mat.dtype));
}

}  // namespace

size_t MatMulEngine::Hash::operator()(const ProductShape& s) const {
  uint64_t hash = 0;
  for (int64_t v : {s.m, s.n, s.k, s.lda, s.ldb, s.ldc, static_cast<int64_t>(s.in) * 16 + static_cast<int64_t>(s.out),
                    int64_t{s.trans_a} * 4 + int64_t{s.trans_b} * 2 + int64_t{s.accumulate} + int64_t{s.bias} * 8}) {
    hash = (hash ^ static_cast<uint64_t>(v)) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return hash;
}

const Product* MatMulEngine::Find(const ProductShape& shape) {
  auto found = products_.find(shape);
  if (found == products_.end()) found = products_.emplace(shape, Product::Make(shape, 1)).first;
  return found->second ? &*found->second : nullptr;
}

void MatMulEngine::RunWidened(const MatMulArgs& args, ConstMat bias) {
  MatMulArgs wide = args;
  wide.a = Widen(args.a, wide_a_);
  wide.b = Widen(args.b, wide_b_);
  Run(wide, bias);
}

void MatMulEngine::Run(const MatMulArgs& args, ConstMat bias) {
  const int64_t m = args.c.rows, n = args.c.cols, k = args.trans_a ? args.a.rows : args.a.cols;
  if (args.c.empty()) return;
  const float* add = nullptr;
  if (!bias.empty()) add = bias.dtype == DType::kF32 ? bias.Row<float>(0) : Widen(bias, wide_bias_).Row<float>(0);
  if (k == 0) {
    if (!args.accumulate) FillMat(args.c, 0.0f);
    for (int64_t r = 0; add != nullptr && r < m; ++r) CopyMat(bias, args.c.Rows(r, 1));
    return;
  }
  if (m <= kMaxMatVecRows && args.trans_b && !args.trans_a) return MatVec(args.a, args.b, add, args.c, args.accumulate);
  const Cut cut = ChooseCut(m, n, k, args.a.dtype);
  const int64_t down = CeilDiv(m, cut.rows), across = CeilDiv(n, cut.cols);
  // oneDNN has no f32 x f32 -> bf16: such a piece is made in f32 beside and rounded.
  const bool narrow = args.a.dtype == DType::kF32 && args.c.dtype == DType::kBF16;
  // Elements of a column of a transposed `a` lie a long, often round stride apart, which costs oneDNN up to two fifths
  // of its speed as it packs them; copied together first, pieces reach 0.9 of the whole product's. Wide n repays less.
  const int64_t far = args.a.dtype == DType::kF32 ? 1024 : 16384;
  const bool gather = args.trans_a && down > 1 && n <= 1024 && args.a.ld >= far;
  // Rows of a and of a result that is added or rounded afterwards go by way of scratch where m is not a multiple of the
  // primitives' rows. With a transposed, m is a size of the model, and there are few of those.
  const int64_t tail = m - (down - 1) * cut.rows, last_rows = args.trans_a ? tail : RoundRows(tail);
  const bool padded = last_rows != tail;
  if (products_.size() + 4 > kMaxProducts) products_.clear();
  std::array<const Product*, 4> products{};  // the inner piece, the last column, the last row, the corner
  for (int i = 0; i < 4; ++i) {
    const bool pad = padded && (i >= 2 || down == 1), beside = narrow || pad;
    const int64_t rows = i < 2 && down > 1 ? cut.rows : last_rows;
    const int64_t cols = i % 2 == 0 && across > 1 ? cut.cols : n - (across - 1) * cut.cols;
    products[i] = Find({.m = rows,
                        .n = cols,
                        .k = k,
                        .lda = gather ? rows
                               : pad  ? k
                                      : Stride(args.a),
                        .ldb = Stride(args.b),
                        .ldc = beside ? cols : Stride(args.c),
                        .in = args.a.dtype,
                        .out = narrow ? DType::kF32 : args.c.dtype,
                        .trans_a = args.trans_a,
                        .trans_b = args.trans_b,
                        .accumulate = args.accumulate && !beside,
                        .bias = add != nullptr});
    if (products[i] == nullptr) {
      if (args.a.dtype == DType::kBF16) return RunWidened(args, bias);
      Fail(ErrorKind::kInternal, "[matmul] oneDNN has no f32 kernel for {} x {} x {}", rows, cols, k);
    }
  }
  ParallelFor(down * across, [&](int64_t piece) {
    const int64_t i = piece % down, j = piece / down;  // pieces that share columns of b follow one another
    const int64_t row = i * cut.rows, col = j * cut.cols;
    const Product& product = *products[(i == down - 1 ? 2 : 0) + (j == across - 1 ? 1 : 0)];
    const int64_t rows = std::min(cut.rows, m - row), cols = std::min(cut.cols, n - col);
    thread_local Scratch together, result;
    const void* a = args.trans_a ? At(args.a, 0, row) : At(args.a, row, 0);
    const void* b = args.trans_b ? At(args.b, col, 0) : At(args.b, 0, col);
    const bool pad = padded && i == down - 1;
    if (gather || pad) {
      const ConstMat from = gather ? args.a.Cols(row, rows) : args.a.Rows(row, rows);
      const int64_t made = gather ? k : last_rows;
      char* to = together.Get<char>(made * from.cols * static_cast<int64_t>(SizeOf(from.dtype)));
      const Mat all{to, from.dtype, made, from.cols, from.cols};
      CopyMat(from, all.Rows(0, from.rows));
      FillMat(all.Rows(from.rows, made - from.rows), 0.0f);
      a = to;
    }
    const Mat c = args.c.Rows(row, rows).Cols(col, cols);
    const float* shift = add == nullptr ? nullptr : add + col;
    if (!narrow && !pad) return product.Run(a, b, c.data, shift);
    const DType made = narrow ? DType::kF32 : c.dtype;
    char* to = result.Get<char>((pad ? last_rows : rows) * cols * static_cast<int64_t>(SizeOf(made)));
    product.Run(a, b, to, shift);
    const ConstMat wide{to, made, rows, cols, cols};
    if (args.accumulate) return AddMat(wide, c);
    CopyMat(wide, c);
  });
}

}  // namespace hawser
