#include "hawser/io/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/utf8.h"
#include "hawser/io/gguf_types.h"
#include "hawser/io/gguf_writer.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxKeys = 1'000'000;
constexpr uint64_t kMaxKey = 65535;
constexpr uint64_t kMaxName = 1024;
constexpr uint32_t kMaxRank = 4;
constexpr int64_t kMaxAlignment = 1 << 20;

constexpr std::array<uint32_t, 13> kSizes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};  // the least bytes of a value

/// Types that are known by name and not read.
constexpr std::array<std::pair<uint32_t, std::string_view>, 19> kOtherTypes = {{{9, "Q8_1"},
                                                                                {15, "Q8_K"},
                                                                                {16, "IQ2_XXS"},
                                                                                {17, "IQ2_XS"},
                                                                                {18, "IQ3_XXS"},
                                                                                {19, "IQ1_S"},
                                                                                {20, "IQ4_NL"},
                                                                                {21, "IQ3_S"},
                                                                                {22, "IQ2_S"},
                                                                                {23, "IQ4_XS"},
                                                                                {24, "I8"},
                                                                                {25, "I16"},
                                                                                {29, "IQ1_M"},
                                                                                {34, "TQ1_0"},
                                                                                {35, "TQ2_0"},
                                                                                {39, "MXFP4"},
                                                                                {40, "NVFP4"},
                                                                                {41, "Q1_0"},
                                                                                {42, "Q2_0"}}};

DType TensorType(uint32_t number) {
  for (const auto& [plain, dtype] : kGgufPlainTypes) {
    if (plain == number) return dtype;
  }
  std::string known = "F32, F16, BF16, F64, I32, I64";
  for (const BlockType* type : BlockTypes()) {
    if (type->gguf == number) return type->dtype;
    fmt::format_to(std::back_inserter(known), ", {}", type->name);
  }
  for (const auto& [other, name] : kOtherTypes) {
    if (other == number) Fail(ErrorKind::kUnsupported, "type {} is not supported; known are {}", name, known);
  }
  Fail(ErrorKind::kUnsupported, "type number {} is not known; known are {}", number, known);
}

}  // namespace

uint32_t GgufType(DType dtype) {
  for (const auto& [number, plain] : kGgufPlainTypes) {
    if (plain == dtype) return number;
  }
  const BlockType* type = FindBlockType(dtype);
  if (type == nullptr) Fail(ErrorKind::kUnsupported, "GGUF files hold no tensors of type {}", Name(dtype));
  return type->gguf;
}

/// Steps through the bytes of a file; nothing is read beyond its end.
class GgufCursor {
 public:
  explicit GgufCursor(std::span<const std::byte> file) : file_(file) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return file_.size() - at_; }

  template <class T>
  T Read(std::string_view what) {
    T value;
    std::memcpy(&value, Take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string_view Text(uint64_t most, std::string_view what) {
    const auto length = Read<uint64_t>(what);
    if (length > most) Fail(ErrorKind::kFormat, "{}: a text of {} bytes; at most {} are allowed", what, length, most);
    const auto* begin = reinterpret_cast<const char*>(Take(length, what));
    const std::string_view text(begin, length);
    if (!IsUtf8(text)) Fail(ErrorKind::kFormat, "{}: text that is not UTF-8", what);
    return text;
  }

 private:
  const std::byte* Take(uint64_t bytes, std::string_view what) {
    if (bytes > left()) {
      Fail(ErrorKind::kFormat, "{}: {} bytes wanted at byte {}, {} are left (truncated?)", what, bytes, at_, left());
    }
    const std::byte* place = file_.data() + at_;
    at_ += bytes;
    return place;
  }

  std::span<const std::byte> file_;
  uint64_t at_ = 0;
};

namespace {

struct Range {
  uint64_t begin, end;
  std::string_view name;
};

void CheckOverlap(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) {
      Fail(ErrorKind::kFormat, "tensors '{}' and '{}' overlap at byte {} of the data", ranges[i - 1].name,
           ranges[i].name, ranges[i].begin);
    }
  }
}

}  // namespace

