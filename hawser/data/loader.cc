#include "hawser/data/loader.h"

#include <limits>
#include <numeric>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"

namespace hawser {

Loader::Loader(const std::vector<Document>* documents, PackOptions options, uint64_t seed)
    : documents_(documents), options_(std::move(options)), seed_(seed) {
  BeginEpoch();
}

void Loader::BeginEpoch() {
  const auto epoch = static_cast<uint64_t>(epoch_);
  order_.resize(documents_->size());
  std::iota(order_.begin(), order_.end(), uint32_t{0});
  Rng rng{.seed = seed_, .stream = epoch};
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.Below(i)]);
  cursor_ = 0;
  packer_ = std::make_unique<Packer>(options_, RandomBits(seed_, epoch, std::numeric_limits<uint64_t>::max()));
}

void Loader::Take(PackedSequence* out) {
  while (!packer_->Next(out)) {
    if (cursor_ < order_.size()) {
      packer_->Add((*documents_)[order_[cursor_++]]);
      if (cursor_ == order_.size()) packer_->Finish();
      continue;
    }
    const PackCounts& counts = packer_->counts();
    if (counts.sequences == 0) {
      Fail(ErrorKind::kUsage,
           "{} documents with {} tokens fill no sequence of {} tokens: give more data or a shorter one",
           counts.documents, counts.tokens_in, options_.length);
    }
    ++epoch_;
    BeginEpoch();
  }
  ++sequence_;
}

void Loader::Next(PackedSequence* out) { Take(out); }

void Loader::Skip(int64_t n) {
  for (int64_t i = 0; i < n; ++i) Take(nullptr);
}

}  // namespace hawser
