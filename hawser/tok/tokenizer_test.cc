// Loading, decoding, saving and separators; with data, the vectors of the reference implementations.
#include "hawser/tok/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

json Added(int id, const std::string& content, json extra = json::object()) {
  json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", false}};
  token.update(extra);
  return token;
}

/// " red" and " the" as words, runs of blanks and some markers as added tokens, NFC.
json SmallDocument() {
  json document = json::parse(ByteLevelTokenizerJson({" red", " the", "red"}));
  document["normalizer"] = {{"type", "NFC"}};
  document["added_tokens"].push_back(Added(1000, "  ", {{"normalized", true}}));
  document["added_tokens"].push_back(Added(1001, "    ", {{"normalized", true}}));
  document["added_tokens"].push_back(Added(1002, "<x>", {{"lstrip", true}, {"rstrip", true}}));
  document["added_tokens"].push_back(Added(1003, "w\u00e9", {{"single_word", true}, {"normalized", true}}));
  return document;
}

TEST(BpeTokenizer, AddedTokensAreTakenOutFirst) {
  const BpeTokenizer tokenizer(SmallDocument().dump());
  EXPECT_EQ(tokenizer.vocab_size(), 1004);
  const int32_t red = tokenizer.IdOf("\u0120red");
  const int32_t the = tokenizer.IdOf("\u0120the");
  EXPECT_EQ(tokenizer.Encode(" red the"), (Ids{red, the}));
  EXPECT_EQ(tokenizer.Encode("       red"), (Ids{1001, 1000, red}));
  EXPECT_EQ(tokenizer.Encode(" red  <x>\t the"), (Ids{red, 1002, 't', 'h', 'e'}));
  const Ids alone = tokenizer.Encode("we\u0301 !");  // NFC makes it the token
  const Ids inside = tokenizer.Encode("we\u0301x");
  EXPECT_EQ(std::count(alone.begin(), alone.end(), 1003), 1);
  EXPECT_EQ(std::count(inside.begin(), inside.end(), 1003), 0);
  for (const char* word : {"\u200dw\u00e9", "\u24b6w\u00e9", "w\u00e9\u0300"}) {
    const Ids joined = tokenizer.Encode(word);
    EXPECT_EQ(std::count(joined.begin(), joined.end(), 1003), 0) << word;
  }
  EXPECT_EQ(tokenizer.Decode({red, 1001, 1003}), " red    w\u00e9");
  EXPECT_EQ(tokenizer.Display(red), "\u0120red");
}

// Written as they stand in normalized text, as the reference does.
TEST(BpeTokenizer, AddedTokensAreDecodedAsTheyWereNormalized) {
  json document = SmallDocument();
  document["normalizer"] = {{"type", "Lowercase"}};
  document["added_tokens"] = {Added(1000, "Foo", {{"normalized", true}}), Added(1001, "Bar")};
  const BpeTokenizer tokenizer(document.dump());
  EXPECT_EQ(tokenizer.Encode("FOOBar"), (Ids{1000, 1001}));
  EXPECT_EQ(tokenizer.Decode({1000, 1001}), "fooBar");
}