/// Reads one file into a GgufFile.
class GgufReader {
 public:
  GgufReader(std::span<const std::byte> file, GgufFile* to) : file_(file), cursor_(file), to_(to) {}

  void Run() {
    if (file_.size() < kMagic.size() || std::memcmp(file_.data(), kMagic.data(), kMagic.size()) != 0) {
      Fail(ErrorKind::kFormat, "not a GGUF file: it does not begin with '{}'", kMagic);
    }
    cursor_.Read<uint32_t>("magic");
    const auto version = cursor_.Read<uint32_t>("version");
    if ((version & 0xFFFF) == 0 && version != 0) {
      Fail(ErrorKind::kUnsupported, "the file has the byte order of big-endian machines; only little-endian is read");
    }
    if (version != 2 && version != 3) {
      Fail(ErrorKind::kUnsupported, "GGUF version {} is not supported; known are 2 and 3", version);
    }
    const auto tensors = cursor_.Read<uint64_t>("number of tensors");
    const auto keys = cursor_.Read<uint64_t>("number of keys");
    if (tensors > kMaxTensors) Fail(ErrorKind::kFormat, "{} tensors; at most {} are allowed", tensors, kMaxTensors);
    if (keys > kMaxKeys) Fail(ErrorKind::kFormat, "{} keys; at most {} are allowed", keys, kMaxKeys);
    for (uint64_t i = 0; i < keys; ++i) ReadKey();
    ReadTensors(tensors);
  }

 private:
  void ReadKey() {
    const std::string_view key = cursor_.Text(kMaxKey, "a key");
    WithFrame(fmt::format("'{}'", key), [&] {
      const auto type = cursor_.Read<uint32_t>("type");
      GgufValue value = type == kGgufArray ? ReadArray() : ReadScalar(type);
      if (!to_->metadata_.emplace(key, std::move(value)).second) Fail(ErrorKind::kFormat, "the key is stored twice");
    });
  }

  int64_t ReadInt(uint32_t type) {
    switch (type) {
      case kGgufU8:
        return cursor_.Read<uint8_t>("value");
      case kGgufI8:
        return cursor_.Read<int8_t>("value");
      case kGgufU16:
        return cursor_.Read<uint16_t>("value");
      case kGgufI16:
        return cursor_.Read<int16_t>("value");
      case kGgufU32:
        return cursor_.Read<uint32_t>("value");
      case kGgufI32:
        return cursor_.Read<int32_t>("value");
      case kGgufI64:
        return cursor_.Read<int64_t>("value");
      default:  // U64; what is greater than any size stays so, for those who ask for the key
        return static_cast<int64_t>(std::min<uint64_t>(cursor_.Read<uint64_t>("value"), INT64_MAX));
    }
  }

  bool ReadBool() {
    const auto value = cursor_.Read<uint8_t>("value");
    if (value > 1) Fail(ErrorKind::kFormat, "a bool is 0 or 1, found {}", value);
    return value == 1;
  }

  GgufValue ReadScalar(uint32_t type) {
    if (type == kGgufF32) return static_cast<double>(cursor_.Read<float>("value"));
    if (type == kGgufF64) return cursor_.Read<double>("value");
    if (type == kGgufBool) return ReadBool();
    if (type == kGgufText) return cursor_.Text(UINT64_MAX, "value");
    if (type > kGgufF64) Fail(ErrorKind::kFormat, "value type {} is not known", type);
    return ReadInt(type);
  }

