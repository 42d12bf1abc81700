#include "hawser/data/loader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"

namespace hawser {

Loader::Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, UpsampleOptions upsample)
    : documents_(documents), options_(std::move(options)), upsample_(upsample), seed_(seed) {
  BeginEpoch();
}

void Loader::BeginEpoch() {
  const auto epoch = static_cast<uint64_t>(epoch_);
  order_ = DrawDocuments(*documents_, upsample_, seed_, epoch, &draw_counts_);
  Rng rng{.seed = seed_, .stream = epoch};
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.Below(i)]);
  draws_ = rng;
  cursor_ = 0;
  packer_ = std::make_unique<Packer>(options_, RandomBits(seed_, epoch, std::numeric_limits<uint64_t>::max()));
}

bool Loader::Pack() {
  PackedSequence sequence;
  while (!packer_->Next(&sequence, /*derive=*/false)) {
    if (cursor_ == order_.size()) return false;
    packer_->Add(documents_->Get(order_[cursor_++]));
    if (cursor_ == order_.size()) packer_->Finish();
  }
  window_.push_back(std::move(sequence));
  return true;
}

bool Loader::NextOfEpoch(PackedSequence* out) {
  const auto wanted = static_cast<size_t>(std::max<int64_t>(1, kWindowTokens / options_.length));
  while (window_.size() < wanted && Pack()) {
  }
  if (window_.empty()) {
    const PackCounts& counts = packer_->counts();
    if (counts.sequences > 0) return false;
    Fail(
        ErrorKind::kUsage,
        "{} documents with {} tokens fill no sequence of {} tokens ({} have fewer than min_document = {} tokens): give "
        "more data or a shorter context",
        counts.documents, counts.tokens_in, options_.length, counts.short_documents, options_.min_document);
  }
  std::swap(window_[draws_.Below(window_.size())], window_.back());
  *out = std::move(window_.back());
  window_.pop_back();
  DeriveFromSegments(options_, out);
  ++sequence_;
  return true;
}

void Loader::Next(PackedSequence* out) {
  while (!NextOfEpoch(out)) {
    finished_ = total_counts();
    ++epoch_;
    BeginEpoch();
  }
}

PackCounts Loader::total_counts() const {
  PackCounts total = finished_;
  total += packer_->counts();
  return total;
}

void Loader::Skip(int64_t n) {
  PackedSequence skipped;
  for (int64_t i = 0; i < n; ++i) Next(&skipped);
}

}  // namespace hawser