TEST(BpeTokenizer, MergesMayBePairsAndWordsMayIgnoreThem) {
  json document = SmallDocument();
  for (json& merge : document["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
  }
  const BpeTokenizer pairs(document.dump());
  const BpeTokenizer strings(SmallDocument().dump());
  EXPECT_EQ(pairs.Encode(" red the red!"), strings.Encode(" red the red!"));

  document["model"]["vocab"]["\u0120xy"] = 2000;
  EXPECT_EQ(BpeTokenizer(document.dump()).Encode(" xy"), (Ids{' ', 'x', 'y'}));
  document["model"]["ignore_merges"] = true;
  EXPECT_EQ(BpeTokenizer(document.dump()).Encode(" xy"), Ids{2000});
}

TEST(BpeTokenizer, UnknownCharacters) {
  const auto encode = [](bool fuse, bool bytes, const std::string& text) {
    json vocab = {{"<unk>", 0}, {"a", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}};
    const json document = {{"model",
                            {{"type", "BPE"},
                             {"vocab", vocab},
                             {"merges", json::array()},
                             {"unk_token", "<unk>"},
                             {"fuse_unk", fuse},
                             {"byte_fallback", bytes}}}};
    return BpeTokenizer(document.dump()).Encode(text);
  };
  EXPECT_EQ(encode(false, false, "axxa"), (Ids{1, 0, 0, 1}));
  EXPECT_EQ(encode(true, false, "axxa"), (Ids{1, 0, 1}));
  EXPECT_EQ(encode(true, true, "a\u00e9x"), (Ids{1, 2, 3, 0}));
  EXPECT_EQ(encode(true, true, "\u00e8"), Ids{0});  // one of its bytes is missing
}

TEST(BpeTokenizer, RefusesWhatItCannotDo) {
  const auto load = [](const std::string& path, const json& value) {
    json document = SmallDocument();
    document[json::json_pointer(path)] = value;
    BpeTokenizer tokenizer(document.dump());
  };
  ExpectError(ErrorKind::kUnsupported, {"WordPiece"}, [&] { load("/model/type", "WordPiece"); });
  ExpectError(ErrorKind::kUnsupported, {"end_of_word_suffix"}, [&] { load("/model/end_of_word_suffix", "</w>"); });
  ExpectError(ErrorKind::kUnsupported, {"CTC"}, [&] { load("/decoder", {{"type", "CTC"}}); });
  ExpectError(ErrorKind::kFormat, {"merges", "not in the vocabulary"}, [&] { load("/model/merges/0", "q z"); });
  ExpectError(ErrorKind::kFormat, {"merges"}, [&] { load("/model/merges/0", "q"); });
  ExpectError(ErrorKind::kFormat, {"out of range"}, [&] { load("/model/vocab/a", -5); });
  ExpectError(ErrorKind::kFormat, {"out of range"}, [&] { load("/added_tokens/2/id", 1LL << 40); });
  ExpectError(ErrorKind::kFormat, {"model.vocab"}, [&] { load("/model/vocab", "text"); });
  ExpectError(ErrorKind::kFormat, {"model"}, [] { BpeTokenizer("{}"); });
}

/// Pieces p, a, d, "pad" made by merges, and what else is wanted.
json Letters(json vocab, const json& added) {
  vocab.update({{"p", 0}, {"a", 1}, {"d", 2}});
  return {{"added_tokens", added}, {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
}

TEST(BpeTokenizer, NamesOfSpecialTokensAreOrdinaryText) {
  for (const bool of_model : {false, true}) {
    for (const bool whole : {false, true}) {
      json document = Letters(of_model ? json{{"pad", 3}, {"x", 4}} : json::object(),
                              json::array({Added(3, "pad", {{"special", true}}), Added(4, "x", {{"special", true}})}));
      document["model"]["ignore_merges"] = whole;
      const BpeTokenizer tokenizer(document.dump());
      EXPECT_EQ(tokenizer.Encode("pad"), (Ids{0, 1, 2}));
      EXPECT_EQ(tokenizer.Encode("axd"), (Ids{1, 2}));  // no piece and no byte for x
      EXPECT_EQ(tokenizer.Encode("axpad", true), (Ids{1, 4, 3}));
      EXPECT_EQ(tokenizer.Decode({0, 3, 1}), "pa");
    }
  }
  json document = Letters({{"pa", 3}, {"pad", 4}}, json::array({Added(4, "pad", {{"special", true}})}));
  document["model"]["merges"] = {"p a", "pa d"};
  EXPECT_EQ(BpeTokenizer(document.dump()).Encode("pad"), (Ids{3, 2}));
}

TEST(BpeTokenizer, TextThatGoesOnHasNoBlankInFront) {
  json document = Letters({{"_", 3}}, json::array({Added(4, "<x>")}));
  const auto encode = [&](std::string_view text, bool goes_on) {
    return BpeTokenizer(document.dump()).Encode(text, false, goes_on);
  };
  document["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}};
  EXPECT_EQ(encode("p<x>a", false), (Ids{3, 0, 4, 3, 1}));
  EXPECT_EQ(encode("p<x>a", true), (Ids{0, 4, 3, 1}));
  document["normalizer"] = nullptr;
  for (const char* scheme : {"first", "always"}) {
    document["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", scheme}};
    EXPECT_EQ(encode("p", false), (Ids{3, 0})) << scheme;
    EXPECT_EQ(encode("p", true), Ids{0}) << scheme;
    EXPECT_EQ(encode(" p", true), (Ids{3, 0})) << scheme;
  }
  document = json::parse(ByteLevelTokenizerJson({" red"}));
  document["pre_tokenizer"]["add_prefix_space"] = true;
  const BpeTokenizer bytes(document.dump());
  EXPECT_EQ(encode("red", false), bytes.Encode(" red", false, true));
  EXPECT_EQ(encode("red", true), (Ids{'r', 'e', 'd'}));
}

TEST(BpeTokenizer, WorkAndMemoryFollowTheFile) {
  // Replacements that grow.
  json document = Letters({}, json::array());
  const json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100, 'a')}};
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array({grow, grow, grow, grow, grow})}};
  const BpeTokenizer growing(document.dump());
  ExpectError(ErrorKind::kUnsupported, {"replacements", "bytes"}, [&] { growing.Encode("aaa"); });
  document["decoder"] = {{"type", "Sequence"}, {"decoders", json::array({grow, grow, grow, grow, grow})}};
  ExpectError(ErrorKind::kUnsupported, {"replacements", "bytes"}, [&] { BpeTokenizer{document.dump()}; });
  document = Letters({}, json::array());
  // Nothing to find.
  for (const char* mark : {"", "__"}) {
    document["decoder"] = {{"type", "Metaspace"}, {"replacement", mark}};
    ExpectError(ErrorKind::kFormat, {"Metaspace", "one character"}, [&] { BpeTokenizer{document.dump()}; });
    document["decoder"] = nullptr;
    document["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", mark}};
    ExpectError(ErrorKind::kFormat, {"Metaspace", "one character"}, [&] { BpeTokenizer{document.dump()}; });
    document["pre_tokenizer"] = nullptr;
  }
  // Steps without end, ids without names, patterns without end.
  document["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  for (int i = 0; i < 30000; ++i) document["pre_tokenizer"]["pretokenizers"].push_back({{"type", "WhitespaceSplit"}});
  ExpectError(ErrorKind::kFormat, {"pre_tokenizer", "deeper"}, [&] { BpeTokenizer{document.dump()}; });
  document = Letters({{"far", 4000000}}, json::array());
  ExpectError(ErrorKind::kFormat, {"far", "4000000"}, [&] { BpeTokenizer{document.dump()}; });
  document = Letters({}, json::array());
  document["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+$"}}}, {"behavior", "Isolated"}};
  const BpeTokenizer slow(document.dump());
  ExpectError(ErrorKind::kUnsupported, {"(a|aa)+$", "limit"}, [&] { slow.Encode(std::string(60, 'a') + "p"); });
}

