// What the files beside a tokenizer say: added tokens, BOS and EOS, and the rule for BOS.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

/// A SentencePiece model of the pieces <unk> <s> </s>, a blank, p, a, d (ids 0 to 6).
std::string SentencePieceFile() {
  std::string file;
  const auto piece = [&](std::string_view text, int type) {
    std::string message = "\x0a" + std::string(1, static_cast<char>(text.size())) + std::string(text);
    message += std::string("\x18") + static_cast<char>(type);
    file += "\x0a" + std::string(1, static_cast<char>(message.size())) + message;
  };
  piece("<unk>", 2);
  piece("<s>", 3);
  piece("</s>", 3);
  for (const char* text : {"\u2581", "p", "a", "d"}) piece(text, 1);
  const std::string trainer("\x18\x02", 2), normalizer("\x20\x00", 2);  // BPE; extra blanks stay
  return file + "\x12\x02" + trainer + "\x1a\x02" + normalizer;
}

class SideFiles : public testing::Test {
 protected:
  SideFiles() : folder_(FreshFolder("side_files")) {}
  void Write(const char* name, const json& value) { WriteBytes(folder_ / name, value.dump()); }
  std::unique_ptr<Tokenizer> Load() { return LoadTokenizer(folder_); }

  fs::path folder_;
};

TEST_F(SideFiles, TokensAboveASentencePieceModelEncodeDecodeAndEnd) {
  WriteBytes(folder_ / "tokenizer.model", SentencePieceFile());
  Write("added_tokens.json", {{"<|im_end|>", 8}, {"<tag>", 7}});
  Write("tokenizer_config.json",
        {{"eos_token", {{"content", "<|im_end|>"}}},
         {"added_tokens_decoder", {{"9", {{"content", "<late>"}, {"lstrip", true}, {"special", false}}}}}});
  const auto tokenizer = Load();
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 8);
  EXPECT_EQ(tokenizer->prefix(), Ids{1});
  EXPECT_EQ(tokenizer->Encode("pad<tag>a <late>"), (Ids{3, 4, 5, 6, 7, 5, 9}));
  EXPECT_EQ(tokenizer->Encode("a<|im_end|>", true), (Ids{3, 5, 8}));
  const Ids plain = tokenizer->Encode("a<|im_end|>");
  EXPECT_EQ(std::ranges::count(plain, 8), 0);
  EXPECT_EQ(tokenizer->Decode({3, 5, 7, 9, 8}), "a<tag><late>");

  const auto copy = FreshFolder("side_files_copy");
  tokenizer->Save(copy);
  const auto saved = LoadTokenizer(copy);
  EXPECT_EQ(saved->eos(), 8);
  EXPECT_EQ(saved->Encode("pad<tag>a <late>"), tokenizer->Encode("pad<tag>a <late>"));
}

TEST_F(SideFiles, TokensThatTokenizerJsonHasNot) {
  WriteBytes(folder_ / "tokenizer.json", ByteLevelTokenizerJson({" red"}));  // ids up to 260
  Write(
      "tokenizer_config.json",
      {{"added_tokens_decoder",
        {{"259", {{"content", "<|bos|>"}, {"special", true}}}, {"261", {{"content", "<|user|>"}, {"special", true}}}}},
       {"eos_token", "<|user|>"}});
  const auto tokenizer = Load();
  EXPECT_EQ(tokenizer->vocab_size(), 262);
  EXPECT_EQ(tokenizer->eos(), 261);
  EXPECT_EQ(tokenizer->Encode("<|user|>", true), Ids{261});
  EXPECT_EQ(tokenizer->Encode("<|user|>").size(), 8u);
}

TEST_F(SideFiles, ContradictionsAreNamed) {
  WriteBytes(folder_ / "tokenizer.model", SentencePieceFile());
  const auto fails = [&](const json& added, std::initializer_list<std::string_view> words) {
    Write("added_tokens.json", added);
    ExpectError(ErrorKind::kFormat, words, [&] { Load(); });
  };
  fails({{"<s>", 7}}, {"<s>", "7", "1"});
  fails({{"<x>", 7}, {"<y>", 7}}, {"<x>", "<y>"});
  fails({{"<x>", -1}}, {"<x>", "-1"});
  fails({{"<x>", 3}}, {"<x>", "3"});
  fails(json::parse(R"({"<x>": "7"})"), {"<x>"});
  fails({{"<x>", 2000000}}, {"<x>", "2000000"});
  // A model without a row for the token never makes it.
  Write("added_tokens.json", {{"<pad>", 7}});
  Write("config.json", {{"vocab_size", 7}});
  EXPECT_EQ(Load()->vocab_size(), 7);
}

TEST_F(SideFiles, TheRuleForBos) {
  json document = json::parse(ByteLevelTokenizerJson({" red"}));
  const auto prefix = [&](const json& processor, const json& config) {
    document["post_processor"] = processor;
    Write("tokenizer.json", document);
    Write("tokenizer_config.json", config);
    return Load()->prefix();
  };
  const json own = document["post_processor"];
  const json byte_level = {{"type", "ByteLevel"}};
  const json roberta = {{"type", "RobertaProcessing"}, {"cls", {"<|bos|>", 259}}, {"sep", {"<|eos|>", 260}}};
  const json config = json::object();
  EXPECT_EQ(prefix(own, config), Ids{259});
  EXPECT_EQ(prefix(nullptr, config), Ids{});
  EXPECT_EQ(prefix(byte_level, config), Ids{});
  EXPECT_EQ(prefix(roberta, config), Ids{259});
  EXPECT_EQ(prefix({{"type", "Sequence"}, {"processors", {byte_level, own}}}, config), Ids{259});
  EXPECT_EQ(prefix(own, {{"add_bos_token", false}}), Ids{});
  EXPECT_EQ(prefix(nullptr, {{"add_bos_token", true}}), Ids{259});
  json two = own;
  two["single"].insert(two["single"].begin(), json::parse(R"({"SpecialToken": {"id": "<|eos|>", "type_id": 0}})"));
  EXPECT_EQ(prefix(two, config), (Ids{260, 259}));
  two["single"][0]["SpecialToken"]["id"] = "<none>";
  ExpectError(ErrorKind::kFormat, {"post_processor"}, [&] { prefix(two, config); });

  prefix(nullptr, {{"bos_token", "<|bos|>"}});
  EXPECT_EQ(TextPrefix(*Load()), Ids{});
  EXPECT_EQ(TextPrefix(*Load(), BosRule::kOn), Ids{259});
  prefix(own, config);
  EXPECT_EQ(TextPrefix(*Load(), BosRule::kOff), Ids{});
  ExpectError(ErrorKind::kUsage, {"maybe", "auto"}, [] { ParseBosRule("maybe"); });
}

}  // namespace
}  // namespace hawser
