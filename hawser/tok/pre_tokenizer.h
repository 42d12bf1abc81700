// tok/pre_tokenizer.h - the "pre_tokenizer" of a tokenizer.json: cuts text into the pieces that merges stay inside of.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

namespace hawser {

class PreTokenizer {
 public:
  /// Receives pieces in order. `at_start`: the piece begins where the whole text does.
  using Sink = std::function<void(std::string_view piece, bool at_start)>;

  PreTokenizer() = default;
  /// Sequence, ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace and WhitespaceSplit; null: none.
  /// Errors: kFormat, kUnsupported naming the type or the pattern.
  explicit PreTokenizer(const nlohmann::json& json);

  void Apply(std::string_view text, bool at_start, const Sink& sink) const { Run(0, text, at_start, sink); }

  /// True where pieces come out in the printable alphabet of byte_level.h.
  bool byte_level() const { return byte_level_; }
  bool empty() const { return steps_.empty(); }

 private:
  using Step = std::function<void(std::string_view text, bool at_start, const Sink& sink)>;
  void Add(const nlohmann::json& json, int depth);
  void Run(size_t step, std::string_view text, bool at_start, const Sink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace hawser