TEST(BpeTokenizer, AHundredThousandAddedTokens) {
  json added = json::array();
  for (int i = 0; i < 100000; ++i) added.push_back(Added(10 + i, "pp" + std::to_string(i)));
  const BpeTokenizer tokenizer(Letters({}, added).dump());
  EXPECT_EQ(tokenizer.Encode("pp99999pp9999ppp123pp1"), (Ids{100009, 10009, 0, 133, 11}));
}

TEST(BpeTokenizer, HostileFilesEndWell) {
  json document = SmallDocument();
  const std::string text = document.dump();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(EndsWell([&] { BpeTokenizer tokenizer(text.substr(0, size)); })) << size;
  }
  Rng rng{.seed = 21};
  for (int i = 0; i < 1500; ++i) {
    std::string flipped = text;
    for (uint64_t n = 1 + rng.Below(4); n > 0; --n)
      flipped[rng.Below(text.size())] ^= static_cast<char>(1 << rng.Below(7));
    EndsWell([&] {
      const BpeTokenizer tokenizer(flipped);
      tokenizer.Decode(tokenizer.Encode("the red\u00e9  <x> we\u0301 <|bos|>\xff", true));
    });
  }
  for (const double number : {1e300, 1.5}) {
    json changed = document;
    changed["model"]["vocab"].begin().value() = number;
    ExpectError(ErrorKind::kFormat, {"the number of"}, [&] { BpeTokenizer tokenizer(changed.dump()); });
    changed = document;
    changed["post_processor"] = {{"type", "TemplateProcessing"},
                                 {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}}},
                                 {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {number}}}}}}};
    ExpectError(ErrorKind::kFormat, {"post_processor", "no id"}, [&] { BpeTokenizer tokenizer(changed.dump()); });
  }
  // Every value replaced by one of another type.
  const json flat = document.flatten();
  int tried = 0;
  for (const auto& [path, value] : flat.items()) {
    if (path.starts_with("/model/vocab/") && ++tried > 20) continue;
    for (const json& other : {json(), json(-1), json("x"), json::array({1}), json::object({{"type", 3}}), json(true)}) {
      json changed = document;
      changed[json::json_pointer(path)] = other;
      EndsWell([&] { BpeTokenizer(changed.dump()).Encode("the red"); });
    }
  }
}

