#include "hawser/data/loader.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/size.h"
#include "hawser/base/streams.h"

namespace hawser {
namespace {

int64_t TextTokens(const PackedSequence& sequence) {
  int64_t sum = 0;
  for (const Segment& segment : sequence.segments) sum += segment.text_tokens();
  return sum;
}

}  // namespace

Loader::Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, UpsampleOptions upsample)
    : documents_(documents), options_(std::move(options)), upsample_(upsample), seed_(seed) {
  const std::vector<MixtureSource>& mixture = documents->mixture();
  HAWSER_CHECK(mixture.empty() || upsample.kind == Upsample::kNone);
  if (mixture.empty()) BeginEpoch();
  for (size_t s = 0; s < mixture.size(); ++s) {
    HAWSER_CHECK(mixture[s].weight > 0);
    sources_.emplace_back(new Loader(documents, options_, RandomBits(seed, streams::kSource, s), &mixture[s]));
  }
}

Loader::Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, const MixtureSource* source)
    : documents_(documents), options_(std::move(options)), seed_(seed), source_(source) {
  BeginEpoch();
}

void Loader::BeginEpoch() {
  const auto epoch = static_cast<uint64_t>(epoch_);
  if (source_ == nullptr) {
    order_ = DrawDocuments(*documents_, upsample_, seed_, epoch, &draw_counts_);
  } else {
    order_.resize(static_cast<size_t>(source_->end - source_->begin));
    std::iota(order_.begin(), order_.end(), static_cast<uint32_t>(source_->begin));
  }
  Rng rng{.seed = seed_, .stream = streams::Epoch(epoch)};
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[rng.Below(i)]);
  cursor_ = 0;
  if (source_ != nullptr && packer_ != nullptr) return;
  draws_ = rng;
  packer_ = std::make_unique<Packer>(options_,
                                     RandomBits(seed_, streams::Epoch(epoch), std::numeric_limits<uint64_t>::max()));
}

void Loader::GoOn() {
  const PackCounts& counts = packer_->counts();
  const bool all_short = counts.tokens_in == counts.dropped_short;
  const bool untrained = counts.sequences == 0 && counts.dropped_untrained >= source_->tokens + options_.length;
  if (all_short || untrained) {
    Fail(ErrorKind::kUsage, "source \"{}\": none of {} documents {}", source_->name, source_->end - source_->begin,
         all_short ? fmt::format("has min_document = {} tokens", options_.min_document) : "has a token to train on");
  }
  ++epoch_;
  BeginEpoch();
}

bool Loader::Pack() {
  PackedSequence sequence;
  while (!packer_->Next(&sequence, /*derive=*/false)) {
    if (cursor_ == order_.size()) {
      if (source_ == nullptr) return false;
      GoOn();
    }
    packer_->Add(documents_->Get(order_[cursor_++]));
    if (cursor_ == order_.size() && source_ == nullptr) packer_->Finish();
  }
  window_.push_back(std::move(sequence));
  return true;
}

bool Loader::NextOfMixture(PackedSequence* out) {
  if (text_tokens_ >= (epoch_ + 1) * documents_->tokens()) return false;
  const auto filled = [](const std::unique_ptr<Loader>& source) {
    return static_cast<double>(source->text_tokens_) / source->source_->weight;
  };
  const auto next = std::min_element(sources_.begin(), sources_.end(),
                                     [&](const auto& a, const auto& b) { return filled(a) < filled(b); });
  (*next)->Next(out);
  text_tokens_ += TextTokens(*out);
  ++sequence_;
  return true;
}

bool Loader::NextOfEpoch(PackedSequence* out) {
  if (!sources_.empty()) return NextOfMixture(out);
  const int64_t tokens = source_ == nullptr ? kWindowTokens : std::min(kWindowTokens, source_->tokens);
  const auto wanted = static_cast<size_t>(std::max<int64_t>(1, tokens / options_.length));
  while (window_.size() < wanted && Pack()) {
  }
  if (window_.empty()) {
    const PackCounts& counts = packer_->counts();
    if (counts.sequences > 0) return false;
    Fail(ErrorKind::kUsage,
         "{} with {} fill no sequence of {} tokens ({} have fewer than min_document = {} tokens{}): "
         "give more data or a shorter context",
         Counted(counts.documents, "document"), Counted(counts.tokens_in, "token"), options_.length,
         counts.short_documents, options_.min_document,
         counts.dropped_untrained > 0 ? fmt::format(", {} have no loss weight", counts.dropped_untrained) : "");
  }
  std::swap(window_[draws_.Below(window_.size())], window_.back());
  *out = std::move(window_.back());
  window_.pop_back();
  DeriveFromSegments(options_, out);
  text_tokens_ += TextTokens(*out);
  ++sequence_;
  return true;
}

void Loader::Next(PackedSequence* out) {
  while (!NextOfEpoch(out)) {
    if (!sources_.empty()) {
      ++epoch_;
      continue;
    }
    finished_ = total_counts();
    ++epoch_;
    BeginEpoch();
  }
}

PackCounts Loader::counts() const {
  if (sources_.empty()) return packer_->counts();
  PackCounts sum;
  for (const auto& source : sources_) sum += source->counts();
  return sum;
}

PackCounts Loader::total_counts() const {
  PackCounts total = finished_;
  total += counts();
  return total;
}

std::vector<SourceTokens> Loader::source_tokens() const {
  double weights = 0;
  for (const auto& source : sources_) weights += source->source_->weight;
  std::vector<SourceTokens> all;
  for (const auto& loader : sources_) {
    const MixtureSource& source = *loader->source_;
    all.push_back({source.name, source.weight / weights, source.end - source.begin, loader->text_tokens_,
                   static_cast<double>(loader->text_tokens_) / static_cast<double>(source.tokens)});
  }
  return all;
}

void Loader::Skip(int64_t n) {
  PackedSequence skipped;
  for (int64_t i = 0; i < n; ++i) Next(&skipped);
}

}  // namespace hawser
