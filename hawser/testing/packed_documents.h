// testing/packed_documents.h - documents whose tokens say where they come from, and sequences of them.
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/data/packer.h"

namespace hawser::packer_test {

using Ids = std::vector<int32_t>;
using Positions = std::vector<int64_t>;
using Weights = std::vector<float>;

inline constexpr int32_t kBos = 1, kEos = 2, kAnchor = 3, kTag = 50, kText = 100, kStride = 2000;

inline const AttnPattern kIntra{.scope = Scope::kDocument};
inline const AttnPattern kAnchored{.scope = Scope::kDocument, .anchors = 1};

// Every token of text says where it comes from.
inline int32_t Token(int64_t document, int64_t offset) {
  return static_cast<int32_t>(kText + document * kStride + offset);
}
inline int64_t DocumentOf(int32_t id) { return id >= kText ? (id - kText) / kStride : -1; }
inline int64_t OffsetOf(int32_t id) { return (id - kText) % kStride; }

inline Document MakeDocument(int64_t id, int32_t length, int32_t tag = 0) {
  Document d{.id = id};
  for (int32_t t = 0; t < length; ++t) d.tokens.push_back(Token(id, t));
  for (int32_t t = 0; t < tag; ++t) d.tag.push_back(kTag + t);
  return d;
}

inline std::vector<PackedSequence> Pack(const PackOptions& options, const std::vector<Document>& documents,
                                        PackCounts* counts = nullptr, uint64_t seed = 7) {
  Packer packer(options, seed);
  std::vector<PackedSequence> out;
  PackedSequence sequence;
  for (const Document& document : documents) {
    packer.Add(document);
    while (packer.Next(&sequence)) out.push_back(sequence);
  }
  packer.Finish();
  while (packer.Next(&sequence)) out.push_back(sequence);
  if (counts != nullptr) *counts = packer.counts();
  return out;
}

inline const std::vector<Document> kThree = {MakeDocument(0, 3), MakeDocument(1, 2), MakeDocument(2, 4)};

}  // namespace hawser::packer_test
