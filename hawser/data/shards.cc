#include "hawser/data/shards.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file_sum.h"
#include "hawser/base/folder.h"
#include "hawser/base/hash.h"
#include "hawser/base/lock.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "shards are mapped as they are written");

constexpr const char* kUnfinished = "tokens.unfinished";
constexpr char kMagic[8] = {'H', 'A', 'W', 'T', 'O', 'K', 'S', '1'};
constexpr char kMagicWeighted[8] = {'H', 'A', 'W', 'T', 'O', 'K', 'S', '2'};
constexpr uint64_t kMany = uint64_t{1} << 48;  // of anything: products below stay far from 2^64
constexpr int64_t kMostShortIds = 1 << 16;

struct Header {
  char magic[8];
  uint32_t width, rest;
  uint64_t documents, tokens, vocab, fingerprint, hash, names_bytes;
};
static_assert(sizeof(Header) == 64);

uint64_t RoundUp(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

template <class T>
T Load(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// Of a header and of what follows the ids; never 0.
uint32_t RestOf(Header header, uint64_t behind_ids) {
  header.rest = 0;
  const uint64_t hash = Hash64(std::as_bytes(std::span(&header, 1)), behind_ids);
  return std::max<uint32_t>(1, static_cast<uint32_t>(hash ^ hash >> 32));
}

template <class T>
std::span<const std::byte> AsBytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::string ShardName(int64_t number) { return fmt::format("{:05}.tokens", number); }

/// Those of the names that a writer gives, from the first on.
void RemoveShards(const fs::path& folder) {
  std::error_code code;
  for (int64_t number = 0; fs::exists(folder / ShardName(number), code); ++number) {
    RemoveFile(folder / ShardName(number));
  }
}

}  // namespace

bool IsUnfinishedShards(const fs::path& folder) {
  std::error_code code;
  return fs::exists(folder / kUnfinished, code);
}

void CheckFinished(const fs::path& folder) {
  if (!IsUnfinishedShards(folder)) return;
  Fail(ErrorKind::kFormat,
       "{}: an unfinished set of .tokens files: hawser tokenize is still writing it, or was stopped; run it again with "
       "this --out",
       folder.string());
}

uint64_t TokenizerFingerprint(const Tokenizer& tokenizer) {
  uint64_t hash = static_cast<uint64_t>(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string text = tokenizer.Display(id);
    hash = Hash64(std::as_bytes(std::span(text)), hash);
  }
  return std::max<uint64_t>(hash, 1);
}

TokenShard::TokenShard(const fs::path& path) : path_(path), file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  const auto refuse = [&](bool wrong, std::string_view what) {
    if (wrong) Fail(ErrorKind::kFormat, "{}: not a whole .tokens file: {}", path.string(), what);
  };
  refuse(bytes.size() < sizeof(Header), "shorter than its header");
  const auto header = Load<Header>(bytes, 0);
  weighted_ = std::memcmp(header.magic, kMagicWeighted, sizeof(kMagic)) == 0;
  refuse(!weighted_ && std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0,
         "it does not begin with HAWTOKS1, or HAWTOKS2 where it has loss weights");
  refuse(header.width != 2 && header.width != 4, fmt::format("ids of {} bytes; wanted 2 or 4", header.width));
  refuse(header.documents == 0 || header.documents > kMany || header.tokens > kMany || header.names_bytes > kMany,
         "impossible sizes in its header");
  refuse(header.vocab == 0 || header.vocab > (uint64_t{1} << 31) ||
             (header.width == 2 && header.vocab > uint64_t{kMostShortIds}),
         fmt::format("a vocabulary of {} ids of {} bytes", header.vocab, header.width));
  weights_at_ = sizeof(Header) + RoundUp(header.tokens * header.width);
  ends_at_ = weights_at_ + (weighted_ ? RoundUp(header.tokens * sizeof(float)) : 0);
  sources_at_ = ends_at_ + header.documents * 8;
  const uint64_t names_at = sources_at_ + header.documents * 4, size = names_at + header.names_bytes;
  refuse(size != bytes.size(), fmt::format("its header wants {} bytes, the file has {}", size, bytes.size()));
  width_ = static_cast<int32_t>(header.width);
  documents_ = static_cast<int64_t>(header.documents);
  tokens_ = static_cast<int64_t>(header.tokens);
  vocab_ = static_cast<int64_t>(header.vocab);
  fingerprint_ = header.fingerprint;
  hash_ = weighted_ ? Hash64(std::as_bytes(std::span(&header.rest, 1)), header.hash) : header.hash;
  WithFrame(fmt::format("{}: names of its sources", path.string()), [&] {
    const nlohmann::json names =
        ParseJson({reinterpret_cast<const char*>(bytes.data()) + names_at, static_cast<size_t>(header.names_bytes)});
    if (!names.is_array()) Fail(ErrorKind::kFormat, "not a list");
    for (const nlohmann::json& name : names) {
      if (!name.is_string()) Fail(ErrorKind::kFormat, "not all are text");
      sources_.push_back(name.get<std::string>());
    }
  });
  uint64_t begin = 0;
  for (int64_t d = 0; d < documents_; ++d) {
    const auto end = Load<uint64_t>(bytes, ends_at_ + static_cast<size_t>(d) * 8);
    refuse(end < begin || end > header.tokens, fmt::format("document {} ends at token {}", d, end));
    refuse(Load<uint32_t>(bytes, sources_at_ + static_cast<size_t>(d) * 4) >= sources_.size(),
           fmt::format("document {} names no source", d));
    begin = end;
  }
  refuse(begin != header.tokens, fmt::format("{} tokens follow the last document", header.tokens - begin));
  const uint64_t ids_bytes = header.tokens * header.width;
  refuse(header.rest != 0 && header.rest != RestOf(header, Hash64(bytes.subspan(sizeof(Header) + ids_bytes))),
         "its header and index do not have their checksum");
  refuse(SumFile(path, sizeof(Header), static_cast<int64_t>(ids_bytes)).hash != header.hash,
         "its token ids do not have their checksum");
}

