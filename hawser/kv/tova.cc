// TOVA (arXiv:2401.06104): what the newest query attends to least goes. The weights are the mean over all heads of a
// layer, which keep the same tokens; the newest token stays.
#include <limits>

#include "hawser/kv/chooser.h"

namespace hawser {
namespace {

class TovaChooser final : public KeyChooser {
 public:
  explicit TovaChooser(const ChooserShape& shape) : shape_(shape), newest_(1) {}

  void Observe(const ChunkQueries& queries) override { newest_.Observe(queries); }
  void Commit() override { newest_.Commit(); }
  void RollBack() override { newest_.RollBack(); }
  void Clear() override { newest_.Clear(); }

  std::vector<std::vector<float>> Scores(const HeldRows& held) const override {
    std::vector<double> sum(static_cast<size_t>(held.keys.rows));
    for (const std::vector<float>& weights : newest_.MeanWeights(shape_, held)) {
      for (size_t s = 0; s < sum.size(); ++s) sum[s] += double{weights[s]};
    }
    std::vector<float> scores(sum.size());
    for (size_t s = 0; s < sum.size(); ++s) scores[s] = static_cast<float>(sum[s] / shape_.heads);
    scores.back() = std::numeric_limits<float>::infinity();
    return {scores};
  }

 private:
  ChooserShape shape_;
  RecentQueries newest_;
};

}  // namespace

std::unique_ptr<KeyChooser> MakeChooser(const KvTova& /*form*/, const ChooserShape& shape) {
  return std::make_unique<TovaChooser>(shape);
}

}  // namespace hawser