TEST(Tokenizer, AnyBytesComeBackFromByteLevel) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson({" red", " the", "\u00e9t"}));
  Rng rng{.seed = 22};
  for (int i = 0; i < 300; ++i) {
    std::string bytes;
    for (uint64_t n = rng.Below(60); n > 0; --n) {
      const std::string any(1, static_cast<char>(rng.Bits()));
      bytes += std::vector<std::string>{" the", "\u00e9", "\U0010ff90", any, any}[rng.Below(5)];
    }
    ASSERT_EQ(tokenizer.Decode(tokenizer.Encode(bytes)), bytes);
  }
}

TEST(Tokenizer, FoldersNameTheirSpecialTokens) {
  const auto folder = FreshFolder("tokenizer_folder");
  WriteBytes(folder / "tokenizer.json", ByteLevelTokenizerJson({" red"}));
  const auto specials = [&] {
    const auto tokenizer = LoadTokenizer(folder);
    return std::pair(tokenizer->bos(), tokenizer->eos());
  };
  EXPECT_EQ(specials(), std::pair(259, 260));  // by name
  WriteBytes(folder / "config.json", R"({"bos_token_id": 3, "eos_token_id": [4, 5]})");
  EXPECT_EQ(specials(), std::pair(3, 4));
  WriteBytes(folder / "generation_config.json", R"({"bos_token_id": 6, "eos_token_id": 99999})");
  EXPECT_EQ(specials(), std::pair(6, 4));
  WriteBytes(folder / "special_tokens_map.json", R"({"bos_token": {"content": "a"}, "eos_token": "b"})");
  EXPECT_EQ(specials(), std::pair(97, 98));  // a, b
  WriteBytes(folder / "tokenizer_config.json", R"({"bos_token": null, "eos_token": "c", "chat_template": "T"})");
  EXPECT_EQ(specials(), std::pair(97, 99));  // a, c

  const auto copy = FreshFolder("tokenizer_copy");
  const auto tokenizer = LoadTokenizer(folder / "tokenizer.json");
  tokenizer->set_bos('z');
  tokenizer->Save(copy);
  EXPECT_EQ(ReadFile(copy / "tokenizer.json"), ReadFile(folder / "tokenizer.json"));
  const json config = json::parse(ReadFile(copy / "tokenizer_config.json"));
  EXPECT_EQ(config["bos_token"], "z");
  EXPECT_EQ(config["eos_token"], "c");
  EXPECT_EQ(config["chat_template"], "T");
  EXPECT_EQ(LoadTokenizer(copy)->bos(), 'z');

  WriteBytes(folder / "config.json", "{");
  ExpectError(ErrorKind::kFormat, {"config.json"}, [&] { LoadTokenizer(folder); });
}

