// Tokenizers written as GGUF vocabularies and read again: by the tokenizer.json inside, and by the keys alone as
// readers that know only those have it.
#include "hawser/tok/gguf_vocab.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/gguf_vocab_writer.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTexts[] = {"the red ball",
                                  " two  blanks and   three",
                                  "The year 1984, 12345678 times.\n\n\tIt's \"fine\"?",
                                  "caf\u00e9 \u4e2d\u6587 \U0001F600 \u0e44\u0e17\u0e22",
                                  "",
                                  "    indented\r\n      code(x[12], 'y');",
                                  "<s> is text </s>"};

std::unique_ptr<BpeTokenizer> ReadAgain(const std::vector<GgufField>& fields) {
  const fs::path path = FreshFolder("gguf_vocab") / "x.gguf";
  WriteGguf(path, fields, {});
  return GgufTokenizer(ReadGguf(path));
}

/// What readers of the keys see, without the tokenizer.json that lies beside them.
std::vector<GgufField> KeysAlone(std::vector<GgufField> fields) {
  std::erase_if(fields, [](const GgufField& field) { return field.key == "tokenizer.huggingface.json"; });
  return fields;
}

void ExpectSame(const BpeTokenizer& a, const Tokenizer& b) {
  for (const char* text : kTexts) {
    EXPECT_EQ(a.Encode(text), b.Encode(text)) << text;
    EXPECT_EQ(a.Encode(text, true), b.Encode(text, true)) << text;
  }
  EXPECT_EQ(a.bos(), b.bos());
  EXPECT_EQ(a.eos(), b.eos());
  EXPECT_EQ(a.prefix(), b.prefix());
  EXPECT_EQ(a.chat_template(), b.chat_template());
  EXPECT_EQ(a.adds_dummy_prefix(), b.adds_dummy_prefix());
}

/// Hugging Face's tokenizers give an added token the id that the model has for its text, else the next one behind the
/// model and the added tokens before it, whatever "id" says.
void ExpectReadersGiveItsIds(const json& document) {
  const json& vocab = document["model"]["vocab"];
  auto next = static_cast<int64_t>(vocab.size());
  for (const json& token : document["added_tokens"]) {
    const auto text = token["content"].get<std::string>();
    EXPECT_EQ(token["id"].get<int64_t>(), vocab.contains(text) ? vocab[text].get<int64_t>() : next++) << text;
  }
}

TEST(GgufVocab, SaysWhatReadersDoNotKnow) {
  json document = json::parse(ByteLevelTokenizerJson({" red"}));
  document["added_tokens"] = {{{"id", 1000}, {"content", "<x>"}, {"rstrip", true}}, {{"id", 1001}, {"content", "<y>"}}};
  document["normalizer"] = {{"type", "NFC"}};
  const BpeTokenizer tokenizer(document.dump());
  const GgufVocab vocab = MakeGgufVocab(tokenizer, tokenizer.vocab_size(), {});
  const std::string unsaid = fmt::format("{}", fmt::join(vocab.unsaid, "; "));
  for (const char* part : {"the bounds of <x>", "the normalizer NFC"}) {
    EXPECT_NE(unsaid.find(part), std::string::npos) << unsaid;
  }
  const json unigram = {
      {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", json::array({json::array({"a", 0})})}}}};
  const BpeTokenizer other(unigram.dump());
  ExpectError(ErrorKind::kUnsupported, {"Unigram"}, [&] { MakeGgufVocab(other, 1, {}); });
}

void ExpectRoundTrips(const BpeTokenizer& tokenizer) {
  const GgufVocab vocab = MakeGgufVocab(tokenizer, tokenizer.vocab_size() + 3, {tokenizer.eos()});
  EXPECT_TRUE(vocab.unsaid.empty()) << vocab.unsaid.front();
  const auto whole = ReadAgain(vocab.fields);
  EXPECT_EQ(whole->JsonText(), tokenizer.JsonText());
  EXPECT_EQ(whole->vocab_size(), tokenizer.vocab_size());
  ExpectSame(*whole, tokenizer);
  const auto keys = ReadAgain(KeysAlone(vocab.fields));
  ExpectSame(*keys, tokenizer);
  ExpectReadersGiveItsIds(ParseJson(keys->JsonText()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(keys->Display(id), tokenizer.Display(id).empty() ? fmt::format("[PAD{}]", id) : tokenizer.Display(id));
    if (tokenizer.Display(id).empty()) continue;
    ASSERT_EQ(keys->Piece(id), tokenizer.Piece(id)) << id;
  }
}

json ByteLevelDocument() { return ParseJson(ByteLevelTokenizerJson({"the", " red", " ball", "12", "345"})); }

BpeTokenizer FromDocument(const json& document) {
  BpeTokenizer tokenizer(document.dump());
  tokenizer.set_bos(tokenizer.IdOf("<|bos|>"));
  tokenizer.set_eos(tokenizer.IdOf("<|eos|>"));
  tokenizer.set_chat_template("{{ bos_token }}");
  return tokenizer;
}

ScoredVocab SmallScored(bool prefix) {
  ScoredVocab vocab{.kind = "test"};
  vocab.pieces = {{"<unk>", 0, PieceType::kUnknown}, {"<s>", 0, PieceType::kControl}, {"</s>", 0, PieceType::kControl}};
  for (int byte = 0; byte < 256; ++byte) vocab.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, PieceType::kByte});
  for (const char* text :
       {"he", "re", "\u2581t", "\u2581the", "\u2581re", "ed", "al", "all", "\u2581b", "\u2581ball"}) {
    vocab.pieces.push_back({text, -static_cast<float>(vocab.pieces.size()), PieceType::kNormal});
  }
  for (const char* text : {"t", "h", "e", "r", "d", "b", "a", "l", "\u2581"}) {
    vocab.pieces.push_back({text, -static_cast<float>(vocab.pieces.size()), PieceType::kNormal});
  }
  vocab.pieces.push_back({"  ", 0, PieceType::kUserDefined});
  vocab.add_dummy_prefix = prefix;
  return vocab;
}

TEST(GgufVocab, ByteLevelRoundTrips) { ExpectRoundTrips(FromDocument(ByteLevelDocument())); }

TEST(GgufVocab, EveryRuleIsWrittenUnderItsName) {
  const json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const auto sequence = [](std::vector<json> parts) { return json{{"type", "Sequence"}, {"pretokenizers", parts}}; };
  const auto split = [](const char* regex) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  };
  const char* llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const char* qwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  struct Case {
    json pre;
    bool nfc, whole_words;
    std::string name;
  };
  const std::vector<Case> cases = {{gpt2, false, false, "gpt-2"},
                                   {gpt2, true, false, "mpt"},
                                   {sequence({split(llama3), bytes}), false, true, "llama-bpe"},
                                   {sequence({split(llama3), bytes}), false, false, "dbrx"},
                                   {sequence({split(qwen2), bytes}), true, false, "qwen2"},
                                   {sequence({split(qwen2), bytes}), false, false, "qwen2"},
                                   {sequence({digits, gpt2}), false, false, "smollm"},
                                   {sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                                              gpt2,
                                              {{"type", "Digits"}, {"individual_digits", false}},
                                              split("[0-9][0-9][0-9]")}),
                                    false, false, "falcon"},
                                   {sequence({split(R"( ?[^(\s|.,!?…。，、।۔،)]+)"), bytes}), false, false, "bloom"}};
  for (const Case& c : cases) {
    json document = ByteLevelDocument();
    document["pre_tokenizer"] = c.pre;
    if (c.nfc) document["normalizer"] = {{"type", "NFC"}};
    document["model"]["ignore_merges"] = c.whole_words;
    const BpeTokenizer tokenizer = FromDocument(document);
    const GgufVocab vocab = MakeGgufVocab(tokenizer, tokenizer.vocab_size(), {});
    EXPECT_EQ(std::get<std::string>(vocab.fields[1].value), c.name);
    const auto keys = ReadAgain(KeysAlone(vocab.fields));
    for (const char* text : kTexts) EXPECT_EQ(keys->Encode(text), tokenizer.Encode(text)) << c.name << ": " << text;
  }
}

