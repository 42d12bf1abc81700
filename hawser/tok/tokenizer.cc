#include "hawser/tok/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/gguf_vocab.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A JSON file of the folder; null where there is none.
json ReadJsonIfPresent(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return {};
  return WithFrame(path.string(), [&] {
    json value = ParseJson(ReadFile(path));
    if (!value.is_object()) Fail(ErrorKind::kFormat, "not a JSON object");
    return value;
  });
}

/// The id that `key` names: a token as text or as an object with "content", an id, or a list whose first one counts.
int32_t SpecialId(const json& object, const std::string& key, const BpeTokenizer& tokenizer) {
  if (!object.is_object() || !object.contains(key)) return -1;
  const json* value = &object[key];
  if (value->is_array() && !value->empty()) value = &(*value)[0];
  if (value->is_object() && value->contains("content")) value = &(*value)["content"];
  if (value->is_string()) return tokenizer.IdOf(value->get<std::string>());
  if (!value->is_number_integer()) return -1;
  const auto id = value->get<int64_t>();
  return id >= 0 && id < tokenizer.vocab_size() ? static_cast<int32_t>(id) : -1;
}

int32_t FirstNamed(const BpeTokenizer& tokenizer, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const int32_t id = tokenizer.IdOf(name); id >= 0) return id;
  }
  return -1;
}

/// BOS and EOS from the files in `folder`, where one is given, then from the names that well-known vocabularies use.
void FindSpecials(const std::optional<fs::path>& folder, BpeTokenizer& tokenizer) {
  int32_t bos = -1;
  int32_t eos = -1;
  for (const auto& [file, suffix] :
       {std::pair("tokenizer_config.json", "_token"), std::pair("special_tokens_map.json", "_token"),
        std::pair("generation_config.json", "_token_id"), std::pair("config.json", "_token_id")}) {
    json object = folder ? ReadJsonIfPresent(*folder / file) : json();
    if (bos < 0) bos = SpecialId(object, std::string("bos") + suffix, tokenizer);
    if (eos < 0) eos = SpecialId(object, std::string("eos") + suffix, tokenizer);
    if (file == std::string_view("tokenizer_config.json")) tokenizer.set_config(std::move(object));
  }
  if (bos < 0) bos = FirstNamed(tokenizer, {"<|bos|>", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"});
  if (eos < 0) eos = FirstNamed(tokenizer, {"<|eos|>", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"});
  tokenizer.set_bos(bos);
  tokenizer.set_eos(eos);
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
  if (file[first] == '{') {
    auto tokenizer = std::make_unique<BpeTokenizer>(std::string(file));
    // A file of another name (gpt2.tokenizer.json) does not lie in a model's folder.
    const bool in_model = path.filename() == "tokenizer.json";
    FindSpecials(in_model ? std::optional(path.parent_path()) : std::nullopt, *tokenizer);
    return tokenizer;
  }
  if (file.starts_with("24ka")) Fail(ErrorKind::kFormat, "a model's weights, not a tokenizer");
  // SentencePiece starts with a piece (field 1) of at least one byte; llama2.c with a small little-endian number.
  const bool sentencepiece = file.size() >= 2 && file[0] == '\n' && file[1] != '\0';
  return sentencepiece
             ? WithFrame("as SentencePiece model", [&] { return MakeScoredTokenizer(ParseSentencePiece(file)); })
             : WithFrame("as llama2.c tokenizer", [&] { return MakeScoredTokenizer(ParseLlama2cTokenizer(file)); });
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
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer.bin"}) {
    const fs::path file = path / name;
    if (fs::exists(file, ignored)) return WithFrame(file.string(), [&] { return LoadFile(file); });
  }
  Fail(ErrorKind::kIo,
       "{}: no tokenizer.json, tokenizer.model or tokenizer.bin in this folder; name one with --tokenizer",
       path.string());
}

}  // namespace hawser
