#include "hawser/tok/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/gguf_vocab.h"
#include "hawser/tok/scored_vocab.h"
#include "hawser/tok/side_files.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileNames[] = {"tokenizer.json", "tokenizer.model", "tokenizer.bin"};

/// A tokenizer.json with the tokens that lie beside it.
std::string WithAddedTokens(std::string_view file, const TokenizerSideFiles& beside) {
  nlohmann::json document = WithFrame("not a valid tokenizer.json", [&] { return ParseJson(file); });
  if (!document.is_object() || !document.contains("model")) return std::string(file);  // its reader says what is wrong
  std::unordered_map<std::string, int32_t> known;
  const nlohmann::json& model = document["model"];
  if (model.is_object() && model.contains("vocab") && model["vocab"].is_object()) {
    for (const auto& [name, id] : model["vocab"].items()) {
      if (id.is_number_integer()) known.emplace(name, id.get<int32_t>());
    }
  }
  const nlohmann::json& list = document.contains("added_tokens") ? document["added_tokens"] : nlohmann::json();
  for (const nlohmann::json& token : list) {
    if (!token.is_object() || !token.contains("content") || !token.contains("id")) return std::string(file);
    if (!token["content"].is_string() || !token["id"].is_number_integer()) return std::string(file);
    known.emplace(token["content"].get<std::string>(), token["id"].get<int32_t>());
  }
  nlohmann::json added = beside.AddedTokens(known);
  if (added.empty()) return std::string(file);
  nlohmann::json& all = document["added_tokens"];
  if (!all.is_array()) all = nlohmann::json::array();
  for (nlohmann::json& token : added) all.push_back(std::move(token));
  return document.dump();
}

std::unique_ptr<BpeTokenizer> FromPieces(ScoredVocab vocab, const TokenizerSideFiles& beside) {
  std::unordered_map<std::string, int32_t> known;
  for (size_t id = 0; id < vocab.pieces.size(); ++id) {
    known.emplace(vocab.pieces[id].text, static_cast<int32_t>(id));
  }
  vocab.added = beside.AddedTokens(known);
  return MakeScoredTokenizer(std::move(vocab));
}

bool IsGguf(const fs::path& path) {
  const MappedFile map(path);
  return map.bytes().size() >= 4 && std::memcmp(map.bytes().data(), "GGUF", 4) == 0;
}

std::unique_ptr<Tokenizer> LoadGguf(const fs::path& path) {
  const GgufFile file = ReadGguf(path);
  std::unique_ptr<Tokenizer> tokenizer = WithFrame(path.string(), [&] { return GgufTokenizer(file); });
  if (tokenizer == nullptr) Fail(ErrorKind::kFormat, "{}: the file has no vocabulary", path.string());
  return tokenizer;
}

std::unique_ptr<Tokenizer> LoadFile(const fs::path& path) {
  const MappedFile map(path);  // not read: it may turn out to be a model of any size
  const std::string_view file(reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size());
  const size_t first = file.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) Fail(ErrorKind::kFormat, "the file is empty");
  if (file.starts_with("24ka")) Fail(ErrorKind::kFormat, "a model's weights, not a tokenizer");
  // A file of another name (gpt2.tokenizer.json) does not lie in a model's folder.
  const bool in_model = std::ranges::find(kFileNames, path.filename()) != std::end(kFileNames);
  const TokenizerSideFiles beside = in_model ? TokenizerSideFiles(path.parent_path()) : TokenizerSideFiles();
  // SentencePiece starts with a piece (field 1) of at least one byte; llama2.c with a small little-endian number.
  const bool sentencepiece = file.size() >= 2 && file[0] == '\n' && file[1] != '\0';
  std::unique_ptr<BpeTokenizer> tokenizer;
  if (file[first] == '{') {
    tokenizer = std::make_unique<BpeTokenizer>(WithAddedTokens(file, beside));
  } else if (sentencepiece) {
    tokenizer = WithFrame("as SentencePiece model", [&] { return FromPieces(ParseSentencePiece(file), beside); });
  } else {
    tokenizer = WithFrame("as llama2.c tokenizer", [&] { return FromPieces(ParseLlama2cTokenizer(file), beside); });
  }
  beside.Apply(tokenizer.get());
  return tokenizer;
}

}  // namespace

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool at_start) const {
  std::string text;
  for (const int32_t id : ids) text += Piece(id);
  if (at_start && adds_dummy_prefix() && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::unique_ptr<Tokenizer> LoadTokenizer(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    if (IsGguf(path)) return LoadGguf(path);
    return WithFrame(path.string(), [&] { return LoadFile(path); });
  }
  for (const char* name : kFileNames) {
    const fs::path file = path / name;
    if (fs::exists(file, ignored)) return WithFrame(file.string(), [&] { return LoadFile(file); });
  }
  Fail(ErrorKind::kIo,
       "{}: no tokenizer.json, tokenizer.model or tokenizer.bin in this folder; name one with --tokenizer",
       path.string());
}

}  // namespace hawser
