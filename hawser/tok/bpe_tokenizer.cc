#include "hawser/tok/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/post_processor.h"
#include "hawser/tok/replace.h"
#include "hawser/tok/utf8.h"
#include "hawser/tok/word_cache.h"

namespace hawser {
namespace {

constexpr int64_t kMaxVocab = int64_t{1} << 22;
constexpr int64_t kFreeIds = 65536, kIdsPerName = 16;  // ids are below the one, and so many for each name, more
constexpr size_t kMaxReplaces = 256;                   // of a decoder
constexpr std::string_view kMark = "\u2581";           // stands for a blank in SentencePiece vocabularies
constexpr size_t kMostMergeText = 64 << 20;            // bytes, and MostGrown of the names

/// "<0x0A>" -> 10; -1 for anything else.
int ByteOfName(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return -1;
  int value = 0;
  for (const char c : name.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/// A string key that may be absent or null.
std::string Text(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? std::string() : found->get<std::string>();
}

bool Flag(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null() && found->get<bool>();
}

const nlohmann::json& Part(const nlohmann::json& object, const char* key) {
  static const nlohmann::json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

/// Both halves of a merge, written "a b" or ["a", "b"].
std::pair<std::string, std::string> ReadMerge(const nlohmann::json& merge) {
  if (merge.is_array() && merge.size() == 2) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const auto text = merge.get<std::string>();
  const size_t blank = text.find(' ');
  if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos) {
    Fail(ErrorKind::kFormat, "model.merges: \"{}\" is not two pieces with one blank between", text);
  }
  return {text.substr(0, blank), text.substr(blank + 1)};
}

/// A number that is whole as it is written. Errors: kFormat naming what it belongs to.
int64_t Whole(const nlohmann::json& value, std::string_view name) {
  if (!value.is_number_integer()) Fail(ErrorKind::kFormat, "the number of \"{}\" is {}", name, ShownJson(value));
  return value.get<int64_t>();
}

}  // namespace

struct BpeTokenizer::Call {
  explicit Call(std::string_view text) : cache(text.size()) {}
  std::vector<int32_t> out;
  std::vector<int32_t> symbols;
  MergeTable::Scratch scratch;
  WordCache cache;
  std::string mapped;
};

BpeTokenizer::BpeTokenizer(std::string json_text, TokenizerOrigin origin) : json_text_(std::move(json_text)) {
  try {
    const nlohmann::json document = WithFrame("not a valid tokenizer.json", [&] { return ParseJson(json_text_); });
    if (!document.is_object() || !document.contains("model")) {
      Fail(ErrorKind::kFormat, "not a tokenizer.json: it has no \"model\"");
    }
    normalizer_ = Normalizer(Part(document, "normalizer"));
    pre_tokenizer_ = PreTokenizer(Part(document, "pre_tokenizer"));
    const nlohmann::json& model = document.at("model");
    ReadVocab(model);
    sentencepiece_ = SentencePieceText(Part(model, "hawser"), [&](int64_t id) {
      if (id < 0 || id >= vocab_size()) Fail(ErrorKind::kFormat, "model.hawser: id {} is outside the vocabulary", id);
      return names_[static_cast<size_t>(id)];
    });
    ReadAddedTokens(Part(document, "added_tokens"));
    has_merges_ = origin.merges.empty();
    is_unigram_ ? MakeUnigram(model) : ReadMerges(model, std::move(origin.merges));
    ReadLevels();
    ReadDecoder(Part(document, "decoder"), 0);
    prefix_ = PrefixOfPostProcessor(Part(document, "post_processor"), [&](const std::string& t) { return IdOf(t); });
    for (const int32_t id : prefix_) {
      if (id >= vocab_size()) Fail(ErrorKind::kFormat, "post_processor: id {} is outside the vocabulary", id);
    }
  } catch (const nlohmann::json::exception& error) {
    Fail(ErrorKind::kFormat, "not a valid tokenizer.json: {}", error.what());
  }
  decodes_byte_level_ = decodes_byte_level_ || pre_tokenizer_.byte_level();
  SetPieces();
  kind_ = !origin.kind.empty()  ? std::move(origin.kind)
          : is_unigram_         ? "tokenizer.json Unigram"
          : decodes_byte_level_ ? "tokenizer.json byte-level BPE"
                                : "tokenizer.json SentencePiece-like BPE";
}

void BpeTokenizer::Name(int64_t id, const std::string& name) {
  // Ids may leave gaps, but a small file must not ask for a table of gigabytes.
  const auto most = std::min<int64_t>(kMaxVocab, kFreeIds + kIdsPerName * static_cast<int64_t>(vocab_.size()));
  if (id < 0 || id >= most) Fail(ErrorKind::kFormat, "token \"{}\": id {} is out of range", name, id);
  const auto index = static_cast<size_t>(id);
  if (index >= names_.size()) {
    names_.resize(index + 1);
    control_.resize(index + 1);
    added_.resize(index + 1);
    of_model_.resize(index + 1);
  }
  names_[index] = name;
}

void BpeTokenizer::ReadVocab(const nlohmann::json& model) {
  const std::string type = model.contains("type") || !model.contains("merges") ? Text(model, "type") : "BPE";
  if (type == "Unigram") return ReadUnigram(model);
  if (type != "BPE") Fail(ErrorKind::kUnsupported, "model type \"{}\" is not known; wanted BPE or Unigram", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!Text(model, key).empty()) Fail(ErrorKind::kUnsupported, "model.{} is not supported", key);
  }
  if (!model.at("vocab").is_object()) Fail(ErrorKind::kFormat, "model.vocab is not an object");
  vocab_.reserve(model.at("vocab").size());
  for (const auto& [name, id] : model.at("vocab").items()) {
    const int64_t number = Whole(id, name);
    if (number < 0 || number >= kMaxVocab)
      Fail(ErrorKind::kFormat, "token \"{}\": id {} is out of range", name, number);
    vocab_.emplace(name, static_cast<int32_t>(number));
  }
  for (const auto& [name, id] : vocab_) {
    Name(id, name);
    of_model_[static_cast<size_t>(id)] = 1;
  }
  fuse_unk_ = Flag(model, "fuse_unk");
  ignore_merges_ = Flag(model, "ignore_merges");
  if (const std::string unk = Text(model, "unk_token"); !unk.empty()) unk_ = IdOf(unk);
  ReadByteFallback(model);
}

/// [[piece, score], ...] by id.
void BpeTokenizer::ReadUnigram(const nlohmann::json& model) {
  const nlohmann::json& list = model.at("vocab");
  if (!list.is_array() || list.empty()) Fail(ErrorKind::kFormat, "model.vocab is no list of pieces");
  if (std::ssize(list) > kMaxVocab) Fail(ErrorKind::kFormat, "model.vocab has {} pieces", list.size());
  for (size_t id = 0; id < list.size(); ++id) {
    const bool pair = list[id].is_array() && list[id].size() == 2 && list[id][0].is_string() && list[id][1].is_number();
    if (!pair) Fail(ErrorKind::kFormat, "model.vocab: piece {} is {}", id, ShownJson(list[id]));
    vocab_.insert_or_assign(list[id][0].get<std::string>(), static_cast<int32_t>(id));
    Name(static_cast<int64_t>(id), list[id][0].get<std::string>());
    of_model_[id] = 1;
  }
  if (!model.contains("unk_id") || model["unk_id"].is_null()) {
    Fail(ErrorKind::kUnsupported, "a Unigram model without \"unk_id\": what no piece covers has no token");
  }
  const int64_t unk = Whole(model["unk_id"], "unk_id");
  if (unk < 0 || unk >= std::ssize(list)) Fail(ErrorKind::kFormat, "model.unk_id: {} is outside the vocabulary", unk);
  unk_ = static_cast<int32_t>(unk);
  ReadByteFallback(model);
  is_unigram_ = true;
}

/// Behind the special tokens, which no text is cut into.
void BpeTokenizer::MakeUnigram(const nlohmann::json& model) {
  constexpr double kUnknownPenalty = 10;
  std::vector<UnigramModel::Piece> pieces;
  double least = 0;
  const nlohmann::json& list = model.at("vocab");
  for (size_t id = 0; id < list.size(); ++id) {
    const auto score = list[id][1].get<double>();
    least = id == 0 ? score : std::min(least, score);
    if (control_[id] == 0) pieces.push_back({list[id][0].get<std::string>(), score, static_cast<int32_t>(id)});
  }
  unigram_ = UnigramModel(std::move(pieces), least - kUnknownPenalty);
}

void BpeTokenizer::ReadByteFallback(const nlohmann::json& model) {
  byte_ids_.fill(-1);
  for (int b = 0; b < 256 && Flag(model, "byte_fallback"); ++b) {
    byte_ids_[static_cast<size_t>(b)] = IdOf(fmt::format("<0x{:02X}>", b));
  }
}

void BpeTokenizer::ReadAddedTokens(const nlohmann::json& list) {
  std::vector<AddedToken> raw, normalized;
  for (const nlohmann::json& entry : list) {
    AddedToken token{.id = 0,
                     .content = entry.at("content").get<std::string>(),
                     .single_word = Flag(entry, "single_word"),
                     .lstrip = Flag(entry, "lstrip"),
                     .rstrip = Flag(entry, "rstrip"),
                     .special = Flag(entry, "special")};
    const int32_t known = IdOf(token.content);  // wins over the number in the list, as in the reference
    const auto id = known >= 0 ? known : Whole(entry.at("id"), token.content);
    Name(id, token.content);
    token.id = static_cast<int32_t>(id);
    vocab_.emplace(token.content, token.id);
    control_[static_cast<size_t>(id)] = token.special;
    added_[static_cast<size_t>(id)] = 1;
    if (sentencepiece_.user_defined(token.id)) continue;
    if (sentencepiece_ || !Flag(entry, "normalized")) {
      raw.push_back(std::move(token));
    } else {
      token.content = normalizer_.Apply(token.content, TextPlace::kStart);
      normalized_names_[token.id] = token.content;
      normalized.push_back(std::move(token));
    }
  }
  raw_tokens_ = AddedTokens(std::move(raw));
  normalized_tokens_ = AddedTokens(std::move(normalized));
}

void BpeTokenizer::ReadLevels() {
  takes_bytes_ = pre_tokenizer_.leaves_bytes() && !sentencepiece_ && !is_unigram_;
  for (size_t b = 0; b < level_ids_.size(); ++b) {
    std::string name;
    AppendByteLevel(b, name);
    level_ids_[b] = EncodedId(name);
    takes_bytes_ = takes_bytes_ && level_ids_[b] >= 0;
  }
}

void BpeTokenizer::ReadMerges(const nlohmann::json& model, std::vector<Merge> merges) {
  const auto id_of = [&](const std::string& name) {
    const int32_t id = IdOf(name);
    if (id < 0 || of_model_[static_cast<size_t>(id)] == 0) {
      Fail(ErrorKind::kFormat, "model.merges: \"{}\" is not in the vocabulary", name);
    }
    return id;
  };
  if (merges.empty()) {
    std::vector<size_t> ties;
    if (sentencepiece_) ties = model.at("hawser").value("ties", std::vector<size_t>());
    auto tie = ties.begin();
    for (const nlohmann::json& entry : model.at("merges")) {
      const auto [left, right] = ReadMerge(entry);
      const bool tied = tie != ties.end() && *tie == merges.size() && !merges.empty();
      if (tied) ++tie;
      const uint32_t rank = tied ? merges.back().rank : static_cast<uint32_t>(merges.size());
      merges.push_back({id_of(left), id_of(right), id_of(left + right), rank});
    }
  }
  const auto name = [&](int32_t id) -> const std::string& { return names_[static_cast<size_t>(id)]; };
  // Cut at marks, if no merge has one inside.
  cut_at_marks_ = vocab_.contains(kMark) && !ignore_merges_;
  for (const Merge& merge : merges) {
    if (name(merge.right).starts_with(kMark) && !name(merge.left).ends_with(kMark)) cut_at_marks_ = false;
  }
  // What is spelled like a special token is none.
  std::erase_if(merges, [&](const Merge& merge) { return control_[static_cast<size_t>(merge.result)] != 0; });
  merges_ = MergeTable(merges);
}

void BpeTokenizer::ReadDecoder(const nlohmann::json& decoder, int depth) {
  if (decoder.is_null()) return;
  CheckDepth(depth, "decoder");
  const auto type = decoder.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& part : decoder.at("decoders")) ReadDecoder(part, depth + 1);
  } else if (type == "ByteLevel") {
    decodes_byte_level_ = true;
  } else if (type == "ByteFallback") {
    decodes_byte_fallback_ = true;
  } else if (type == "Metaspace") {
    const auto mark = decoder.at("replacement").get<std::string>();
    if (!IsOneCharacter(mark)) {
      Fail(ErrorKind::kFormat, "decoder Metaspace: its replacement \"{}\" is not one character", mark);
    }
    decoder_replaces_.emplace_back(mark, " ");
    const bool prefix = Flag(decoder, "add_prefix_space") || !decoder.contains("add_prefix_space");
    strip_first_ = decoder.contains("prepend_scheme") ? Text(decoder, "prepend_scheme") != "never" : prefix;
  } else if (type == "Replace") {
    const auto& pattern = decoder.at("pattern");
    if (!pattern.is_object() || !pattern.contains("String") || pattern["String"].get<std::string>().empty()) {
      Fail(ErrorKind::kUnsupported, "decoder Replace of anything but a string is not supported");
    }
    if (decoder_replaces_.size() == kMaxReplaces) {
      Fail(ErrorKind::kFormat, "decoder: more than {} replacements", kMaxReplaces);
    }
    decoder_replaces_.emplace_back(pattern["String"].get<std::string>(), decoder.at("content").get<std::string>());
  } else if (type == "Strip") {
    strip_first_ = Text(decoder, "content") == " " && Whole(decoder.at("start"), "start") > 0;
  } else if (type != "Fuse") {
    Fail(ErrorKind::kUnsupported, "decoder \"{}\" is not supported", type);
  }
}

