#include "hawser/train/tensorboard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/folder.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEventsPrefix = "events.out.tfevents.";
constexpr std::string_view kSuffix = ".hawser";
constexpr int64_t kLatest = 9'999'999'999;   // seconds: what the ten digits of a name hold
constexpr size_t kHeader = 12, kFooter = 4;  // length and its crc; crc of the data

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

template <class T>
void Put(std::string* out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}
template <class T>
T Take(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// Protobuf: a field is its number and wire type, then the value: 0 varint, 1 eight bytes, 2 length and bytes, 5 four.
void PutVarint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}
void PutKey(std::string* out, uint32_t field, uint32_t wire) { PutVarint(out, field << 3 | wire); }
void PutInt(std::string* out, uint32_t field, int64_t value) {
  PutKey(out, field, 0);
  PutVarint(out, static_cast<uint64_t>(value));
}
void PutBytes(std::string* out, uint32_t field, std::string_view bytes) {
  PutKey(out, field, 2);
  PutVarint(out, bytes.size());
  out->append(bytes);
}

/// Nothing where the varint does not end within `*data`, which moves on behind it.
std::optional<uint64_t> TakeVarint(std::string_view* data) {
  uint64_t value = 0;
  for (uint32_t shift = 0; shift < 64 && !data->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(data->front());
    data->remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

/// The step of an Event (absent: 0); nothing if it is no protobuf message.
std::optional<int64_t> StepOf(std::string_view event) {
  int64_t step = 0;
  while (!event.empty()) {
    const auto key = TakeVarint(&event);
    if (!key) return std::nullopt;
    size_t skip = 0;
    if ((*key & 7) == 0) {
      const auto value = TakeVarint(&event);
      if (!value) return std::nullopt;
      if (*key >> 3 == 2) step = static_cast<int64_t>(*value);
    } else if ((*key & 7) == 2) {
      const auto size = TakeVarint(&event);
      if (!size || *size > event.size()) return std::nullopt;
      skip = static_cast<size_t>(*size);
    } else if ((*key & 7) == 1 || (*key & 7) == 5) {
      skip = (*key & 7) == 1 ? 8 : 4;
    } else {
      return std::nullopt;
    }
    if (skip > event.size()) return std::nullopt;
    event.remove_prefix(skip);
  }
  return step;
}

std::string Record(std::string_view event) {
  std::string out;
  Put<uint64_t>(&out, event.size());
  Put<uint32_t>(&out, MaskedCrc32c(Bytes(out)));
  out.append(event);
  Put<uint32_t>(&out, MaskedCrc32c(Bytes(event)));
  return out;
}

/// Bytes of the leading records that are whole and of steps up to `step`.
size_t KeptBytes(std::string_view file, int64_t step) {
  size_t kept = 0;
  while (file.size() - kept >= kHeader + kFooter) {
    const std::string_view rest = file.substr(kept);
    const auto size = Take<uint64_t>(rest);
    if (Take<uint32_t>(rest.substr(8)) != MaskedCrc32c(Bytes(rest.substr(0, 8)))) break;
    if (size > rest.size() - kHeader - kFooter) break;
    const std::string_view event = rest.substr(kHeader, static_cast<size_t>(size));
    if (Take<uint32_t>(rest.substr(kHeader + event.size())) != MaskedCrc32c(Bytes(event))) break;
    const auto at = StepOf(event);
    if (!at || *at > step) break;
    kept += kHeader + event.size() + kFooter;
  }
  return kept;
}

/// Our event files in `folder` by the seconds in their names.
std::map<int64_t, fs::path> EventFiles(const fs::path& folder) {
  std::map<int64_t, fs::path> files;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kEventsPrefix) || !name.ends_with(kSuffix) ||
        name.size() <= kEventsPrefix.size() + kSuffix.size()) {
      continue;
    }
    const auto middle =
        std::string_view(name).substr(kEventsPrefix.size(), name.size() - kEventsPrefix.size() - kSuffix.size());
    const auto seconds = ParseNumber<int64_t>(middle);
    if (seconds && *seconds >= 0 && *seconds <= kLatest) files[*seconds] = it->path();
  }
  return files;
}

double Now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string EventHead(int64_t step) {
  std::string event;
  PutKey(&event, 1, 1);
  Put<double>(&event, Now());
  PutInt(&event, 2, step);
  return event;
}

/// The name of a file after all that are there, which are cut behind `step`.
fs::path NewEventFile(const fs::path& folder, int64_t step) {
  auto seconds = static_cast<int64_t>(Now());
  for (const auto& [before, path] : EventFiles(folder)) {
    const std::string text = ReadFile(path);
    const size_t kept = KeptBytes(text, step);
    if (kept == 0) {
      RemoveFile(path);
      continue;
    }
    if (kept < text.size()) TruncateFile(path, kept);  // in place: a reader may have it open
    seconds = std::max(seconds, before + 1);
  }
  return folder / fmt::format("{}{:010}{}", kEventsPrefix, seconds, kSuffix);
}

}  // namespace

uint32_t Crc32c(std::span<const std::byte> bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0u);
      t[i] = crc;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const std::byte byte : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<uint32_t>(byte)) & 0xff];
  return ~crc;
}

uint32_t MaskedCrc32c(std::span<const std::byte> bytes) { return std::rotr(Crc32c(bytes), 15) + 0xa282ead8u; }

TensorBoardLog::TensorBoardLog(const fs::path& folder, int64_t step) : file_(NewEventFile(folder, step)) {
  std::string version = EventHead(0), start = EventHead(step + 1);
  PutBytes(&version, 3, "brain.Event:2");
  PutBytes(&start, 7, "\x08\x01");
  file_.Append(Record(version) + (step > 0 ? Record(start) : ""));
}

void TensorBoardLog::Append(int64_t step, std::span<const std::pair<std::string_view, double>> scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string field;
    PutBytes(&field, 1, tag);
    PutKey(&field, 2, 5);
    Put<float>(&field, static_cast<float>(value));
    PutBytes(&summary, 1, field);
  }
  std::string event = EventHead(step);
  PutBytes(&event, 5, summary);
  file_.Append(Record(event));
}

}  // namespace hawser
