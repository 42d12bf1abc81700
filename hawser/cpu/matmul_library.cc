#include "hawser/cpu/matmul_library.h"

#include <memory>

#include "hawser/base/parallel.h"
#include "hawser/cpu/onednn.h"
#include "hawser/ops/op_args.h"

namespace hawser {

std::function<void()> LibraryMatMul(const MatMulArgs& args) {
  Validate(args);
  std::optional<Product> product = Product::Make({.m = args.c.rows,
                                                  .n = args.c.cols,
                                                  .k = args.trans_a ? args.a.rows : args.a.cols,
                                                  .lda = args.a.ld,
                                                  .ldb = args.b.ld,
                                                  .ldc = args.c.ld,
                                                  .in = args.a.dtype,
                                                  .out = args.c.dtype,
                                                  .trans_a = args.trans_a,
                                                  .trans_b = args.trans_b,
                                                  .accumulate = args.accumulate},
                                                 NumThreads());
  if (!product) return nullptr;
  return [args, product = std::make_shared<Product>(std::move(*product))] {
    product->Run(args.a.data, args.b.data, args.c.data);
  };
}

}  // namespace hawser