TEST(GgufVocab, ScoredRoundTrips) {
  for (const bool prefix : {true, false}) ExpectRoundTrips(*MakeScoredTokenizer(SmallScored(prefix)));
}

TEST(GgufVocab, RefusesWhatReadersWouldDoOtherwise) {
  const auto refuse = [](std::initializer_list<std::string_view> words, auto change) {
    json document = ByteLevelDocument();
    change(document);
    ExpectError(ErrorKind::kUnsupported, words, [&] { MakeGgufVocab(FromDocument(document), 1000, {}); });
  };
  refuse({"normalizer", "Lowercase"}, [](json& d) { d["normalizer"] = {{"type", "Lowercase"}}; });
  refuse({"ByteLevel"}, [](json& d) { d["pre_tokenizer"]["add_prefix_space"] = true; });
  refuse({"WhitespaceSplit"}, [](json& d) {
    d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, d["pre_tokenizer"]}}};
  });
  refuse({"cuts text", "whole words"}, [](json& d) { d["model"]["ignore_merges"] = true; });
  ExpectError(ErrorKind::kUsage, {"ids", "only 5"}, [&] { MakeGgufVocab(FromDocument(ByteLevelDocument()), 5, {}); });
  // Merges that no scores give: "th" + "e" is none, though all three are pieces.
  json scored = ParseJson(MakeScoredTokenizer(SmallScored(true))->JsonText());
  scored["model"]["hawser"].erase("ties");
  json& merges = scored["model"]["merges"];
  for (size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].dump().find("\u2581ball") != std::string::npos || merges[i].dump().find("all") != std::string::npos) {
      merges.erase(i--);
    }
  }
  const BpeTokenizer odd(scored.dump());
  ExpectError(ErrorKind::kUnsupported, {"scores", "join"}, [&] { MakeGgufVocab(odd, 1000, {}); });
}

TEST(GgufVocab, AStoredJsonOfOtherTokensIsRefused) {
  const BpeTokenizer tokenizer = FromDocument(ByteLevelDocument());
  GgufVocab vocab = MakeGgufVocab(tokenizer, tokenizer.vocab_size(), {});
  for (GgufField& field : vocab.fields) {
    if (field.key == "tokenizer.ggml.tokens") std::get<std::vector<std::string>>(field.value)[7] = "other";
  }
  ExpectError(ErrorKind::kFormat, {"huggingface.json", "token 7", "other"}, [&] { ReadAgain(vocab.fields); });
}

TEST(GgufVocab, RealTokenizersRoundTrip) {
  HAWSER_NEEDS_DATA("tokenizers/gpt2.tokenizer.json", "tokenizers/llama2.tokenizer.model");
  const fs::path folder = TestData() / "tokenizers";
  for (const char* name : {"gpt2.tokenizer.json", "llama2.tokenizer.model"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = LoadTokenizer(folder / name);
    const auto& bpe = dynamic_cast<const BpeTokenizer&>(*tokenizer);
    const GgufVocab vocab = MakeGgufVocab(bpe, bpe.vocab_size(), {bpe.eos()});
    ExpectSame(*ReadAgain(KeysAlone(vocab.fields)), bpe);
  }
}

}  // namespace
}  // namespace hawser
