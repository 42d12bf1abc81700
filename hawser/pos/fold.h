// pos/fold.h - STRING: distances that training has seen seldom are read as shorter ones, without training.
//   a distance d >= shift counts as d - shift + window; shorter ones as they are
// Keys are rotated once, to their own positions: only the query of the far keys stands elsewhere, shift - window
// nearer to them. Source: STRING arXiv:2410.18745, with its released code's temperature.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace hawser {

struct RopeFold {
  static constexpr std::string_view kName = "string";
  static constexpr std::string_view kHelp =
      "behind any scheme but dynamic, or alone: STRING, distances from the shift on count as shorter ones";

  int64_t shift = 0;  // tokens; 0: nothing is folded
  int64_t window = 128;
  double temperature = 1.0693147180559945;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(shift, {"shift",
              "tokens from which on a distance d counts as d - shift + window; without it a third of the context, or "
              "more where only that reaches --context",
              0, 0x1p40});
    v(window, {"window", "what a distance of the shift counts as, the shift at most", 0, 0x1p40});
    v(temperature,
      {"temperature", "cos and sin are multiplied by it: 0.1 ln 2 + 1 in the released code, 1 for none", 1e-3, 1e3});
  }

  bool active() const { return shift > 0; }
  /// How many tokens further a model sees than the distances it knows.
  int64_t gain() const { return active() ? shift - window : 0; }
  /// Where the query of the far keys stands; 0 for positions that have none.
  int64_t FarPosition(int64_t position) const { return position > gain() ? position - gain() : 0; }
  /// What distance >= 0 counts as.
  int64_t Distance(int64_t distance) const { return distance < shift ? distance : distance - gain(); }

  bool operator==(const RopeFold&) const = default;
};

/// A rope text in two: the scheme, and what begins with `string` behind it and a comma, or alone.
struct FoldText {
  std::string_view scheme;
  std::optional<std::string_view> fold;
};
FoldText SplitFoldText(std::string_view text);

/// `string`, `string:shift=2730,window=128,temperature=1`. A window that is not given is the shift where that is less.
/// `shift` is left at -1 where it is not given, for CompleteFold; 0 says that nothing is folded. Errors: kUsage.
RopeFold ParseFold(std::string_view text);

/// `reach`: tokens whose distances the model knows (0: not known). A shift that was not given is a third of them, or
/// more where only that reaches `wanted` tokens. Errors: kUsage (a shift of `reach` or more), naming `text`.
RopeFold CompleteFold(std::string_view text, const RopeFold& fold, int64_t reach, int64_t wanted);

/// window <= shift, temperature from 1e-3 to 1e3. Errors: kUsage naming the key.
void Validate(const RopeFold& fold);

/// `string:shift=2730`; parses back.
std::string ToString(const RopeFold& fold);

/// For people.
std::string FoldHelp();

}  // namespace hawser