TEST(Tokenizer, LoadSaysWhatIsWrong) {
  const auto folder = FreshFolder("tokenizer_bad");
  ExpectError(ErrorKind::kIo, {"tokenizer.json", "--tokenizer"}, [&] { LoadTokenizer(folder); });
  ExpectError(ErrorKind::kIo, {"absent"}, [&] { LoadTokenizer(folder / "absent"); });
  const auto load = [&](std::string_view bytes) {
    WriteBytes(folder / "file", bytes);
    LoadTokenizer(folder / "file");
  };
  ExpectError(ErrorKind::kFormat, {"file", "empty"}, [&] { load(" \n"); });
  ExpectError(ErrorKind::kFormat, {"version", "truncated"}, [&] { load("GGUF\x03"); });
  ExpectError(ErrorKind::kFormat, {"weights"}, [&] { load("24ka\x01"); });
  ExpectError(ErrorKind::kFormat, {"tokenizer.json"}, [&] { load(R"({"model": )"); });
  ExpectError(ErrorKind::kFormat, {"llama2.c"}, [&] { load("abc"); });
  ExpectError(ErrorKind::kFormat, {"SentencePiece"}, [&] { load("\x0a\x7f"); });
}

TEST(Tokenizer, SeparatorsAreSeenInTheDecodedText) {
  const BpeTokenizer tokenizer(
      ByteLevelTokenizerJson({" red", ".", " .", "!?", "\n", "\n\n", "  ", " ,", ";", "-", " :)"}));
  const auto flags = SeparatorFlags(tokenizer);
  ASSERT_EQ(static_cast<int32_t>(flags.size()), tokenizer.vocab_size());
  const auto flag = [&](std::string_view text) {
    const Ids ids = tokenizer.Encode(text);
    EXPECT_EQ(ids.size(), 1u) << text;
    return flags[static_cast<size_t>(ids[0])];
  };
  for (const char* text : {".", " .", ",", "?", "!", "!?", ";", ":", " :)", "\n", "\n\n", " ", "\t", "  ", " ,"}) {
    EXPECT_EQ(flag(text), 1) << text;
  }
  for (const char* text : {" red", "-", "a", ")", "\r", "'"}) EXPECT_EQ(flag(text), 0) << text;
  for (const int32_t id : {tokenizer.IdOf("<|bos|>"), tokenizer.IdOf("<|eos|>")}) {
    EXPECT_EQ(flags[static_cast<size_t>(id)], 0);
  }
}

// --- with data -------------------------------------------------------------------------------------------------------

/// A file or folder of the evaluation data; empty where it is not here.
fs::path Data(const std::string& name) { return MissingData({name}).empty() ? TestData() / name : fs::path(); }

#define REQUIRE_DATA(variable, name)    \
  const fs::path variable = Data(name); \
  if (variable.empty()) GTEST_SKIP() << "needs " << (name) << " in HAWSER_DATA"

/// The texts of a .inp file.
std::vector<std::string> Cases(const std::string& file) {
  static const std::string kBetween = "\n__ggml_vocab_test__\n";
  std::vector<std::string> cases;
  size_t begin = 0;
  for (size_t end = file.find(kBetween); end != std::string::npos; end = file.find(kBetween, begin)) {
    cases.push_back(file.substr(begin, end - begin));
    begin = end + kBetween.size();
  }
  return cases;
}

struct VectorSet {
  const char* tokenizer;
  const char* vectors;
};

class Vectors : public testing::TestWithParam<VectorSet> {};

