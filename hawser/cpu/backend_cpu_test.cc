// What the backend adds to its ops: memory, and arguments checked before any work.
#include "hawser/cpu/backend_cpu.h"

#include <gtest/gtest.h>

#include "hawser/base/parallel.h"
#include "hawser/testing/test_mat.h"

namespace hawser {
namespace {

using testing::TestMat;

TEST(CpuBackend, MovesDenseMemoryInAndOutOfStridedMatrices) {
  const auto backend = MakeCpuBackend();
  for (DType type : {DType::kF32, DType::kBF16}) {
    TestMat from(5, 7, type, 1), to(5, 7, type, 2, 1.0, 3);
    backend->Upload(from.view().data, to);
    to.ExpectMarginUntouched();
    EXPECT_EQ(to.Values(), from.Values());
    TestMat back(5, 7, type, 3);
    backend->Download(to, back.view().data);
    EXPECT_EQ(back.Bytes(), from.Bytes());
  }
  const Matrix fresh = backend->NewMatrix(3, 4, DType::kF32);
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(fresh.Row<float>(0)[i], 0.0f);
}

TEST(CpuBackend, EveryOpChecksItsArguments) {
  const auto backend = MakeCpuBackend();
  TestMat a(3, 4, DType::kF32, 1), b(5, 6, DType::kF32, 2), low(3, 4, DType::kBF16, 3);
  const auto before = a.Bytes();
  const int32_t ids[3] = {};
  const auto expect = [](const char* op, auto&& call) {
    try {
      call();
      ADD_FAILURE() << op << " took what it must refuse";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_EQ(std::string(error.what()).find(op), 0u) << error.what();
    }
  };
  expect("[matmul]", [&] { backend->MatMul({.a = a, .b = b, .c = a}); });
  expect("[linear]", [&] { backend->Linear({.x = a, .w = b, .y = a}); });
  expect("[linear backward]", [&] { backend->LinearBackward({.x = b, .w = b, .dy = a, .dx = b, .dw = {}}); });
  expect("[clamp]", [&] { backend->Clamp(a, -1.0f); });
  expect("[clamp backward]", [&] { backend->ClampBackward(b, 1.0f, a); });
  expect("[cap logits]", [&] { backend->CapLogits(a, 1.0f, -1.0f); });
  const KvRange behind{2, 6};
  expect("[dot rows]", [&] { backend->DotRows(a, a, {&behind, 1}, a); });
  expect("[cluster scores]", [&] { backend->ClusterScores(a, {ids, 3}, {}); });
  expect("[norm]", [&] { backend->NormForward({.x = b, .weight = a, .y = b}); });
  expect("[norm backward]",
         [&] { backend->NormBackward({.x = a, .weight = a, .dy = a, .residual = {}, .dx = a, .dweight = a}); });
  expect("[rope]", [&] { backend->Rope({.x = a, .heads = 3, .head_dim = 4, .half = 2}); });
  expect("[act]", [&] { backend->ActForward({.in = a, .y = a}); });
  expect("[act backward]", [&] { backend->ActBackward({.in = a, .dy = a, .din = a, .y = {}}); });
  expect("[add]", [&] { backend->Add(b, a); });
  expect("[copy]", [&] { backend->Copy(b, a); });
  expect("[fill]", [&] { backend->Fill({nullptr, DType::kF32, 2, 2, 2}, 0.0f); });
  expect("[embed]", [&] { backend->EmbedForward(b, ids, a); });
  expect("[embed backward]", [&] { backend->EmbedBackward(a, ids, low); });
  expect("[cross-entropy]", [&] { backend->CrossEntropy({.x = a, .weight = b, .targets = ids}); });
  expect("[adamw]", [&] { backend->AdamW({.n = 3}); });
  EXPECT_EQ(a.Bytes(), before);
}

TEST(CpuBackend, DescribesItself) {
  const int before = NumThreads();
  SetThreads(3);
  const std::string line = MakeCpuBackend()->Describe();
  SetThreads(before);
  EXPECT_EQ(line.find("cpu: simd "), 0u) << line;
  EXPECT_NE(line.find("3 threads"), std::string::npos) << line;
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace hawser
