// pos/position_map.h - positions of training that skip, so that short sequences show a model the distances of long
// ones: tokens keep their order, and where a run of them begins, positions jump. As a value, with a text form.
//
// With a reach of L positions and a text of T tokens whose first stands at p, R = L - p - T is left to skip.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hawser/base/form.h"
#include "hawser/base/rng.h"

namespace hawser {

inline constexpr FieldDoc kWindowDoc{.key = "window",
                                     .help = "tokens of a sequence; 0: the context of the model that is extended",
                                     .least = 0,
                                     .most = 1 << 30};

struct PlainPositions {
  static constexpr std::string_view kName = "none", kHelp = "every token stands where it lies";
  template <class Visitor>
  void Fields(Visitor&&) {}
  bool operator==(const PlainPositions&) const = default;
};

/// Chunk i of a text stands u_i later, u_0 = 0, u_i uniform in [u_{i-1}, R] (arXiv:2309.10400).
struct Pose {
  static constexpr std::string_view kName = "pose",
                                    kHelp = "PoSE: a text in chunks, each a random distance behind the one before";
  int64_t window = 0;
  int32_t chunks = 2;            // of a text, as far as it has tokens
  bool skip_text = false;        // text is left out between chunks too
  bool mask_seam_label = false;  // the first token of a later chunk is not trained on

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(window, kWindowDoc);
    v(chunks, {"chunks", "into which a text is cut", 1, 1 << 30});
    v(skip_text, {.key = "text",
                  .help = "next: a chunk goes on where the one before ended; skip: further on",
                  .no = "next",
                  .yes = "skip"});
    v(mask_seam_label, {"mask_seam_label", "on: the first token of a later chunk is not trained on"});
  }
  bool operator==(const Pose&) const = default;
};

/// Blocks are the runs of tokens that are trained on (completions) and that are not (prompts). Of the points between
/// them that may skip each does with probability p; g of them are g uniform draws from [0, R], sorted
/// (arXiv:2405.03939, whose own distribution is not public: this is the engine's definition).
enum class SkipPoints : uint8_t { kInner, kOuter, kAll };
template <>
struct EnumNames<SkipPoints> {
  static constexpr std::array<std::string_view, 3> kNames = {"inner", "outer", "all"};
};
struct SkipAlign {
  static constexpr std::string_view kName = "skipalign",
                                    kHelp = "SkipAlign: random distances between prompts and completions";
  int64_t window = 0;
  SkipPoints points = SkipPoints::kAll;
  double p = 1;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(window, kWindowDoc);
    v(points, {"points", "before completions, before prompts, or both"});
    v(p, {"p", "probability to skip there", 0, 1});
  }
  bool operator==(const SkipAlign&) const = default;
};

/// Every token is a chunk: T sorted positions of L - p, drawn without replacement.
struct RandPos {
  static constexpr std::string_view kName = "randpos", kHelp = "a random distance between any two tokens, a baseline";
  int64_t window = 0;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(window, kWindowDoc);
  }
  bool operator==(const RandPos&) const = default;
};

using PositionMap = std::variant<PlainPositions, Pose, SkipAlign, RandPos>;

inline bool IsPlain(const PositionMap& map) { return std::holds_alternative<PlainPositions>(map); }
/// The map with this window; and the window, 0 where it is left open or there is none.
PositionMap WithWindow(PositionMap map, int64_t window);
int64_t WindowOf(const PositionMap& map);

/// Errors: ParseForm. An empty text is none.
PositionMap ParsePositionMap(std::string_view text);
/// Parses back; empty for none.
std::string ToString(const PositionMap& map);

/// Lengths of the chunks of a text: as many as `chunks`, or as tokens if these are fewer, none empty. Of two the first
/// has 1 to ceil(tokens / 2) tokens, as in the authors' code; of more every way to cut is equally likely.
std::vector<int32_t> DrawChunks(int32_t chunks, int32_t tokens, Rng* rng);
/// [count] of chunks: 0, then each uniform from the one before to `room`.
std::vector<int64_t> DrawSkips(size_t count, int64_t room, Rng* rng);

/// Tokens in a row that stand one behind the other.
struct PlacedRun {
  int32_t tokens = 0;
  int64_t skip = 0;  // all of them stand so much later than without a map
};
/// A run of tokens of a text that are trained on or not.
struct TextBlock {
  int32_t tokens = 0;
  bool trained = true;
};
/// The runs of a text, in order; skips never fall and lie in [0, room]. `blocks` are what the map cuts at: for Pose the
/// chunks of the text, or one block that is cut here; for SkipAlign the runs by `trained`; for RandPos any.
std::vector<PlacedRun> DrawRuns(const PositionMap& map, std::span<const TextBlock> blocks, int64_t room, Rng* rng);

}  // namespace hawser
