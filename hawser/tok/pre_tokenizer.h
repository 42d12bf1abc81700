// tok/pre_tokenizer.h - the "pre_tokenizer" of a tokenizer.json: cuts text into the pieces that merges stay inside of.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "hawser/tok/text_place.h"

namespace hawser {

class PreTokenizer {
 public:
  /// Receives pieces in order, and where they stand: those after the first are inside.
  using Sink = std::function<void(std::string_view piece, TextPlace place)>;

  PreTokenizer() = default;
  /// Sequence, ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace and WhitespaceSplit; null: none.
  /// Errors: kFormat (too many or too deep steps too), kUnsupported naming the type or the pattern.
  explicit PreTokenizer(const nlohmann::json& json);

  void Apply(std::string_view text, TextPlace place, const Sink& sink) const { Run(0, text, place, sink); }

  /// True where pieces come out in the printable alphabet of byte_level.h, or are meant to.
  bool byte_level() const { return byte_level_; }
  /// True where that is the last step, and left to the caller: pieces are the text itself.
  bool leaves_bytes() const { return leaves_bytes_; }
  bool empty() const { return steps_.empty(); }

 private:
  using Step = std::function<void(std::string_view text, TextPlace place, const Sink& sink)>;
  void Add(const nlohmann::json& json, int depth);
  void Run(size_t step, std::string_view text, TextPlace place, const Sink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false, leaves_bytes_ = false;
};

}  // namespace hawser