  GgufValue ReadArray() {
    const auto type = cursor_.Read<uint32_t>("type of the elements");
    const auto count = cursor_.Read<uint64_t>("number of elements");
    if (type == kGgufArray) Fail(ErrorKind::kUnsupported, "arrays in arrays are not supported");
    if (type > kGgufF64) Fail(ErrorKind::kFormat, "value type {} is not known", type);
    if (count > cursor_.left() / kSizes[type]) {
      Fail(ErrorKind::kFormat, "{} elements wanted, {} bytes are left", count, cursor_.left());
    }
    const auto fill = [&](auto list, auto read) -> GgufValue {
      list.reserve(count);
      for (uint64_t i = 0; i < count; ++i) list.push_back(read());
      return list;
    };
    if (type == kGgufText)
      return fill(std::vector<std::string_view>(), [&] { return cursor_.Text(UINT64_MAX, "element"); });
    if (type == kGgufF32) return fill(std::vector<double>(), [&] { return cursor_.Read<float>("element"); });
    if (type == kGgufF64) return fill(std::vector<double>(), [&] { return cursor_.Read<double>("element"); });
    if (type == kGgufBool) return fill(std::vector<int64_t>(), [&] { return int64_t{ReadBool()}; });
    return fill(std::vector<int64_t>(), [&] { return ReadInt(type); });
  }

  void ReadTensors(uint64_t count) {
    const int64_t alignment = to_->Int("general.alignment", 1, kMaxAlignment).value_or(kGgufAlignment);
    if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
      Fail(ErrorKind::kFormat, "'general.alignment' must be a power of two from 8, found {}", alignment);
    }
    struct Entry {
      std::string_view name;
      TensorView view;
      uint64_t offset, bytes;
    };
    std::vector<Entry> entries;
    for (uint64_t i = 0; i < count; ++i) {
      Entry entry;
      entry.name = cursor_.Text(kMaxName, "a tensor's name");
      WithFrame(fmt::format("tensor '{}'", entry.name), [&] {
        entry.view = ReadShape();
        entry.offset = cursor_.Read<uint64_t>("offset");
        entry.bytes = static_cast<uint64_t>(TensorBytes(entry.view.shape, entry.view.dtype).value());
        if (entry.offset % static_cast<uint64_t>(alignment) != 0) {
          Fail(ErrorKind::kFormat, "offset {} is no multiple of the alignment {}", entry.offset, alignment);
        }
      });
      entries.push_back(std::move(entry));
    }
    const uint64_t data = (cursor_.at() + static_cast<uint64_t>(alignment) - 1) / static_cast<uint64_t>(alignment) *
                          static_cast<uint64_t>(alignment);
    std::vector<Range> ranges;
    for (Entry& entry : entries) {
      const uint64_t room = file_.size() > data ? file_.size() - data : 0;
      if (entry.offset > room || entry.bytes > room - entry.offset) {
        Fail(ErrorKind::kFormat, "tensor '{}': bytes {} to {} of the data wanted, the file holds {} (truncated?)",
             entry.name, entry.offset, entry.offset + entry.bytes, room);
      }
      entry.view.bytes = file_.subspan(data + entry.offset, entry.bytes);
      if (entry.bytes > 0) ranges.push_back({entry.offset, entry.offset + entry.bytes, entry.name});
      to_->tensors.Add(std::string(entry.name), std::move(entry.view));
    }
    CheckOverlap(std::move(ranges));
  }

  TensorView ReadShape() {
    TensorView view;
    const auto rank = cursor_.Read<uint32_t>("number of dimensions");
    if (rank > kMaxRank) Fail(ErrorKind::kFormat, "{} dimensions; at most {} are allowed", rank, kMaxRank);
    for (uint32_t d = 0; d < rank; ++d) {
      const auto size = cursor_.Read<uint64_t>("dimension");
      if (size > INT64_MAX) Fail(ErrorKind::kFormat, "a dimension of {} is too large", size);
      view.shape.push_back(static_cast<int64_t>(size));
    }
    std::reverse(view.shape.begin(), view.shape.end());
    view.dtype = TensorType(cursor_.Read<uint32_t>("type"));
    if (!TensorBytes(view.shape, view.dtype)) {
      Fail(ErrorKind::kFormat, "shape {} is too large, or its rows are no whole blocks of {}", ShapeText(view.shape),
           Name(view.dtype));
    }
    return view;
  }

  std::span<const std::byte> file_;
  GgufCursor cursor_;
  GgufFile* to_;
};