int64_t TokenShard::End(int64_t document) const {
  return static_cast<int64_t>(Load<uint64_t>(file_.bytes(), ends_at_ + static_cast<size_t>(document) * 8));
}

int32_t TokenShard::source(int64_t document) const {
  return static_cast<int32_t>(Load<uint32_t>(file_.bytes(), sources_at_ + static_cast<size_t>(document) * 4));
}

std::vector<int32_t> TokenShard::Read(int64_t document) const {
  const int64_t begin = Begin(document);
  std::vector<int32_t> ids(static_cast<size_t>(length(document)));
  const std::byte* from = file_.bytes().data() + sizeof(Header) + static_cast<size_t>(begin) * width_;
  for (size_t i = 0; i < ids.size(); ++i) {
    uint32_t id = 0;
    std::memcpy(&id, from + i * static_cast<size_t>(width_), static_cast<size_t>(width_));
    if (id >= static_cast<uint64_t>(vocab_)) {
      Fail(ErrorKind::kFormat, "{}: document {}: token {} has id {}, the vocabulary has ids 0 to {}", path_.string(),
           document, i, id, vocab_ - 1);
    }
    ids[i] = static_cast<int32_t>(id);
  }
  return ids;
}

std::vector<float> TokenShard::Weights(int64_t document) const {
  if (!weighted_) return {};
  std::vector<float> weights(static_cast<size_t>(length(document)));
  const std::byte* from = file_.bytes().data() + weights_at_ + static_cast<size_t>(Begin(document)) * sizeof(float);
  if (!weights.empty()) std::memcpy(weights.data(), from, weights.size() * sizeof(float));
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= 0 && std::isfinite(weights[i])) continue;
    Fail(ErrorKind::kFormat, "{}: document {}: token {} has the loss weight {}; wanted a finite one from 0 up",
         path_.string(), document, i, weights[i]);
  }
  return weights;
}

