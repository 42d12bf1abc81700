// A token in steady state allocates nothing: every operator new of this process is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "hawser/base/parallel.h"
#include "hawser/device/registry.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/tiny_model.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Both sides are replaced below; where one of them is inlined the compiler does not see that.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size > 0 ? size : 1);
}
void* operator new(size_t size, std::align_val_t alignment) {
  ++allocations;
  const auto align = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(align, (size + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace hawser {
namespace {

TEST(KvAllocations, NoneForATokenInSteadyState) {
  const ModelSpec spec = TinySpec({.layers = 3, .kv_heads = 2, .head_dim = 8});
  const ParamStore params = TinyModel(spec, 3);
  const auto backend = MakeBackend("cpu");
  Decoder decoder(backend.get(), &params);
  std::vector<uint8_t> flags(spec.vocab);
  for (size_t id = 0; id < flags.size(); id += 6) flags[id] = 1;
  Matrix logits(1, spec.vocab);
#ifdef __SANITIZE_THREAD__
  const std::vector<int> all_threads = {1};  // each parallel loop of that build starts threads of its own
#else
  const std::vector<int> all_threads = {1, 2};
#endif
  for (const int threads : all_threads) {
    SetThreads(threads);
    for (const char* policy :
         {"window:16", "sink:4,20", "sink:4,20,positions=absolute", "sep-stream:4,6,16,50",
          "sep-stream:4,6,16,50,policy=full,positions=absolute", "sep-stream:4,6,16+20+16,50,accumulate=off",
          "window:16,dtype=q8_0", "sink:4,20,dtype=q8_0", "sep-stream:4,6,16,50,dtype=q8_0", "sink:4,20,dtype=bf16"}) {
      KvCache cache = NewKvCache(backend.get(), spec, ParseKvForm(policy), flags, DType::kF32, 4096);
      int32_t token = 0;
      const auto step = [&] {
        token = (token * 29 + 17) % spec.vocab;
        decoder.Extend({&token, 1}, &cache, logits);
      };
      while (cache.seen() < 400) step();
      const int64_t bytes = cache.bytes(), before = allocations;
      while (cache.seen() < 1000) step();
      EXPECT_EQ(allocations - before, 0) << policy << ", " << threads << " threads";
      EXPECT_EQ(cache.bytes(), bytes) << policy;
    }
  }
  SetThreads(0);
}

}  // namespace
}  // namespace hawser
