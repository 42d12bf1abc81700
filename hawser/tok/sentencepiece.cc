// The fields of SentencePiece's ModelProto (github.com/google/sentencepiece) that BPE needs, read from protobuf's wire
// format.
#include <cstring>
#include <string>

#include "hawser/base/error.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

/// One message: Next() steps through its fields in the order they are stored.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  bool Next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = Varint();
    field_ = key >> 3;
    wire_ = static_cast<int>(key & 7);
    switch (wire_) {
      case 0:
        number_ = Varint();
        break;
      case 1:
        Take(8);
        break;
      case 2:
        Take(Varint());
        break;
      case 5:
        Take(4);
        break;
      default:
        Fail(ErrorKind::kFormat, "not protobuf: wire type {} before byte {}", wire_, at_);
    }
    return true;
  }

  uint64_t field() const { return field_; }
  int64_t Number() const { return static_cast<int64_t>(Expect(0, number_)); }
  std::string_view Bytes() const { return Expect(2, value_); }
  float Float() const {
    float value;
    std::memcpy(&value, Expect(5, value_).data(), sizeof(value));
    return value;
  }

 private:
  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) Fail(ErrorKind::kFormat, "ends inside a number at byte {} of a message", at_);
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    Fail(ErrorKind::kFormat, "not protobuf: a number of more than ten bytes before byte {}", at_);
  }

  void Take(uint64_t size) {
    if (size > bytes_.size() - at_) {
      Fail(ErrorKind::kFormat, "field {} has {} bytes, {} are left", field_, size, bytes_.size() - at_);
    }
    value_ = bytes_.substr(at_, size);
    at_ += size;
  }

  template <class T>
  const T& Expect(int wire, const T& value) const {
    if (wire_ != wire) Fail(ErrorKind::kFormat, "field {} has wire type {}, expected {}", field_, wire_, wire);
    return value;
  }

  std::string_view bytes_;
  size_t at_ = 0;
  uint64_t field_ = 0;
  int wire_ = 0;
  uint64_t number_ = 0;
  std::string_view value_;
};

ScoredPiece ParsePiece(std::string_view bytes, size_t id) {
  ScoredPiece piece;
  for (Message message(bytes); message.Next();) {
    if (message.field() == 1) piece.text = message.Bytes();
    if (message.field() == 2) piece.score = message.Float();
    if (message.field() == 3) {
      const int64_t type = message.Number();
      if (type < 1 || type > 6) Fail(ErrorKind::kFormat, "piece {} has type {}, known are 1 to 6", id, type);
      piece.type = static_cast<PieceType>(type);
    }
  }
  if (piece.type == PieceType::kUnused) Fail(ErrorKind::kUnsupported, "piece {} is of type unused", id);
  return piece;
}

int32_t Id(int64_t value) {
  // proto2 stores negative int32 as ten bytes, so -1 ("none") arrives as such.
  if (value < -1 || value > INT32_MAX) Fail(ErrorKind::kFormat, "special id {} is out of range", value);
  return static_cast<int32_t>(value);
}

void ParseTrainer(std::string_view bytes, ScoredVocab& vocab) {
  int64_t model_type = 1;
  for (Message message(bytes); message.Next();) {
    switch (message.field()) {
      case 3:
        model_type = message.Number();
        break;
      case 24:
        if (message.Number() != 0) Fail(ErrorKind::kUnsupported, "treat_whitespace_as_suffix is not supported");
        break;
      case 40:
        vocab.unk = Id(message.Number());
        break;
      case 41:
        vocab.bos = Id(message.Number());
        break;
      case 42:
        vocab.eos = Id(message.Number());
        break;
      default:
        break;
    }
  }
  if (model_type != 2) {
    constexpr const char* kTypes[] = {"unigram", "BPE", "word", "char"};
    Fail(ErrorKind::kUnsupported, "SentencePiece model type {} ({}) is not supported, only BPE is", model_type,
         model_type >= 1 && model_type <= 4 ? kTypes[model_type - 1] : "unknown");
  }
}

void ParseNormalizer(std::string_view bytes, ScoredVocab& vocab) {
  for (Message message(bytes); message.Next();) {
    switch (message.field()) {
      case 2:
        if (!message.Bytes().empty()) {
          Fail(ErrorKind::kUnsupported,
               "SentencePiece normalization tables (precompiled_charsmap) are not supported; use its tokenizer.json");
        }
        break;
      case 3:
        vocab.add_dummy_prefix = message.Number() != 0;
        break;
      case 4:
        vocab.remove_extra_whitespaces = message.Number() != 0;
        break;
      case 5:
        vocab.escape_whitespaces = message.Number() != 0;
        break;
      default:
        break;
    }
  }
}

}  // namespace

ScoredVocab ParseSentencePiece(std::string_view file) {
  ScoredVocab vocab{.kind = "SentencePiece BPE"};
  vocab.remove_extra_whitespaces = true;  // proto2 default
  bool has_trainer = false;
  for (Message message(file); message.Next();) {
    if (message.field() == 1) vocab.pieces.push_back(ParsePiece(message.Bytes(), vocab.pieces.size()));
    if (message.field() == 2) {
      ParseTrainer(message.Bytes(), vocab);
      has_trainer = true;
    }
    if (message.field() == 3) ParseNormalizer(message.Bytes(), vocab);
  }
  if (vocab.pieces.empty()) Fail(ErrorKind::kFormat, "not a SentencePiece model: it has no pieces");
  if (!has_trainer) Fail(ErrorKind::kFormat, "not a SentencePiece model: trainer_spec is missing");
  return vocab;
}

}  // namespace hawser
