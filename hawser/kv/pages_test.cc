// Pages against vectors of rows: whatever forks share, each of them holds its own rows.
#include "hawser/kv/pages.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "hawser/base/rng.h"
#include "hawser/device/registry.h"

namespace hawser {
namespace {

constexpr int32_t kTensors = 3;
constexpr int64_t kColumns = 5;

/// Pages, and the number that every slot was written with.
struct Twin {
  KvPages pages;
  std::vector<int32_t> rows;
};

float ValueOf(int32_t tensor, int64_t column, int32_t row) {
  return static_cast<float>(row * 100 + tensor * 10) + static_cast<float>(column);
}

class KvPagesTest : public ::testing::TestWithParam<bool> {
 protected:
  Twin New() const { return {KvPages(backend_.get(), kTensors, kColumns, DType::kF32, GetParam()), {}}; }

  void Extend(Twin* twin, int64_t more) {
    const auto first = static_cast<int64_t>(twin->rows.size());
    twin->pages.Extend(more, -1);
    for (int64_t slot = first; slot < first + more; ++slot) twin->rows.push_back(++written_);
    for (int32_t tensor = 0; tensor < kTensors; ++tensor) {
      for (int64_t slot = first; slot < first + more;) {
        const int64_t n = twin->pages.Together(slot, first + more - slot);
        const Mat run = twin->pages.Run(tensor, slot, n);
        for (int64_t r = 0; r < n; ++r, ++slot) {
          for (int64_t c = 0; c < kColumns; ++c) {
            run.Row<float>(r)[c] = ValueOf(tensor, c, twin->rows[static_cast<size_t>(slot)]);
          }
        }
      }
    }
  }

  static void Check(const Twin& twin) {
    ASSERT_EQ(twin.pages.size(), static_cast<int64_t>(twin.rows.size()));
    for (int32_t tensor = 0; tensor < kTensors; ++tensor) {
      const KvRows rows = twin.pages.Rows(tensor);
      ASSERT_EQ(rows.rows(), twin.pages.size());
      for (int64_t slot = 0; slot < rows.rows(); ++slot) {
        const ConstMat run = rows.Run(slot, rows.Together(slot, 1));
        for (int64_t c = 0; c < kColumns; ++c) {
          ASSERT_EQ(run.Row<float>(0)[c], ValueOf(tensor, c, twin.rows[static_cast<size_t>(slot)])) << slot;
        }
      }
    }
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  int32_t written_ = 0;
};

int64_t HeldBytes(const std::vector<Twin>& twins) {
  std::set<const void*> seen;
  int64_t sum = 0;
  for (const Twin& twin : twins) {
    twin.pages.Visit([&](const void* page, int64_t bytes) { sum += seen.insert(page).second ? bytes : 0; });
  }
  return sum;
}

TEST_P(KvPagesTest, ForksHoldTheirOwnRowsWhateverIsDoneToOthers) {
  const std::vector<int32_t> all = {0, 1, 2};
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Rng rng{.seed = seed, .stream = 12};
    std::vector<Twin> twins;
    twins.push_back(New());
    for (int step = 0; step < 60; ++step) {
      Twin& twin = twins[rng.Below(twins.size())];
      const auto size = static_cast<int64_t>(twin.rows.size());
      switch (rng.Below(6)) {
        case 0:
          Extend(&twin, 1 + static_cast<int64_t>(rng.Below(400)));
          break;
        case 1:
          Extend(&twin, 1);
          break;
        case 2: {
          const auto keep = static_cast<int64_t>(rng.Below(static_cast<size_t>(size) + 1));
          twin.pages.Truncate(keep);
          twin.rows.resize(static_cast<size_t>(keep));
          break;
        }
        case 3:
          if (twins.size() < 5) {
            const auto keep = static_cast<int64_t>(rng.Below(static_cast<size_t>(size) + 1));
            Twin fork{twin.pages.Fork(keep), {twin.rows.begin(), twin.rows.begin() + keep}};
            twins.push_back(std::move(fork));
          } else {
            twins.erase(twins.begin() + static_cast<int64_t>(rng.Below(twins.size())));
          }
          break;
        case 4:
          twin.pages.Own();
          break;
        default:
          if (GetParam() || size == 0) break;  // pages that only grow keep all
          std::vector<int32_t> keep;
          std::vector<int32_t> rows;
          const auto gap = static_cast<int32_t>(rng.Below(static_cast<size_t>(size)));
          for (int32_t i = 0; i < size; ++i) {
            if (i < 4 || i >= gap || rng.Below(9) == 0) keep.push_back(i), rows.push_back(twin.rows[i]);
          }
          twin.pages.Keep(keep, all);
          twin.rows = rows;
          if (rng.Below(4) == 0) twin.pages.Shrink();
          break;
      }
      for (const Twin& one : twins) Check(one);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KvPagesTest, ForksOfAPrefixTakeItsMemoryOnce) {
  std::vector<Twin> twins;
  twins.push_back(New());
  Extend(&twins[0], 1000);
  const int64_t once = HeldBytes(twins);
  EXPECT_GE(once, 1000 * kTensors * kColumns * 4);
  for (int i = 0; i < 16; ++i) twins.push_back({twins[0].pages.Fork(1000 - i), {}});
  EXPECT_EQ(HeldBytes(twins), once);
  for (int i = 1; i <= 16; ++i) {
    twins[i].rows.assign(twins[0].rows.begin(), twins[0].rows.begin() + 1001 - i);
    Extend(&twins[i], 1);
  }
  // Of pages each fork has made one its own; where all lies together, all of it.
  const int64_t page = KvRows::kPage * kTensors * kColumns * 4;
  if (GetParam()) {
    EXPECT_EQ(HeldBytes(twins), once + 16 * page);
  }
  for (const Twin& twin : twins) Check(twin);
}

INSTANTIATE_TEST_SUITE_P(Forms, KvPagesTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Paged" : "Together"; });

}  // namespace
}  // namespace hawser
