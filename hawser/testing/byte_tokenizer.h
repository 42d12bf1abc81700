// testing/byte_tokenizer.h - the least tokenizer: a byte is its own id.
#pragma once

#include "hawser/base/error.h"
#include "hawser/tok/tokenizer.h"

namespace hawser::testing {

/// Ids [0, vocab): bytes first. Cannot encode "bad".
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(int32_t vocab = 256) : vocab_(vocab) {}
  std::string Kind() const override { return "bytes"; }
  int32_t vocab_size() const override { return vocab_; }
  std::vector<int32_t> Encode(std::string_view text, bool, bool) const override {
    if (text == "bad") Fail(ErrorKind::kFormat, "cannot encode");
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string Piece(int32_t id) const override { return {static_cast<char>(id)}; }
  std::string Display(int32_t id) const override { return Piece(id); }
  void Save(const std::filesystem::path&) const override {}

 private:
  int32_t vocab_;
};

}  // namespace hawser::testing