void BpeTokenizer::SetPieces() {
  pieces_.resize(names_.size());
  for (size_t id = 0; id < names_.size(); ++id) {
    if (control_[id] != 0) continue;
    const auto normalized = normalized_names_.find(static_cast<int32_t>(id));
    const std::string& name = normalized != normalized_names_.end() ? normalized->second : names_[id];
    std::string& piece = pieces_[id];
    const int byte = decodes_byte_fallback_ ? ByteOfName(name) : -1;
    if (byte >= 0) {
      piece = static_cast<char>(byte);
    } else if (decodes_byte_level_) {
      if (added_[id] != 0 || !ByteLevelToBytes(name, piece)) piece = name;
    } else {
      piece = name;
      const size_t most = MostGrown(name.size());
      for (const auto& [from, to] : decoder_replaces_) piece = ReplaceText(piece, from, to, most);
    }
  }
}

std::vector<int32_t> BpeTokenizer::Encode(std::string_view text, bool parse_special, bool goes_on) const {
  Call call(text);
  const std::string escaped = NeedsEscapes(text) ? EscapeInvalidUtf8(text) : std::string();
  const std::string_view clean = escaped.empty() ? text : std::string_view(escaped);
  TextPlace place = goes_on ? TextPlace::kGoesOn : TextPlace::kStart;
  raw_tokens_.ForEach(clean, parse_special, [&](std::string_view stretch, int32_t id) {
    const TextPlace here = std::exchange(place, TextPlace::kInside);
    id >= 0 ? call.out.push_back(id) : EncodeStretch(stretch, parse_special, here, call);
  });
  return std::move(call.out);
}

