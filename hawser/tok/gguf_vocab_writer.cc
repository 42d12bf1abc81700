#include "hawser/tok/gguf_vocab_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/io/json.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/gguf_pre.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr const char* kMark = "\u2581";

/// Every id with its text and type.
std::vector<ScoredPiece> PiecesOf(const BpeTokenizer& tokenizer, const json& document, int64_t rows) {
  std::vector<ScoredPiece> pieces(static_cast<size_t>(rows));
  for (size_t id = 0; id < pieces.size(); ++id) {
    pieces[id].type = PieceType::kUnused;
    if (id < static_cast<size_t>(tokenizer.vocab_size())) {
      pieces[id].text = tokenizer.Display(static_cast<int32_t>(id));
    }
    if (pieces[id].text.empty()) pieces[id].text = fmt::format("[PAD{}]", id);
  }
  for (const auto& [name, id] : document.at("model").at("vocab").items()) {
    pieces[id.get<size_t>()].type = PieceType::kNormal;
  }
  for (const json& token : document.value("added_tokens", json::array())) {
    const int32_t id = tokenizer.IdOf(token.at("content").get<std::string>());
    if (id < 0) continue;
    const bool special = token.value("special", false);
    pieces[static_cast<size_t>(id)].type = special ? PieceType::kControl : PieceType::kUserDefined;
  }
  return pieces;
}

std::string TypeOf(const json& part) { return part.is_object() ? part.value("type", "") : ""; }

std::vector<json> PartsOf(const json& step, const char* list) {
  if (step.is_null()) return {};
  if (TypeOf(step) != "Sequence" || !step.contains(list)) return {step};
  return step[list].get<std::vector<json>>();
}

/// How the text before the merges of a SentencePiece-like tokenizer is made.
struct MarkRules {
  bool add_dummy_prefix = false;
  bool remove_extra_whitespaces = false;
};

/// Errors: kUnsupported for anything but blanks that become marks.
MarkRules MarkRulesOf(const json& document) {
  MarkRules rules;
  if (const json own = document.at("model").value("hawser", json()); own.is_object()) {
    rules.add_dummy_prefix = own.value("add_dummy_prefix", false);
    rules.remove_extra_whitespaces = own.value("remove_extra_whitespaces", false);
    if (!own.value("escape_whitespaces", true)) {
      Fail(ErrorKind::kUnsupported, "GGUF cannot say that blanks of this vocabulary stay as they are");
    }
    return rules;
  }
  bool marks = false;
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMark}};
  for (const json& part : PartsOf(document.value("normalizer", json()), "normalizers")) {
    if (part == replace) {
      marks = true;
    } else if (part == json{{"type", "Prepend"}, {"prepend", kMark}}) {
      rules.add_dummy_prefix = true;
    } else {
      Fail(ErrorKind::kUnsupported, "GGUF has no name for the normalizer {} of this tokenizer", part.dump());
    }
  }
  for (const json& part : PartsOf(document.value("pre_tokenizer", json()), "pretokenizers")) {
    const std::string type = TypeOf(part);
    if (type == "Metaspace" && part.value("replacement", "") == kMark && !part.value("split", true)) {
      marks = true;
      const json scheme = part.value("prepend_scheme", json());
      const bool prefix = scheme.is_null() ? part.value("add_prefix_space", true) : scheme != "never";
      rules.add_dummy_prefix = rules.add_dummy_prefix || prefix;
    } else if (!(type == "Split" && marks && part.value("pattern", json()) == json{{"String", " "}})) {
      Fail(ErrorKind::kUnsupported, "GGUF has no name for the pre_tokenizer {} of this tokenizer", part.dump());
    }
  }
  if (!marks) Fail(ErrorKind::kUnsupported, "GGUF cannot say how this tokenizer treats blanks");
  return rules;
}

