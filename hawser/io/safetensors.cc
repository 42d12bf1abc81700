#include "hawser/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <tuple>

#include "hawser/base/error.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

static_assert(std::endian::native == std::endian::little, "stored tensors are used in place");

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxStTensors = 1'000'000;
constexpr size_t kMaxStRank = 8;
constexpr size_t kMaxStName = 1024;
constexpr size_t kDataAlign = 64;

constexpr std::array<std::pair<DType, std::string_view>, 7> kDTypes = {{{DType::kF32, "F32"},
                                                                        {DType::kBF16, "BF16"},
                                                                        {DType::kF16, "F16"},
                                                                        {DType::kF64, "F64"},
                                                                        {DType::kI32, "I32"},
                                                                        {DType::kI64, "I64"},
                                                                        {DType::kU8, "U8"}}};

DType ParseStoredDType(const std::string& text) {
  for (const auto& [dtype, name] : kDTypes) {
    if (name == text) return dtype;
  }
  if (text == "BOOL") return DType::kU8;  // masks that old files store; a byte each
  Fail(ErrorKind::kUnsupported, "dtype '{}' is not supported; known are F32, BF16, F16, F64, I32, I64, U8", text);
}

std::string_view StoredName(DType dtype) {
  return std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& row) { return row.first == dtype; })->second;
}

/// Non-negative integers of a JSON array member.
std::vector<int64_t> Integers(const JsonObject& object, const char* key, size_t max_count) {
  const nlohmann::json* value = object.Find(key);
  std::vector<int64_t> result;
  bool good = value != nullptr && value->is_array() && value->size() <= max_count;
  for (size_t i = 0; good && i < value->size(); ++i) {
    const nlohmann::json& element = (*value)[i];
    good = element.is_number_unsigned() && element.get<uint64_t>() <= INT64_MAX;
    if (good) result.push_back(element.get<int64_t>());
  }
  if (!good) Fail(ErrorKind::kFormat, "'{}' must be an array of at most {} integers >= 0", key, max_count);
  return result;
}

struct ByteRange {
  int64_t begin, end;
  std::string name;
  auto Key() const { return std::tie(begin, end); }
};

/// One header member; the view has no bytes yet.
std::pair<TensorView, ByteRange> ParseEntry(const std::string& name, const nlohmann::json& entry) {
  if (name.size() > kMaxStName) Fail(ErrorKind::kFormat, "tensor name longer than {} bytes", kMaxStName);
  const JsonObject object(entry, "its entry");
  TensorView view;
  view.dtype = ParseStoredDType(object.String("dtype"));
  view.shape = Integers(object, "shape", kMaxStRank);
  const std::vector<int64_t> offsets = Integers(object, "data_offsets", 2);
  const std::optional<int64_t> bytes = TensorBytes(view.shape, view.dtype);
  if (!bytes) Fail(ErrorKind::kFormat, "shape {} has too many elements", ShapeText(view.shape));
  if (offsets.size() != 2 || offsets[1] < offsets[0] || offsets[1] - offsets[0] != *bytes) {
    Fail(ErrorKind::kFormat, "shape {} as {} needs {} bytes, data_offsets are {}", ShapeText(view.shape),
         Name(view.dtype), *bytes, ShapeText(offsets));
  }
  return {std::move(view), ByteRange{offsets[0], offsets[1], name}};
}

/// The ranges tile [0, size).
void CheckTiling(std::vector<ByteRange> ranges, int64_t size) {
  std::sort(ranges.begin(), ranges.end(), [](const ByteRange& a, const ByteRange& b) { return a.Key() < b.Key(); });
  int64_t at = 0;
  for (const ByteRange& range : ranges) {
    if (range.begin != at) {
      Fail(ErrorKind::kFormat, "tensor '{}' begins at byte {} of the data, {} the tensor before it, which ends at {}",
           range.name, range.begin, range.begin < at ? "inside" : "with a gap after", at);
    }
    at = range.end;
  }
  if (at != size) {
    Fail(ErrorKind::kFormat, "the tensors need {} bytes of data, the file holds {}{}", at, size,
         size < at ? " (truncated)" : "");
  }
}