std::vector<int32_t> BpeTokenizer::EncodeMarked(std::string_view text, std::string_view marks, bool goes_on) const {
  HAWSER_CHECK(marks.size() == text.size());
  std::string escaped, escaped_marks;
  if (NeedsEscapes(text)) {  // valid text too, where it has the characters that stand for single bytes
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
      length = CodePointAt(text, at).length;
      if (length == 0) Fail(ErrorKind::kUsage, "the text is not UTF-8");
      escaped += EscapeInvalidUtf8(text.substr(at, length));
      escaped_marks.resize(escaped.size(), marks[at]);
    }
    text = escaped;
    marks = escaped_marks;
  }
  Call call(text);
  TextPlace place = goes_on ? TextPlace::kGoesOn : TextPlace::kStart;
  raw_tokens_.ForEachMarked(text, marks, [&](std::string_view stretch, int32_t id) {
    const TextPlace here = std::exchange(place, TextPlace::kInside);
    id >= 0 ? call.out.push_back(id) : EncodeStretch(stretch, /*parse_special=*/false, here, call);
  });
  return std::move(call.out);
}

void BpeTokenizer::EncodeStretch(std::string_view text, bool parse_special, TextPlace place, Call& call) const {
  if (sentencepiece_) {
    sentencepiece_.ForEach(sentencepiece_.Normalize(text, place), [&](std::string_view part, int32_t id) {
      id >= 0 ? call.out.push_back(id) : EncodePiece(part, call);
    });
    return;
  }
  const PreTokenizer::Sink take_piece = [&](std::string_view piece, TextPlace) { EncodePiece(piece, call); };
  const std::string changed = normalizer_.empty() ? std::string() : normalizer_.Apply(text, place);
  const std::string_view normalized = normalizer_.empty() ? text : std::string_view(changed);
  normalized_tokens_.ForEach(normalized, parse_special, [&](std::string_view part, int32_t id) {
    const TextPlace here = std::exchange(place, TextPlace::kInside);
    id >= 0 ? call.out.push_back(id) : pre_tokenizer_.Apply(part, here, take_piece);
  });
}