void GgufFile::Missing(std::string_view key) { Fail(ErrorKind::kFormat, "'{}' is missing", key); }

template <class T>
const T* GgufFile::Find(std::string_view key, const char* wanted) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) Fail(ErrorKind::kFormat, "'{}' must be {}", key, wanted);
  return value;
}

std::optional<int64_t> GgufFile::Int(std::string_view key, int64_t least, int64_t most) const {
  const auto* value = Find<int64_t>(key, "an integer");
  if (value == nullptr) return std::nullopt;
  if (*value < least || *value > most) {
    Fail(ErrorKind::kFormat, "'{}' must be from {} to {}, found {}", key, least, most, *value);
  }
  return *value;
}

std::optional<double> GgufFile::Number(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found != metadata_.end() && std::holds_alternative<int64_t>(found->second)) {
    return static_cast<double>(std::get<int64_t>(found->second));
  }
  const auto* value = Find<double>(key, "a number");
  if (value == nullptr) return std::nullopt;
  if (!std::isfinite(*value)) Fail(ErrorKind::kFormat, "'{}' must be finite, found {}", key, *value);
  return *value;
}

std::optional<bool> GgufFile::Bool(std::string_view key) const {
  const auto* value = Find<bool>(key, "a bool");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<std::string_view> GgufFile::Text(std::string_view key) const {
  const auto* value = Find<std::string_view>(key, "a text");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::span<const std::string_view> GgufFile::Texts(std::string_view key) const {
  const auto* value = Find<std::vector<std::string_view>>(key, "a list of texts");
  return value == nullptr ? std::span<const std::string_view>() : *value;
}

std::span<const int64_t> GgufFile::Ints(std::string_view key) const {
  const auto* value = Find<std::vector<int64_t>>(key, "a list of integers");
  return value == nullptr ? std::span<const int64_t>() : *value;
}

std::span<const double> GgufFile::Numbers(std::string_view key) const {
  const auto* value = Find<std::vector<double>>(key, "a list of numbers");
  return value == nullptr ? std::span<const double>() : *value;
}

namespace {

GgufFile ReadPart(const std::filesystem::path& path) {
  GgufFile file;
  MappedFile mapped(path);
  const std::span<const std::byte> bytes = file.tensors.Hold(std::move(mapped));
  WithFrame(path.string(), [&] { GgufReader(bytes, &file).Run(); });
  return file;
}

/// name-00001-of-0000N.gguf, for part `number` from 1.
std::filesystem::path PartPath(const std::filesystem::path& first, int64_t number, int64_t count) {
  const std::string name = first.filename().string(), ending = fmt::format("-00001-of-{:05}.gguf", count);
  if (!name.ends_with(ending)) {
    Fail(ErrorKind::kFormat, "{}: the first of {} parts must be named NAME{}", first.string(), count, ending);
  }
  const std::string stem = name.substr(0, name.size() - ending.size());
  return first.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", stem, number, count);
}

}  // namespace

GgufFile ReadGguf(const std::filesystem::path& path) {
  constexpr int64_t kMaxParts = 99999;
  GgufFile file = ReadPart(path);
  const int64_t count = WithFrame(path.string(), [&] { return file.Int("split.count", 0, kMaxParts).value_or(1); });
  if (count <= 1) return file;
  if (file.Int("split.no").value_or(0) != 0) {
    Fail(ErrorKind::kUsage, "{}: a later part of {}; pass the first one", path.string(), count);
  }
  for (int64_t number = 2; number <= count; ++number) {
    const std::filesystem::path part = PartPath(path, number, count);
    WithFrame(part.string(),
              [&] { file.tensors.Merge(ReadPart(part).tensors, [](const std::string&) { return true; }); });
  }
  return file;
}

}  // namespace hawser