TensorSource ParseSafetensors(MappedFile mapped) {
  TensorSource source;
  const std::span<const std::byte> file = source.Hold(std::move(mapped));
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    Fail(ErrorKind::kFormat, "a safetensors file has at least 8 bytes, this one {}", file.size());
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeader || length > file.size() - sizeof(length)) {
    Fail(ErrorKind::kFormat, "header of {} bytes wanted, the file has {} (truncated or no safetensors file)", length,
         file.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  if (!text.starts_with('{')) Fail(ErrorKind::kFormat, "the header must begin with '{{'");
  const std::span<const std::byte> data = file.subspan(sizeof(length) + length);

  const nlohmann::json header = WithFrame("header", [&] { return ParseJson(text, 4); });
  if (header.size() > kMaxStTensors) Fail(ErrorKind::kFormat, "more than {} tensors", kMaxStTensors);
  std::vector<ByteRange> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      const JsonObject object(entry, name);
      for (const auto& item : entry.items()) source.metadata[item.key()] = object.String(item.key().c_str());
      continue;
    }
    WithFrame(fmt::format("tensor '{}'", name), [&, &name = name, &entry = entry] {
      auto [view, range] = ParseEntry(name, entry);
      // Out of range is reported by CheckTiling, before anybody sees the view.
      if (range.end <= static_cast<int64_t>(data.size())) {
        view.bytes = data.subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin));
      }
      source.Add(name, std::move(view));
      ranges.push_back(std::move(range));
    });
  }
  CheckTiling(std::move(ranges), static_cast<int64_t>(data.size()));
  return source;
}

/// Only a plain file name: an index must not reach outside its folder.
void CheckShardName(const std::string& shard) {
  if (shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || !shard.ends_with(".safetensors")) {
    Fail(ErrorKind::kFormat, "shard '{}' must be a file name without folders, ending in .safetensors", shard);
  }
}

}  // namespace

TensorSource ReadSafetensors(const std::filesystem::path& path) {
  MappedFile file(path);
  return WithFrame(path.string(), [&] { return ParseSafetensors(std::move(file)); });
}

TensorSource ReadShardedSafetensors(const std::filesystem::path& index) {
  const std::string text = ReadFile(index);
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  WithFrame(index.string(), [&] {
    const nlohmann::json json = ParseJson(text);
    const nlohmann::json* map = JsonObject(json, "the index").Find("weight_map");
    if (map == nullptr) Fail(ErrorKind::kFormat, "the index lacks 'weight_map'");
    const JsonObject object(*map, "weight_map");
    for (const auto& item : map->items()) {
      const std::string shard = object.String(item.key().c_str());
      CheckShardName(shard);
      shard_of[item.key()] = shard;
      shards.insert(shard);
    }
  });
  TensorSource source;
  for (const std::string& shard : shards) {
    const std::filesystem::path path = index.parent_path() / shard;
    TensorSource part = ReadSafetensors(path);
    WithFrame(path.string(), [&] {
      source.Merge(std::move(part), [&](const std::string& name) {
        const auto listed = shard_of.find(name);
        if (listed != shard_of.end() && listed->second != shard) {
          Fail(ErrorKind::kFormat, "tensor '{}' belongs in {} by the index", name, listed->second);
        }
        return true;
      });
    });
  }
  for (const auto& [name, shard] : shard_of) {
    if (source.Find(name) == nullptr) {
      Fail(ErrorKind::kFormat, "{}: tensor '{}' is not in its shard {}", index.string(), name, shard);
    }
  }
  return source;
}

void WriteSafetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                      std::map<std::string, std::string> metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return SizeOf(a.dtype) != SizeOf(b.dtype) ? SizeOf(a.dtype) > SizeOf(b.dtype) : a.name < b.name;
  });
  metadata["format"] = "pt";
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  int64_t at = 0;
  for (const TensorToWrite& tensor : tensors) {
    HAWSER_CHECK(!header.contains(tensor.name));
    const int64_t end = at + StoredBytes(tensor);
    header[tensor.name] = {
        {"dtype", StoredName(tensor.dtype)}, {"shape", tensor.view.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = JsonText(header);
  text.append((kDataAlign - (sizeof(uint64_t) + text.size()) % kDataAlign) % kDataAlign, ' ');
  WriteFileAtomically(path, [&](FileWriter& writer) {
    const uint64_t length = text.size();
    writer.Append(&length, sizeof(length));
    writer.Append(text);
    for (const TensorToWrite& tensor : tensors) AppendTensor(writer, tensor);
  });
}

}  // namespace hawser