void BpeTokenizer::EncodePiece(std::string_view piece, Call& call) const {
  if (!cut_at_marks_) {
    EncodeWord(piece, call);
    return;
  }
  for (size_t begin = 0; begin < piece.size();) {
    // A word is a run of marks and what follows up to the next mark.
    size_t end = begin;
    while (piece.substr(end).starts_with(kMark)) end += kMark.size();
    end = std::min(piece.find(kMark, end), piece.size());
    EncodeWord(piece.substr(begin, end - begin), call);
    begin = end;
  }
}

void BpeTokenizer::EncodeWord(std::string_view word, Call& call) const {
  const WordCache::Slot slot = call.cache.Find(word);
  if (slot.found) {
    const std::span<const int32_t> ids = call.cache.Ids(slot);
    call.out.insert(call.out.end(), ids.begin(), ids.end());
    return;
  }
  AppendBytes(word, call);
  call.out.insert(call.out.end(), call.symbols.begin(), call.symbols.end());
  call.cache.Put(slot, word, call.symbols);
}

/// The ids of a word, which may have to be mapped to the printable alphabet first.
void BpeTokenizer::AppendBytes(std::string_view word, Call& call) const {
  std::vector<int32_t>& symbols = call.symbols;
  symbols.clear();
  if (pre_tokenizer_.leaves_bytes() && (ignore_merges_ || !takes_bytes_)) {
    call.mapped.clear();
    AppendByteLevel(word, call.mapped);
  }
  const std::string_view name = call.mapped.empty() ? word : std::string_view(call.mapped);
  if (ignore_merges_) {
    if (const int32_t id = EncodedId(name); id >= 0) {
      symbols.push_back(id);
      return;
    }
  }
  if (!takes_bytes_) return AppendWord(name, call);
  for (size_t at = 0; at < word.size(); ++at) {
    if (const CodePoint point = EscapedByteAt(word, at); point.length > 0) {
      symbols.push_back(level_ids_[point.value - kEscapedByte]);
      at += point.length - 1;
    } else {
      symbols.push_back(level_ids_[static_cast<unsigned char>(word[at])]);
    }
  }
  merges_.Apply(symbols, call.scratch);
}

