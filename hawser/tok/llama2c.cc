// The tokenizer file of llama2.c (github.com/karpathy/llama2.c).
#include <cstring>
#include <string>

#include "hawser/base/error.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

constexpr size_t kFirstPiece = 3 + 256;  // after unknown, BOS, EOS and the bytes

template <class T>
T Read(std::string_view file, size_t& at) {
  if (file.size() - at < sizeof(T)) Fail(ErrorKind::kFormat, "ends inside a number at byte {}", at);
  T value;
  std::memcpy(&value, file.data() + at, sizeof(T));
  at += sizeof(T);
  return value;
}

std::string MarkBlanks(std::string_view text) {
  std::string out;
  for (const char c : text) c == ' ' ? out.append("\u2581") : out.append(1, c);
  return out;
}

}  // namespace

ScoredVocab ParseLlama2cTokenizer(std::string_view file) {
  ScoredVocab vocab{.kind = "llama2.c BPE"};
  size_t at = 0;
  const auto longest = Read<int32_t>(file, at);
  while (at < file.size()) {
    const size_t id = vocab.pieces.size();
    const auto score = Read<float>(file, at);
    const auto length = Read<int32_t>(file, at);
    if (length < 0 || length > longest || static_cast<size_t>(length) > file.size() - at) {
      Fail(ErrorKind::kFormat, "piece {} at byte {}: length {}, longest piece is {}, {} bytes are left", id, at, length,
           longest, file.size() - at);
    }
    const std::string_view text = file.substr(at, static_cast<size_t>(length));
    at += static_cast<size_t>(length);
    constexpr const char* kControls[] = {"<unk>", "<s>", "</s>"};
    if (id < 3) {
      vocab.pieces.push_back({kControls[id], score, id == 0 ? PieceType::kUnknown : PieceType::kControl});
    } else if (id < kFirstPiece) {
      vocab.pieces.push_back({fmt::format("<0x{:02X}>", id - 3), score, PieceType::kByte});
    } else {
      vocab.pieces.push_back({MarkBlanks(text), score, PieceType::kNormal});
    }
  }
  if (vocab.pieces.size() < kFirstPiece) {
    Fail(ErrorKind::kFormat, "{} pieces, the {} that every vocabulary starts with are not all there",
         vocab.pieces.size(), kFirstPiece);
  }
  return vocab;
}

}  // namespace hawser
