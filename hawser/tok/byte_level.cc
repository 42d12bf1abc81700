#include "hawser/tok/byte_level.h"

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/tok/bpe.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

struct Alphabet {
  std::array<char32_t, 256> of_byte;
  std::array<int, 0x144> of_char;

  Alphabet() {
    of_char.fill(-1);
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      of_byte[b] = printable ? b : next++;
      of_char[of_byte[b]] = static_cast<int>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

void AppendByteLevel(std::string_view text, std::string& out) {
  const Alphabet& alphabet = TheAlphabet();
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    if (IsEscapedByte(point.value)) {
      AppendUtf8(out, alphabet.of_byte[(point.value - kEscapedByte) & 0xFF]);
      at += point.length;
      continue;
    }
    for (const size_t end = at + point.length; at < end; ++at) {
      AppendUtf8(out, alphabet.of_byte[static_cast<unsigned char>(text[at])]);
    }
  }
}

void AppendByteLevel(uint8_t byte, std::string& out) { AppendUtf8(out, TheAlphabet().of_byte[byte]); }

bool ByteLevelToBytes(std::string_view text, std::string& out) {
  const Alphabet& alphabet = TheAlphabet();
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    if (point.length == 0 || point.value >= alphabet.of_char.size() || alphabet.of_char[point.value] < 0) return false;
    out += static_cast<char>(alphabet.of_char[point.value]);
    at += point.length;
  }
  return true;
}

std::string ByteLevelTokenizerJson(const std::vector<std::string>& words) {
  const Regex pattern(kGpt2Pattern);
  nlohmann::json vocab = nlohmann::json::object();
  nlohmann::json merge_list = nlohmann::json::array();
  std::vector<std::string> pieces;
  const auto add_piece = [&](std::string piece) {
    vocab[piece] = pieces.size();
    pieces.push_back(std::move(piece));
  };
  for (const char32_t c : TheAlphabet().of_byte) {
    std::string piece;
    AppendUtf8(piece, c);
    add_piece(std::move(piece));
  }

  // A word is cut with the merges so far, then its parts are joined by new, later ones. A later merge never acts while
  // an earlier one can, so the words already there stay whole.
  std::map<std::pair<int32_t, int32_t>, Merge> merges;
  for (const std::string& word : words) {
    if (!IsUtf8(word)) Fail(ErrorKind::kUsage, "a word of the list is not UTF-8");
    size_t whole = 0;
    pattern.ForEachMatch(word, [&](size_t begin, size_t end) { whole = begin == 0 ? end : whole; });
    if (word.empty() || whole != word.size()) {
      Fail(ErrorKind::kUsage, "\"{}\" cannot be one token: text is cut after \"{}\"", word, word.substr(0, whole));
    }
    std::vector<int32_t> ids;
    for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
    for (;;) {
      const Merge* best = nullptr;
      for (size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = merges.find({ids[i], ids[i + 1]});
        if (found != merges.end() && (best == nullptr || found->second.rank < best->rank)) best = &found->second;
      }
      if (best == nullptr && ids.size() == 1) break;
      if (best == nullptr) {
        const Merge merge{ids[0], ids[1], static_cast<int32_t>(pieces.size()), static_cast<uint32_t>(merges.size())};
        std::string& left = pieces[static_cast<size_t>(ids[0])];
        std::string& right = pieces[static_cast<size_t>(ids[1])];
        merge_list.push_back(left + " " + right);
        add_piece(left + right);
        best = &merges.emplace(std::pair(ids[0], ids[1]), merge).first->second;
      }
      std::vector<int32_t> merged;
      for (size_t i = 0; i < ids.size(); ++i) {
        const bool here = i + 1 < ids.size() && ids[i] == best->left && ids[i + 1] == best->right;
        merged.push_back(here ? best->result : ids[i]);
        i += here ? 1 : 0;
      }
      ids = std::move(merged);
    }
  }

  nlohmann::json added = nlohmann::json::array();
  for (const char* name : {"<|bos|>", "<|eos|>"}) {
    added.push_back({{"id", pieces.size()},
                     {"content", name},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
    add_piece(name);
  }
  const std::string bos = "<|bos|>";
  const nlohmann::json begin = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto text = [](const char* id, int type) {
    return nlohmann::json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  const nlohmann::json bos_first = {
      {"type", "TemplateProcessing"},
      {"single", nlohmann::json::array({begin, text("A", 0)})},
      {"pair", nlohmann::json::array({begin, text("A", 0), text("B", 1)})},
      {"special_tokens",
       {{bos, {{"id", bos}, {"ids", nlohmann::json::array({vocab[bos]})}, {"tokens", nlohmann::json::array({bos})}}}}}};
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json document = {{"version", "1.0"},
                                   {"truncation", nullptr},
                                   {"padding", nullptr},
                                   {"added_tokens", std::move(added)},
                                   {"normalizer", nullptr},
                                   {"pre_tokenizer", byte_level},
                                   {"post_processor", bos_first},
                                   {"decoder", byte_level},
                                   {"model", BpeModelJson(std::move(vocab), std::move(merge_list), false)}};
  return document.dump();
}

nlohmann::json BpeModelJson(nlohmann::json vocab, nlohmann::json merges, bool whole_words) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", whole_words},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace hawser