/// The bytes of what no piece covers, where all have ids, else the unknown token.
void BpeTokenizer::AppendUnknown(std::string_view text, Call& call) const {
  const size_t before = call.symbols.size();
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    const char escaped = static_cast<char>(point.value - kEscapedByte);
    const bool one = IsEscapedByte(point.value);
    for (const char c : one ? std::string_view(&escaped, 1) : text.substr(at, point.length)) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id < 0) {
        call.symbols.resize(before);
        call.symbols.push_back(unk_);
        return;
      }
      call.symbols.push_back(id);
    }
    at += point.length;
  }
}

void BpeTokenizer::AppendWord(std::string_view word, Call& call) const {
  std::vector<int32_t>& symbols = call.symbols;
  if (is_unigram_) {
    unigram_.Cut(word, [&](std::string_view piece, int32_t id) {
      id >= 0 ? symbols.push_back(id) : AppendUnknown(piece, call);
    });
    return;
  }
  bool after_unknown = false;
  for (size_t at = 0; at < word.size();) {
    const CodePoint point = CodePointAt(word, at);
    const std::string_view character = word.substr(at, point.length);
    at += point.length;
    const int32_t id = IsEscapedByte(point.value) ? -1 : EncodedId(character);
    if (id >= 0) {
      symbols.push_back(id);
      after_unknown = false;
      continue;
    }
    const char escaped = static_cast<char>(point.value - kEscapedByte);
    const std::string_view bytes = IsEscapedByte(point.value) ? std::string_view(&escaped, 1) : character;
    const auto id_of = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (std::all_of(bytes.begin(), bytes.end(), [&](char c) { return id_of(c) >= 0; })) {
      for (const char c : bytes) symbols.push_back(id_of(c));
      after_unknown = false;
    } else if (unk_ >= 0) {
      if (!after_unknown || !fuse_unk_) symbols.push_back(unk_);
      after_unknown = true;
    }
  }
  merges_.Apply(symbols, call.scratch);
}

