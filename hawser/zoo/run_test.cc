// Models that run with their tensors as they lie give what the same values give in a store of their own.
#include <gtest/gtest.h>

#include <cmath>

#include "hawser/device/registry.h"
#include "hawser/kv/form.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/gguf_export.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = FreshFolder("zoo_run"); }

  static LoadedModel Model() {
    const ModelSpec spec = TinySpec({.layers = 2, .width = 256, .mlp_width = 256});
    return {.format = "test", .spec = spec, .params = LoudModel(spec, 5)};
  }

  /// Logits of a prompt in one piece, and of the same tokens one at a time.
  std::vector<float> Logits(const Weights& weights) {
    Decoder decoder(backend_.get(), weights);
    const std::vector<int32_t> ids = {1, 9, 30, 4, 17, 22, 60, 3, 11, 5, 41, 2};
    const auto n = static_cast<int64_t>(ids.size()), vocab = int64_t{weights.spec().vocab};
    Matrix logits(2 * n, vocab, DType::kF32);
    for (const size_t most : {ids.size(), size_t{1}}) {
      KvCache cache = NewKvCache(backend_.get(), weights.spec(), ParseKvForm("full"), {}, weights.dtype(), 0);
      for (size_t begin = 0; begin < ids.size(); begin += most) {
        decoder.Extend(
            std::span(ids).subspan(begin, most), &cache,
            logits.view().Rows((most == 1 ? n : 0) + static_cast<int64_t>(begin), static_cast<int64_t>(most)));
      }
    }
    const float* all = logits.Row<float>(0);
    return {all, all + 2 * n * vocab};
  }
  static double Difference(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += std::pow(a[i] - b[i], 2);
      size += std::pow(b[i], 2);
    }
    return std::sqrt(error / size);
  }

  fs::path folder_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(RunTest, FoldersRunInTheSameBits) {
  for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
    SaveHuggingFace(Model().params, nullptr, stored, folder_);
    const LoadedModel loaded = LoadModel(folder_);
    for (const std::optional<DType> dtype :
         {std::optional<DType>(), std::optional(DType::kF32), std::optional(DType::kBF16)}) {
      const ModelToRun run = LoadModelToRun(folder_, {}, dtype);
      EXPECT_EQ(run.weights.dtype(), dtype.value_or(stored == DType::kBF16 ? DType::kBF16 : DType::kF32));
      EXPECT_EQ(run.weights.spec(), loaded.spec);
      const ParamStore store = Cast(loaded.params, run.weights.dtype());
      const std::vector<float> want = Logits(store), got = Logits(run.weights);
      if (stored == DType::kF16 && dtype != DType::kF32) {  // read as it lies: other sums, and no rounding to bf16
        EXPECT_LT(Difference(got, want), dtype ? 0.02 : 1e-5);
      } else {
        EXPECT_EQ(got, want) << Name(stored) << " as " << Name(run.weights.dtype());
      }
    }
  }
}

TEST_F(RunTest, GgufFilesRunAsTheyLie) {
  const fs::path path = folder_ / "x.gguf";
  for (const DType type :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4K, DType::kQ6K}) {
    ExportGguf(Model(), {.model = folder_}, type, path);
    const LoadedModel loaded = LoadModel(path);
    const std::vector<float> want = Logits(loaded.params);
    // Adjacent pairs are rotated where they are, so that sums have another order.
    EXPECT_LT(Difference(Logits(LoadModelToRun(path, {}, DType::kF32).weights), want), 1e-5) << Name(type);
    const ModelToRun run = LoadModelToRun(path, {}, std::nullopt);
    EXPECT_EQ(run.weights.spec().rope.pairing, RopePairing::kAdjacent);
    EXPECT_LT(Difference(Logits(run.weights), want), 0.03) << Name(type);
    EXPECT_LT(Difference(Logits(LoadModelToRun(path, {}, DType::kBF16).weights), want), 0.05) << Name(type);
    // Nothing but norms is copied.
    EXPECT_LT(run.weights.bytes(), static_cast<int64_t>(fs::file_size(path)));
    for (const WeightView& view : run.weights.Qkv(0)) EXPECT_EQ(IsBlocked(view.w.dtype), IsBlocked(type));
  }
}

TEST_F(RunTest, ViewsOfAStoreThatIsKept) {
  auto params = std::make_shared<const ParamStore>(Cast(Model().params, DType::kF32));
  const std::vector<float> want = Logits(*params);
  const Weights weights = Weights::Of(std::move(params));
  EXPECT_EQ(Logits(weights), want);
  ModelSpec longer = weights.spec();
  longer.context *= 4;
  EXPECT_EQ(weights.WithSpec(longer).spec().context, longer.context);
}

}  // namespace
}  // namespace hawser