/// The scores that give the merges of the tokenizer: the better, the earlier a piece is made. Errors: kUnsupported
/// where no scores do, as joining by scores takes any two pieces that make a third.
void SetScores(const BpeTokenizer& tokenizer, std::vector<ScoredPiece>* pieces) {
  std::vector<Merge> merges = tokenizer.Merges();
  const auto piece = [&](int32_t id) -> ScoredPiece& { return (*pieces)[static_cast<size_t>(id)]; };
  std::erase_if(merges, [&](const Merge& merge) {
    return piece(merge.left).type != PieceType::kNormal || piece(merge.right).type != PieceType::kNormal ||
           piece(merge.result).type != PieceType::kNormal;
  });
  std::ranges::sort(merges, {}, &Merge::rank);
  const auto lowest = static_cast<float>(-1 - static_cast<int64_t>(merges.size()));
  for (ScoredPiece& each : *pieces) each.score = each.type == PieceType::kNormal ? lowest : 0.0f;
  // Steps between scores are whole numbers that f32 holds: one for each piece that is made.
  std::set<int32_t> made;
  float score = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (i > 0 && merges[i].rank != merges[i - 1].rank && !made.contains(merges[i].result)) score -= 1;
    if (made.insert(merges[i].result).second) piece(merges[i].result).score = score;
  }
  std::set<std::pair<int32_t, int32_t>> pairs;
  for (const Merge& merge : merges) pairs.emplace(merge.left, merge.right);
  const std::vector<Merge> derived = DeriveMerges(*pieces);
  const auto refuse = [&](const Merge& merge) {
    Fail(ErrorKind::kUnsupported,
         "GGUF joins pieces by scores, which would join \"{}\" and \"{}\" where the merges of this tokenizer do not",
         piece(merge.left).text, piece(merge.right).text);
  };
  for (const Merge& merge : derived) {
    if (!pairs.contains({merge.left, merge.right})) refuse(merge);
  }
  float before = 0;
  for (const Merge& merge : merges) {
    if (piece(merge.result).score > before) refuse(merge);
    before = piece(merge.result).score;
  }
}

/// The id of a token that tokenizer_config.json or the document names; -1 where it does not.
int32_t NamedId(const BpeTokenizer& tokenizer, const json& value) {
  const json& content = value.is_object() && value.contains("content") ? value["content"] : value;
  return content.is_string() ? tokenizer.IdOf(content.get<std::string>()) : -1;
}

class Writer {
 public:
  Writer(const BpeTokenizer& tokenizer, int64_t rows, const std::vector<int32_t>& ends)
      : tokenizer_(tokenizer), text_(tokenizer.JsonText()), document_(ParseJson(text_)) {
    if (tokenizer.is_unigram()) {
      Fail(ErrorKind::kUnsupported, "a Unigram tokenizer cannot be written as GGUF; write a Hugging Face folder");
    }
    const json& model = document_.at("model");
    const bool scored = model.value("byte_fallback", false) || model.contains("hawser");
    std::vector<ScoredPiece> pieces = PiecesOf(tokenizer, document_, rows);
    if (scored) {
      Scored(&pieces);
    } else {
      Put("model", std::string("gpt2"));
      Put("pre", PreNameOf(document_));
    }
    PutPieces(pieces);
    if (scored) {
      std::vector<float> scores;
      for (const ScoredPiece& piece : pieces) scores.push_back(piece.score);
      Put("scores", std::move(scores));
    } else {
      PutMerges();
    }
    PutSpecials(ends);
    TellUnsaid(scored);
    if (!tokenizer.chat_template().empty()) {
      vocab_.fields.push_back({"tokenizer.chat_template", tokenizer.chat_template()});
    }
    vocab_.fields.push_back({"tokenizer.huggingface.json", std::move(text_)});
  }
  GgufVocab Take() { return std::move(vocab_); }

 private:
  template <class T>
  void Put(const std::string& key, T value) {
    vocab_.fields.push_back({"tokenizer.ggml." + key, std::move(value)});
  }

  void Scored(std::vector<ScoredPiece>* pieces) {
    const MarkRules rules = MarkRulesOf(document_);
    for (ScoredPiece& piece : *pieces) {
      const bool byte = piece.text.size() == 6 && piece.text.starts_with("<0x") && piece.text.ends_with('>');
      if (byte && document_.at("model").value("byte_fallback", false)) piece.type = PieceType::kByte;
    }
    const int32_t unk = Unknown();
    if (unk >= 0) (*pieces)[static_cast<size_t>(unk)].type = PieceType::kUnknown;
    SetScores(tokenizer_, pieces);
    Put("model", std::string("llama"));
    Put("pre", std::string("default"));
    Put("add_space_prefix", rules.add_dummy_prefix);
    Put("remove_extra_whitespaces", rules.remove_extra_whitespaces);
  }

