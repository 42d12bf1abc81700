// Made vocabularies, read as the libraries tokenizers and sentencepiece read them, before and after saving.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/testing/hostile.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr std::string_view kCases[] = {
#include "hawser/tok/golden_vectors.inc"
};

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::unique_ptr<BpeTokenizer> Load(const json& golden) {
  if (golden.contains("json")) return std::make_unique<BpeTokenizer>(golden["json"].dump());
  return MakeScoredTokenizer(ParseSentencePiece(FromHex(golden["sentencepiece"])));
}

TEST(Golden, IdsAreThoseOfTheReferences) {
  const auto folder = FreshFolder("tokenizer_golden");
  for (const std::string_view text : kCases) {
    const json golden = json::parse(text);
    const auto tokenizer = Load(golden);
    tokenizer->Save(folder);
    const auto saved = LoadTokenizer(folder);
    int checked = 0;
    for (const json& one : golden["texts"]) {
      const auto input = one["text"].get<std::string>();
      const auto ids = one["ids"].get<std::vector<int32_t>>();
      const bool parse_special = one["parse_special"].get<bool>();
      EXPECT_EQ(tokenizer->Encode(input, parse_special), ids) << golden["name"] << ": \"" << input << "\"";
      EXPECT_EQ(saved->Encode(input, parse_special), ids) << golden["name"] << " saved: \"" << input << "\"";
      ++checked;
    }
    EXPECT_GE(checked, 8) << golden["name"];
  }
}

}  // namespace
}  // namespace hawser
