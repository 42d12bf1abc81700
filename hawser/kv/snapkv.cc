// SnapKV (arXiv:2404.14469): what the last queries of a prompt attend to is what the answer will need.
//   score[s] = mean over the query heads of a key head of pool(mean over the window of their weights)
// pool: the mean of `kernel` neighbours, so that what stands beside a key comes along; outside of the keys before the
// window there are zeros. The window itself stays.
#include <algorithm>
#include <limits>

#include "hawser/kv/chooser.h"

namespace hawser {
namespace {

class SnapChooser final : public KeyChooser {
 public:
  SnapChooser(const KvSnap& form, const ChooserShape& shape)
      : shape_(shape), kernel_(form.kernel), recent_(form.window) {}

  void Observe(const ChunkQueries& queries) override { recent_.Observe(queries); }
  void Commit() override { recent_.Commit(); }
  void RollBack() override { recent_.RollBack(); }
  void Clear() override { recent_.Clear(); }

  std::vector<std::vector<float>> Scores(const HeldRows& held) const override {
    const int64_t before = held.keys.rows - std::min(recent_.rows(), held.keys.rows);
    std::vector<std::vector<float>> scores(
        static_cast<size_t>(shape_.kv_heads),
        std::vector<float>(static_cast<size_t>(held.keys.rows), std::numeric_limits<float>::infinity()));
    const std::vector<std::vector<float>> weights = recent_.MeanWeights(shape_, held);
    for (int32_t g = 0; g < shape_.kv_heads; ++g) {
      std::vector<double> mean(static_cast<size_t>(before));
      for (int32_t h = g * shape_.group(); !weights.empty() && h < (g + 1) * shape_.group(); ++h) {
        for (size_t s = 0; s < mean.size(); ++s) mean[s] += double{weights[static_cast<size_t>(h)][s]};
      }
      for (int64_t s = 0; s < before; ++s) {
        double sum = 0;
        const int64_t end = std::min(before, s + kernel_ / 2 + 1);
        for (int64_t k = std::max<int64_t>(0, s - kernel_ / 2); k < end; ++k) sum += mean[static_cast<size_t>(k)];
        scores[static_cast<size_t>(g)][static_cast<size_t>(s)] =
            static_cast<float>(sum / static_cast<double>(kernel_ * shape_.group()));
      }
    }
    return scores;
  }

 private:
  ChooserShape shape_;
  int64_t kernel_;
  RecentQueries recent_;
};

}  // namespace

std::unique_ptr<KeyChooser> MakeChooser(const KvSnap& form, const ChooserShape& shape) {
  return std::make_unique<SnapChooser>(form, shape);
}

}  // namespace hawser
