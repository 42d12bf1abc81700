#include "hawser/tok/side_files.h"

#include <initializer_list>
#include <set>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/io/json.h"

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

/// A token as text or as an object with "content"; null for anything else.
const std::string* Content(const json& value) {
  if (value.is_object() && value.contains("content")) return value["content"].get_ptr<const std::string*>();
  return value.get_ptr<const std::string*>();
}

/// The id that `key` names: a token, an id, or a list whose first one counts.
int32_t SpecialId(const json& object, const std::string& key, const BpeTokenizer& tokenizer) {
  if (!object.is_object() || !object.contains(key)) return -1;
  const json* value = &object[key];
  if (value->is_array() && !value->empty()) value = &(*value)[0];
  if (const std::string* content = Content(*value)) return tokenizer.IdOf(*content);
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

/// The contents that a file names as special tokens, under whatever key.
void CollectSpecials(const json& object, std::set<std::string>* out) {
  if (!object.is_object()) return;
  for (const auto& [key, value] : object.items()) {
    if (!key.ends_with("_token") && !key.ends_with("_tokens")) continue;
    const json one = json::array({value});
    for (const json& token : value.is_array() ? value : one) {
      if (const std::string* content = Content(token)) out->insert(*content);
    }
  }
}

/// "chat_template" of a tokenizer_config.json: a text, or a list of named ones.
std::string ChatTemplateOf(const json& config) {
  if (!config.is_object() || !config.contains("chat_template")) return "";
  const json& stored = config["chat_template"];
  if (stored.is_string()) return stored.get<std::string>();
  for (const json& entry : stored.is_array() ? stored : json::array()) {
    if (!entry.is_object() || entry.value("name", json()) != "default" || !entry.contains("template")) continue;
    if (entry["template"].is_string()) return entry["template"].get<std::string>();
  }
  return "";
}

bool Flag(const json& token, const char* key) {
  return token.is_object() && token.contains(key) && token[key].is_boolean() && token[key].get<bool>();
}

}  // namespace

TokenizerSideFiles::TokenizerSideFiles(const fs::path& folder)
    : config_(ReadJsonIfPresent(folder / "tokenizer_config.json")),
      map_(ReadJsonIfPresent(folder / "special_tokens_map.json")),
      added_(ReadJsonIfPresent(folder / "added_tokens.json")),
      generation_(ReadJsonIfPresent(folder / "generation_config.json")),
      model_(ReadJsonIfPresent(folder / "config.json")) {
  std::error_code ignored;
  const fs::path file = folder / "chat_template.jinja";
  chat_template_ = fs::exists(file, ignored) ? ReadFile(file) : ChatTemplateOf(config_);
}

json TokenizerSideFiles::AddedTokens(const std::unordered_map<std::string, int32_t>& known) const {
  if (!added_.is_object() && !config_.is_object()) return json::array();
  std::set<std::string> specials;
  CollectSpecials(config_, &specials);
  CollectSpecials(map_, &specials);
  int64_t rows = INT32_MAX;
  if (model_.is_object() && model_.contains("vocab_size") && model_["vocab_size"].is_number_integer()) {
    rows = model_["vocab_size"].get<int64_t>();
  }
  json tokens = json::array();
  std::unordered_map<int64_t, std::string_view> taken;
  for (const auto& [content, id] : known) taken.emplace(id, content);
  const auto add = [&](const std::string& content, int64_t id, const json& flags, std::string_view where) {
    if (const auto found = known.find(content); found != known.end()) {
      if (found->second == id) return;
      Fail(ErrorKind::kFormat, "{}: token \"{}\" has id {}, the vocabulary has it as {}", where, content, id,
           found->second);
    }
    if (id < 0 || id > INT32_MAX)
      Fail(ErrorKind::kFormat, "{}: token \"{}\": id {} is out of range", where, content, id);
    const auto [entry, is_new] = taken.emplace(id, content);
    if (!is_new && entry->second != content) {
      Fail(ErrorKind::kFormat, "{}: id {} is both \"{}\" and \"{}\"", where, id, entry->second, content);
    }
    if (!is_new) return;
    if (id >= rows) {
      LogLine(fmt::format("note: token \"{}\" (id {}) is left out: the model has {} rows", content, id, rows));
      return;
    }
    tokens.push_back({{"id", id},
                      {"content", content},
                      {"single_word", Flag(flags, "single_word")},
                      {"lstrip", Flag(flags, "lstrip")},
                      {"rstrip", Flag(flags, "rstrip")},
                      {"normalized", Flag(flags, "normalized")},
                      {"special", Flag(flags, "special") || specials.contains(content)}});
  };
  if (config_.is_object() && config_.contains("added_tokens_decoder") && config_["added_tokens_decoder"].is_object()) {
    for (const auto& [number, token] : config_["added_tokens_decoder"].items()) {
      const auto id = ParseNumber<int64_t>(number);
      const std::string* content = Content(token);
      if (!id || content == nullptr) {
        Fail(ErrorKind::kFormat, "added_tokens_decoder: \"{}\" is no token: {}", number, ShownJson(token));
      }
      add(*content, *id, token, "added_tokens_decoder");
    }
  }
  if (added_.is_object()) {
    for (const auto& [content, id] : added_.items()) {
      if (!id.is_number_integer())
        Fail(ErrorKind::kFormat, "added_tokens.json: \"{}\" has no id: {}", content, ShownJson(id));
      add(content, id.get<int64_t>(), json(), "added_tokens.json");
    }
  }
  return tokens;
}

void TokenizerSideFiles::Apply(BpeTokenizer* tokenizer) const {
  int32_t bos = -1;
  int32_t eos = -1;
  const auto look = [&](const json& object, const std::string& suffix) {
    if (bos < 0) bos = SpecialId(object, "bos" + suffix, *tokenizer);
    if (eos < 0) eos = SpecialId(object, "eos" + suffix, *tokenizer);
  };
  look(config_, "_token");
  look(map_, "_token");
  if (bos < 0) bos = tokenizer->bos();
  if (eos < 0) eos = tokenizer->eos();
  look(generation_, "_token_id");
  look(model_, "_token_id");
  if (bos < 0) bos = FirstNamed(*tokenizer, {"<|bos|>", "<s>", "<bos>", "<|begin_of_text|>"});
  if (eos < 0) eos = FirstNamed(*tokenizer, {"<|eos|>", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"});
  const bool own_bos = tokenizer->prefix() == std::vector<int32_t>{tokenizer->bos()};
  tokenizer->set_bos(bos);
  tokenizer->set_eos(eos);
  if (own_bos) tokenizer->set_prefix({bos});  // a rule that says BOS, whichever token that is
  if (config_.is_object()) tokenizer->set_config(config_);
  tokenizer->set_chat_template(chat_template_);
}

}  // namespace hawser