  /// What is in the copy of the tokenizer.json alone.
  void TellUnsaid(bool scored) {
    std::vector<std::string> bound;
    for (const json& token : document_.value("added_tokens", json::array())) {
      const bool any =
          token.value("single_word", false) || token.value("lstrip", false) || token.value("rstrip", false);
      if (any) bound.push_back(token.at("content").get<std::string>());
    }
    if (!bound.empty()) {
      vocab_.unsaid.push_back(
          fmt::format("{} of {} (single_word, lstrip, rstrip), to readers that find added tokens "
                      "wherever they stand (llama.cpp)",
                      bound.size() == 1 ? "the bounds" : fmt::format("bounds, {} in all,", bound.size()),
                      PrintableLine(bound.front(), 40)));
    }
    if (const json normalizer = document_.value("normalizer", json()); !scored && !normalizer.is_null()) {
      vocab_.unsaid.push_back(fmt::format("the normalizer {}, to readers that take texts as they come (llama.cpp)",
                                          normalizer.value("type", std::string())));
    }
  }

  int32_t Unknown() const { return NamedId(tokenizer_, document_.at("model").value("unk_token", json())); }

  void PutPieces(const std::vector<ScoredPiece>& pieces) {
    std::vector<std::string> tokens;
    std::vector<int32_t> types;
    for (const ScoredPiece& piece : pieces) {
      tokens.push_back(piece.text);
      types.push_back(static_cast<int32_t>(piece.type));
    }
    Put("tokens", std::move(tokens));
    Put("token_type", std::move(types));
  }

  void PutMerges() {
    std::vector<std::string> merges;
    for (const json& merge : document_.at("model").at("merges")) {
      merges.push_back(merge.is_array() ? merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>()
                                        : merge.get<std::string>());
    }
    Put("merges", std::move(merges));
  }

  void PutSpecials(const std::vector<int32_t>& ends) {
    const auto id = [&](const char* name, int32_t value) {
      if (value >= 0) Put(fmt::format("{}_token_id", name), static_cast<uint32_t>(value));
    };
    id("bos", tokenizer_.bos());
    constexpr const char* kEnds[] = {"eos", "eot", "eom"};
    for (size_t i = 0; i < ends.size(); ++i) {
      if (i < std::size(kEnds)) {
        id(kEnds[i], ends[i]);
      } else {
        vocab_.unsaid.push_back(fmt::format("that {} ends a text", tokenizer_.Display(ends[i])));
      }
    }
    const json& config = tokenizer_.config();
    const auto named = [&](const char* key) {
      return config.is_object() && config.contains(key) ? NamedId(tokenizer_, config[key]) : -1;
    };
    id("unknown", Unknown() >= 0 ? Unknown() : named("unk_token"));
    id("padding", named("pad_token"));
    const std::vector<int32_t> bos = {tokenizer_.bos()};
    Put("add_bos_token", tokenizer_.prefix() == bos);
    if (!tokenizer_.prefix().empty() && tokenizer_.prefix() != bos) {
      vocab_.unsaid.emplace_back("the tokens that a text begins with");
    }
    Put("add_eos_token", config.is_object() && config.value("add_eos_token", json()) == true);
  }

  const BpeTokenizer& tokenizer_;
  std::string text_;
  json document_;
  GgufVocab vocab_;
};

}  // namespace

GgufVocab MakeGgufVocab(const Tokenizer& tokenizer, int64_t rows, const std::vector<int32_t>& ends) {
  if (tokenizer.vocab_size() > rows) {
    Fail(ErrorKind::kUsage, "the tokenizer has {} ids, the model only {}", tokenizer.vocab_size(), rows);
  }
  const auto* bpe = dynamic_cast<const BpeTokenizer*>(&tokenizer);
  if (bpe == nullptr) Fail(ErrorKind::kUnsupported, "GGUF cannot hold a tokenizer of the kind {}", tokenizer.Kind());
  try {
    return Writer(*bpe, rows, ends).Take();
  } catch (const json::exception& error) {
    Fail(ErrorKind::kFormat, "the tokenizer is no valid tokenizer.json: {}", error.what());
  }
}

}  // namespace hawser