TEST_P(Vectors, AllCasesHaveTheReferencesIds) {
  REQUIRE_DATA(path, std::string("tokenizers/") + GetParam().tokenizer);
  REQUIRE_DATA(vectors, std::string("tokenizers/ggml-vocab/ggml-vocab-") + GetParam().vectors + ".gguf.inp");
  const auto tokenizer = LoadTokenizer(path);
  const auto cases = Cases(ReadFile(vectors));
  ASSERT_EQ(cases.size(), 46u);
  std::ifstream expected(fs::path(vectors).replace_extension(".out"));
  for (const std::string& text : cases) {
    std::string line;
    ASSERT_TRUE(std::getline(expected, line));
    std::istringstream numbers(line);
    Ids ids;
    for (int32_t id = 0; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer->Encode(text), ids) << "\"" << text << "\"";
    EXPECT_EQ(tokenizer->Decode(ids), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, Vectors,
                         testing::Values(VectorSet{"gpt2.tokenizer.json", "gpt-2"},
                                         VectorSet{"gpt-neox-20b.tokenizer.json", "mpt"},
                                         VectorSet{"llama2.tokenizer.model", "llama-spm"},
                                         VectorSet{"llama2.llama2c-tokenizer.bin", "llama-spm"},
                                         VectorSet{"ggml-vocab/ggml-vocab-gpt-2.gguf", "gpt-2"},
                                         VectorSet{"ggml-vocab/ggml-vocab-mpt.gguf", "mpt"},
                                         VectorSet{"ggml-vocab/ggml-vocab-gpt-neox.gguf", "mpt"},
                                         VectorSet{"ggml-vocab/ggml-vocab-falcon.gguf", "falcon"},
                                         VectorSet{"ggml-vocab/ggml-vocab-deepseek-coder.gguf", "deepseek-coder"},
                                         VectorSet{"ggml-vocab/ggml-vocab-deepseek-llm.gguf", "deepseek-llm"},
                                         VectorSet{"ggml-vocab/ggml-vocab-llama-spm.gguf", "llama-spm"},
                                         VectorSet{"ggml-vocab/ggml-vocab-phi-3.gguf", "phi-3"}));

class Books : public testing::TestWithParam<const char*> {};

TEST_P(Books, ComeBackAndEncodeTheSameAfterSaving) {
  REQUIRE_DATA(path, GetParam());
  const auto tokenizer = LoadTokenizer(path);
  const auto folder = FreshFolder("tokenizer_books");
  tokenizer->Save(folder);
  const auto saved = LoadTokenizer(folder);
  EXPECT_EQ(saved->bos(), tokenizer->bos());
  EXPECT_EQ(saved->eos(), tokenizer->eos());
  EXPECT_EQ(SeparatorFlags(*saved), SeparatorFlags(*tokenizer));
  for (const char* name : {"10146", "12204", "9931"}) {
    REQUIRE_DATA(book, std::string("pg19/test/") + name + ".txt");
    const std::string text = ReadFile(book).substr(0, 200000);
    const Ids ids = tokenizer->Encode(text);
    EXPECT_EQ(tokenizer->Decode(ids), text) << name;  // these books are NFC
    EXPECT_EQ(saved->Encode(text), ids) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, Books,
                         testing::Values("tokenizers/gpt2.tokenizer.json", "tokenizers/gpt-neox-20b.tokenizer.json",
                                         "tokenizers/llama2.tokenizer.model", "models/stories260k/tokenizer.bin"));

TEST(Llama2c, EncodesAsTheOriginalProgram) {
  REQUIRE_DATA(path, "models/stories260k/tokenizer.bin");
  REQUIRE_DATA(oracle, "oracles/stories260k_reference.json");
  const auto tokenizer = LoadTokenizer(path);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  const json reference = json::parse(ReadFile(oracle));
  ASSERT_GE(reference["encode_vectors"].size(), 8u);
  for (const json& vector : reference["encode_vectors"]) {
    const auto text = vector["text"].get<std::string>();
    Ids ids = tokenizer->Encode(text);
    EXPECT_EQ(ids, vector["ids_without_bos"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer->Decode(ids), text);
    ids.insert(ids.begin(), tokenizer->bos());
    EXPECT_EQ(ids, vector["ids_with_bos"].get<Ids>());
  }
}

TEST(Llama2c, EncodesTheTextOfThePerplexityProtocols) {
  REQUIRE_DATA(path, "models/stories260k/tokenizer.bin");
  REQUIRE_DATA(oracle, "oracles/perplexity_protocols_stories260k.json");
  REQUIRE_DATA(book, "pg19/test/12204.txt");
  const json reference = json::parse(ReadFile(oracle));
  const Ids ids = LoadTokenizer(path)->Encode(ReadFile(book).substr(0, 4000));
  EXPECT_EQ(ids.size(), 2391u);
  EXPECT_EQ(ids, reference["token_ids"].get<Ids>());
}

}  // namespace
}  // namespace hawser
