#include "hawser/data/upsample.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"

namespace hawser {
namespace {

constexpr int kThrows = 1000;

void Shuffle(std::vector<uint32_t>& list, Rng& rng) {
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[rng.Below(i)]);
}

}  // namespace

std::vector<uint32_t> DrawDocuments(const DocumentSet& documents, const UpsampleOptions& options, uint64_t seed,
                                    uint64_t epoch, std::vector<DrawCounts>* counts) {
  if (documents.size() > std::numeric_limits<uint32_t>::max()) {
    Fail(ErrorKind::kUnsupported, "{} documents; at most {} can be shuffled", documents.size(),
         std::numeric_limits<uint32_t>::max());
  }
  const auto size = static_cast<uint32_t>(documents.size());
  const size_t sources = documents.sources().size();
  std::vector<DrawCounts> count(sources);
  std::vector<std::vector<uint32_t>> kept(sources), all(sources);
  for (uint32_t d = 0; d < size; ++d) {
    DrawCounts& c = count[documents.source(d)];
    ++c.documents;
    c.tokens += documents.length(d);
    if (options.kind == Upsample::kPerSource) all[documents.source(d)].push_back(d);
  }
  Rng rng{.seed = RandomBits(seed, streams::kUpsample, epoch)};
  int64_t tokens_kept = 0;
  // A chance of short_keep may strike none of a few documents: another throw, so that no epoch is empty.
  for (int throws = 0; tokens_kept == 0 && throws < (options.short_keep > 0 ? kThrows : 1); ++throws) {
    for (auto& list : kept) list.clear();
    for (uint32_t d = 0; d < size; ++d) {
      const int32_t source = documents.source(d);
      if (options.kind == Upsample::kNone || documents.length(d) >= options.long_tokens ||
          rng.Uniform() < options.short_keep) {
        kept[source].push_back(d);
        count[source].drawn += documents.length(d);
        tokens_kept += documents.length(d);
      }
    }
  }
  if (tokens_kept == 0 && documents.tokens() > 0) {
    Fail(ErrorKind::kUsage, "up-sampling keeps none of {} documents: none has {} tokens or more and short_keep is {}",
         size, options.long_tokens, options.short_keep);
  }
  for (DrawCounts& c : count) c.left_short = c.tokens - c.drawn;
  std::vector<uint32_t> drawn;
  for (size_t s = 0; s < sources; ++s) {
    DrawCounts& c = count[s];
    if (options.kind != Upsample::kPerSource) {
      drawn.insert(drawn.end(), kept[s].begin(), kept[s].end());
      continue;
    }
    const double share = static_cast<double>(c.tokens) / static_cast<double>(documents.tokens());
    const auto budget = static_cast<int64_t>(share * static_cast<double>(tokens_kept) + 0.5);
    if (c.drawn == 0) {
      kept[s] = std::move(all[s]);
      c.drawn = std::exchange(c.left_short, 0);
    }
    const int64_t once = c.drawn;
    int64_t taken = 0;
    for (bool again = false; taken < budget; again = true) {
      Shuffle(kept[s], rng);
      for (size_t i = 0; i < kept[s].size() && taken < budget; ++i) {
        const int64_t length = documents.length(kept[s][i]);
        drawn.push_back(kept[s][i]);
        taken += length;
        if (again) c.repeated += length;
      }
    }
    c.drawn = taken;
    c.left_budget = once - (taken - c.repeated);
  }
  std::sort(drawn.begin(), drawn.end());
  if (counts != nullptr) *counts = std::move(count);
  return drawn;
}

}  // namespace hawser
