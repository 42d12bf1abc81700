#include "hawser/pos/position_map.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "hawser/base/error.h"

namespace hawser {
namespace {

/// T sorted numbers of [0, T + room), each set equally likely (Floyd's algorithm), less their places: never falling.
std::vector<int64_t> DrawEveryPlace(int32_t tokens, int64_t room, Rng* rng) {
  std::set<int64_t> places;
  for (int64_t last = room; last < room + tokens; ++last) {
    const auto drawn = static_cast<int64_t>(rng->Below(static_cast<uint64_t>(last) + 1));
    if (!places.insert(drawn).second) places.insert(last);
  }
  std::vector<int64_t> skips(places.begin(), places.end());
  for (size_t i = 0; i < skips.size(); ++i) skips[i] -= static_cast<int64_t>(i);
  return skips;
}

/// What each map makes of a text of `tokens`.
struct Runs {
  std::span<const TextBlock> blocks;
  int32_t tokens;
  int64_t room;
  Rng* rng;

  std::vector<PlacedRun> operator()(const PlainPositions&) const { return {{tokens, 0}}; }

  std::vector<PlacedRun> operator()(const Pose& pose) const {
    std::vector<int32_t> lengths;
    for (const TextBlock& block : blocks) lengths.push_back(block.tokens);
    if (lengths.size() == 1) lengths = DrawChunks(pose.chunks, tokens, rng);
    const std::vector<int64_t> skips = DrawSkips(lengths.size(), room, rng);
    std::vector<PlacedRun> runs;
    for (size_t i = 0; i < lengths.size(); ++i) runs.push_back({lengths[i], skips[i]});
    return runs;
  }

  std::vector<PlacedRun> operator()(const SkipAlign& align) const {
    std::vector<size_t> points;  // blocks behind one
    for (size_t b = 1; b < blocks.size(); ++b) {
      const bool inner = blocks[b].trained;
      const bool may = align.points == SkipPoints::kAll || (align.points == SkipPoints::kInner) == inner;
      if (may && rng->Uniform() < align.p) points.push_back(b);
    }
    std::vector<int64_t> skips(points.size());
    for (int64_t& skip : skips) skip = static_cast<int64_t>(rng->Below(static_cast<uint64_t>(room) + 1));
    std::ranges::sort(skips);
    std::vector<PlacedRun> runs;
    size_t next = 0;  // of points
    for (size_t b = 0; b < blocks.size(); ++b) {
      const bool begins = next < points.size() && points[next] == b;
      if (begins) ++next;
      if (begins || runs.empty()) runs.push_back({0, next == 0 ? 0 : skips[next - 1]});
      runs.back().tokens += blocks[b].tokens;
    }
    return runs;
  }

  std::vector<PlacedRun> operator()(const RandPos&) const {
    std::vector<PlacedRun> runs;
    for (const int64_t skip : DrawEveryPlace(tokens, room, rng)) runs.push_back({1, skip});
    return runs;
  }
};

}  // namespace

PositionMap WithWindow(PositionMap map, int64_t window) {
  std::visit(
      [&](auto& value) {
        if constexpr (requires { value.window; }) value.window = window;
      },
      map);
  return map;
}

int64_t WindowOf(const PositionMap& map) {
  return std::visit(
      [](const auto& value) -> int64_t {
        if constexpr (requires { value.window; }) return value.window;
        return 0;
      },
      map);
}

PositionMap ParsePositionMap(std::string_view text) {
  return text.empty() ? PositionMap() : ParseForm<PositionMap>("positions", text);
}

std::string ToString(const PositionMap& map) { return IsPlain(map) ? std::string() : PrintForm(map); }

std::vector<int32_t> DrawChunks(int32_t chunks, int32_t tokens, Rng* rng) {
  const int32_t count = std::min(chunks, tokens);
  if (count == 2) {
    const auto first = static_cast<int32_t>(1 + rng->Below(static_cast<uint64_t>(tokens + 1) / 2));
    return {first, tokens - first};
  }
  std::set<int32_t> ends;  // of all but the last, in [1, tokens)
  for (int32_t last = tokens - count + 1; last < tokens; ++last) {
    const auto drawn = static_cast<int32_t>(1 + rng->Below(static_cast<uint64_t>(last)));
    if (!ends.insert(drawn).second) ends.insert(last);
  }
  ends.insert(tokens);
  std::vector<int32_t> lengths(ends.begin(), ends.end());
  std::adjacent_difference(lengths.begin(), lengths.end(), lengths.begin());
  return lengths;
}

std::vector<int64_t> DrawSkips(size_t count, int64_t room, Rng* rng) {
  std::vector<int64_t> skips(count);
  for (size_t i = 1; i < count; ++i) {
    skips[i] = skips[i - 1] + static_cast<int64_t>(rng->Below(static_cast<uint64_t>(room - skips[i - 1]) + 1));
  }
  return skips;
}

std::vector<PlacedRun> DrawRuns(const PositionMap& map, std::span<const TextBlock> blocks, int64_t room, Rng* rng) {
  HAWSER_CHECK(room >= 0 && !blocks.empty());
  const auto tokens = std::accumulate(blocks.begin(), blocks.end(), int32_t{0},
                                      [](int32_t sum, const TextBlock& block) { return sum + block.tokens; });
  return std::visit(Runs{blocks, tokens, room, rng}, map);
}

}  // namespace hawser
