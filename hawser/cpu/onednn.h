// cpu/onednn.h - the little of oneDNN that we use, and all that differs between its versions 2 and 3: one matrix
// product as a primitive that runs on a fixed number of threads.
#pragma once

#include <omp.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "hawser/base/dtype.h"
#include "hawser/cpu/scratch.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace hawser {

/// c [m, n] = op(a) op(b), or + bias [n] F32, or c += with accumulate; leading dimensions in elements of the stored
/// matrices.
struct ProductShape {
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  DType in = DType::kF32, out = DType::kF32;
  bool trans_a = false, trans_b = false, accumulate = false, bias = false;

  bool operator==(const ProductShape&) const = default;
};

inline const dnnl::engine& CpuEngine() {
  static const dnnl::engine engine = [] {
    dnnl::set_primitive_cache_capacity(0);  // whoever makes primitives keeps them, and decides how many
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

/// The instruction set oneDNN uses, "avx512_core_amx" and the like.
inline std::string_view OneDnnIsa() {
  using Isa = dnnl::cpu_isa;
  switch (dnnl::get_effective_cpu_isa()) {
    case Isa::avx512_core_amx:
      return "avx512_core_amx";
    case Isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case Isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case Isa::avx512_core:
      return "avx512_core";
    case Isa::avx2_vnni:
      return "avx2_vnni";
    case Isa::avx2:
      return "avx2";
    case Isa::avx:
      return "avx";
    case Isa::sse41:
      return "sse41";
    default:
      return "best available";
  }
}

/// While it lives, the number of threads that parallel regions of this thread start.
class WithThreads {
 public:
  explicit WithThreads(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~WithThreads() { omp_set_num_threads(before_); }
  WithThreads(const WithThreads&) = delete;
  WithThreads& operator=(const WithThreads&) = delete;

 private:
  int before_;
};

class Product {
 public:
  /// A primitive for `threads` threads: oneDNN decides on the split of the work, along k too, when it makes one and
  /// again when it runs one, so both happen under the same number. Nothing if oneDNN has no kernel better than its
  /// reference for this shape on this machine.
  static std::optional<Product> Make(const ProductShape& s, int threads) {
    using Memory = dnnl::memory;
    const auto type = [](DType dtype) {
      return dtype == DType::kBF16 ? Memory::data_type::bf16 : Memory::data_type::f32;
    };
    const auto strides = [](int64_t ld, bool trans) { return trans ? Memory::dims{1, ld} : Memory::dims{ld, 1}; };
    const Memory::desc a({s.m, s.k}, type(s.in), strides(s.lda, s.trans_a));
    const Memory::desc b({s.k, s.n}, type(s.in), strides(s.ldb, s.trans_b));
    const Memory::desc c({s.m, s.n}, type(s.out), strides(s.ldc, false));
    const Memory::desc bias =
        s.bias ? Memory::desc({1, s.n}, Memory::data_type::f32, Memory::dims{s.n, 1}) : Memory::desc();
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attr.set_post_ops(sum);
    }
    const WithThreads guard(threads);
    try {
#if DNNL_VERSION_MAJOR >= 3
      const dnnl::matmul::primitive_desc desc(CpuEngine(), a, b, bias, c, attr);
#else
      const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, b, bias, c), attr, CpuEngine());
#endif
      if (std::string_view(desc.impl_info_str()).find("ref") != std::string_view::npos) return std::nullopt;
      return Product(desc, threads);
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
      return std::nullopt;
    }
  }

  /// bias: where the shape has one.
  void Run(const void* a, const void* b, void* c, const float* bias = nullptr) const {
    thread_local dnnl::stream stream(CpuEngine());
    thread_local Scratch scratch;
    const auto view = [](const dnnl::memory::desc& desc, const void* data) {
      return dnnl::memory(desc, CpuEngine(), const_cast<void*>(data));
    };
    const dnnl::memory ma = view(a_, a), mb = view(b_, b), mc = view(c_, c), mbias = view(bias_, bias);
    const dnnl::memory pad = view(pad_, scratch.Get<char>(static_cast<int64_t>(pad_.get_size())));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, ma.get()},
                                    {DNNL_ARG_WEIGHTS, mb.get()},
                                    {DNNL_ARG_DST, mc.get()},
                                    {DNNL_ARG_SCRATCHPAD, pad.get()},
                                    {DNNL_ARG_BIAS, mbias.get()}};
    const int count = bias == nullptr ? 4 : 5;
    const WithThreads guard(threads_);
    dnnl::error::wrap_c_api(dnnl_primitive_execute(primitive_.get(), stream.get(), count, args),
                            "oneDNN matmul failed");
  }

 private:
  Product(const dnnl::matmul::primitive_desc& desc, int threads)
      : threads_(threads),
        primitive_(desc),
        a_(desc.src_desc()),
        b_(desc.weights_desc()),
        c_(desc.dst_desc()),
        bias_(desc.bias_desc()),
        pad_(desc.scratchpad_desc()) {}

  int threads_;
  dnnl::matmul primitive_;
  dnnl::memory::desc a_, b_, c_, bias_, pad_;
};

}  // namespace hawser