/// The id that a piece of text may become: one of the merges' own vocabulary, and no special token.
int32_t BpeTokenizer::EncodedId(std::string_view name) const {
  const int32_t id = IdOf(name);
  return id < 0 || of_model_[static_cast<size_t>(id)] == 0 || control_[static_cast<size_t>(id)] != 0 ? -1 : id;
}

int32_t BpeTokenizer::IdOf(std::string_view name) const {
  const auto found = vocab_.find(name);
  return found == vocab_.end() ? -1 : found->second;
}

void BpeTokenizer::CheckId(int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    Fail(ErrorKind::kUsage, "token id {} is outside the vocabulary of {} (0 to {})", id, vocab_size(),
         vocab_size() - 1);
  }
}

std::string BpeTokenizer::Piece(int32_t id) const {
  CheckId(id);
  return pieces_[static_cast<size_t>(id)];
}

std::string BpeTokenizer::Display(int32_t id) const {
  CheckId(id);
  return names_[static_cast<size_t>(id)];
}

void BpeTokenizer::set_config(nlohmann::json config) {
  config_ = std::move(config);
  if (!config_.is_object() || !config_.contains("add_bos_token") || !config_["add_bos_token"].is_boolean()) return;
  if (!config_["add_bos_token"].get<bool>()) {
    prefix_.clear();
  } else if (prefix_.empty() && bos_ >= 0) {
    prefix_ = {bos_};
  }
}

/// The document with the merges that its origin brought beside it.
nlohmann::json BpeTokenizer::WithMerges() const {
  std::vector<Merge> merges = merges_.All();
  const auto name = [&](int32_t id) -> const std::string& { return names_[static_cast<size_t>(id)]; };
  // Among equal ranks the longer result, then the longer left half: a reader that knows no ties then lets a row of one
  // character grow from the left, as it does where ties go to the leftmost pair.
  std::ranges::sort(merges, [&](const Merge& a, const Merge& b) {
    if (a.rank != b.rank) return a.rank < b.rank;
    if (a.result != b.result) {
      const size_t size_a = name(a.result).size(), size_b = name(b.result).size();
      return size_a != size_b ? size_a > size_b : a.result < b.result;
    }
    return name(a.left).size() > name(b.left).size();
  });
  size_t bytes = 0, of_names = 0;
  for (const Merge& merge : merges) bytes += name(merge.result).size();
  for (const std::string& each : names_) of_names += each.size();
  if (bytes > kMostMergeText + MostGrown(of_names)) {
    Fail(ErrorKind::kUnsupported, "a tokenizer.json of this vocabulary would hold {} bytes of merges", bytes);
  }
  const bool has_blanks = std::ranges::any_of(names_, [](const auto& each) { return each.find(' ') != each.npos; });
  nlohmann::json document = ParseJson(json_text_);
  nlohmann::json list = nlohmann::json::array(), ties = nlohmann::json::array();
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string &left = name(merges[i].left), &right = name(merges[i].right);
    if (i > 0 && merges[i].rank == merges[i - 1].rank) ties.push_back(i);
    if (has_blanks) {  // the older form, with one blank between, would be ambiguous
      list.push_back({left, right});
    } else {
      list.push_back(left + " " + right);
    }
  }
  document["model"]["merges"] = std::move(list);
  document["model"]["hawser"]["ties"] = std::move(ties);
  return document;
}

std::string BpeTokenizer::JsonText() const { return has_merges_ ? json_text_ : WithMerges().dump(); }

void BpeTokenizer::Save(const std::filesystem::path& folder) const {
  nlohmann::json config = config_;
  if (!config.is_object()) {
    config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  }
  if (!has_merges_) config["tokenizer_class"] = "PreTrainedTokenizerFast";  // what reads a tokenizer.json as it is
  for (const auto& [key, id] : {std::pair("bos_token", bos_), std::pair("eos_token", eos_)}) {
    if (id >= 0) {
      config[key] = Display(id);
    } else {
      config.erase(key);
    }
  }
  MakeDirectories(folder);
  WriteFileAtomically(folder / "tokenizer.json", JsonText());
  WriteFileAtomically(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

}  // namespace hawser