ShardWriter::ShardWriter(fs::path folder, const Tokenizer& tokenizer, int64_t shard_tokens)
    : folder_(std::move(folder)),
      vocab_(tokenizer.vocab_size()),
      shard_tokens_(shard_tokens),
      fingerprint_(TokenizerFingerprint(tokenizer)) {
  MakeDirectories(folder_);
  RemoveAbandoned(folder_);
  if (IsUnfinishedShards(folder_)) RemoveShards(folder_);
  WriteFileAtomically(folder_ / kUnfinished, "hawser tokenize is writing .tokens files here, or was stopped.\n");
}

void ShardWriter::Add(const std::string& source, const std::vector<int32_t>& tokens,
                      const std::vector<float>& weights) {
  HAWSER_CHECK(weights.empty() || weights.size() == tokens.size());
  const auto [found, is_new] = source_numbers_.try_emplace(source, static_cast<uint32_t>(sources_.size()));
  if (is_new) sources_.push_back(source);
  document_sources_.push_back(found->second);
  if (!weights.empty() || !weights_.empty()) {
    weights_.resize(ids_.size(), 1.0f);
    weights_.insert(weights_.end(), weights.begin(), weights.end());
    weights_.resize(ids_.size() + tokens.size(), 1.0f);
  }
  ids_.insert(ids_.end(), tokens.begin(), tokens.end());
  ends_.push_back(ids_.size());
  ++documents_;
  tokens_ += static_cast<int64_t>(tokens.size());
  if (static_cast<int64_t>(ids_.size()) >= shard_tokens_) Write();
}

void ShardWriter::Finish() {
  if (!ends_.empty()) Write();
  RemoveFile(folder_ / kUnfinished);
  SyncFolder(folder_);
}

void ShardWriter::Write() {
  const fs::path path = folder_ / ShardName(static_cast<int64_t>(files_.size()));
  const bool narrow = vocab_ <= kMostShortIds;
  std::vector<uint16_t> short_ids;
  if (narrow) short_ids.assign(ids_.begin(), ids_.end());
  const std::span<const std::byte> ids = narrow ? AsBytes(short_ids) : AsBytes(ids_);
  const std::string names = JsonText(nlohmann::json(sources_));
  Header header{.width = narrow ? 2u : 4u,
                .documents = ends_.size(),
                .tokens = ids_.size(),
                .vocab = static_cast<uint64_t>(vocab_),
                .fingerprint = fingerprint_,
                .hash = Hash64(ids),
                .names_bytes = names.size()};
  std::memcpy(header.magic, weights_.empty() ? kMagic : kMagicWeighted, sizeof(kMagic));
  std::string tail(RoundUp(ids.size()) - ids.size(), '\0');
  const size_t weights_bytes = weights_.size() * sizeof(float);
  tail.append(reinterpret_cast<const char*>(weights_.data()), weights_bytes);
  tail.append(RoundUp(weights_bytes) - weights_bytes, '\0');
  tail.append(reinterpret_cast<const char*>(ends_.data()), ends_.size() * 8);
  tail.append(reinterpret_cast<const char*>(document_sources_.data()), document_sources_.size() * 4);
  tail += names;
  header.rest = RestOf(header, Hash64(std::as_bytes(std::span(tail))));
  WriteFileAtomically(path, [&](FileWriter& out) {
    out.Append(&header, sizeof(header));
    out.Append(ids.data(), ids.size());
    out.Append(tail);
  });
  files_.push_back(path);
  ids_.clear();
  weights_.clear();
  ends_.clear();
  document_sources_.clear();
  sources_.clear();
  source_numbers_.clear();
}

}  // namespace hawser
