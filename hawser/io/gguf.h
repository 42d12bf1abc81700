// io/gguf.h - GGUF v2 and v3 (github.com/ggml-org/ggml docs/gguf.md): typed metadata and tensors of plain or blocked
// types in one mapped file, or in the parts name-00001-of-0000N.gguf.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "hawser/io/tensor_source.h"

namespace hawser {

/// A value of the metadata. Texts point into the file. Integers of every width are int64; f32 and f64 are double.
using GgufValue = std::variant<int64_t, double, bool, std::string_view, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string_view>>;

/// Metadata by key. Movable; what it lends lives as long as it does.
class GgufFile {
 public:
  using Metadata = std::map<std::string, GgufValue, std::less<>>;
  GgufFile() = default;
  GgufFile(Metadata metadata, TensorSource source) : tensors(std::move(source)), metadata_(std::move(metadata)) {}

  const Metadata& metadata() const { return metadata_; }
  bool Has(std::string_view key) const { return metadata_.contains(key); }

  /// Values of one type; an absent key gives nothing. Errors: kFormat naming the key for another type, and for a number
  /// outside [least, most].
  std::optional<int64_t> Int(std::string_view key, int64_t least = 0, int64_t most = INT64_MAX) const;
  std::optional<double> Number(std::string_view key) const;  // an integer too; finite
  std::optional<bool> Bool(std::string_view key) const;
  std::optional<std::string_view> Text(std::string_view key) const;
  std::span<const std::string_view> Texts(std::string_view key) const;  // empty where absent
  std::span<const int64_t> Ints(std::string_view key) const;
  std::span<const double> Numbers(std::string_view key) const;
  /// Error(kFormat) "'key' is missing" for the forms above.
  template <class T>
  T Need(std::string_view key, std::optional<T> value) const {
    if (!value) Missing(key);
    return *value;
  }

  TensorSource tensors;  // shapes as elsewhere: the fastest dimension last

 private:
  friend class GgufReader;
  [[noreturn]] static void Missing(std::string_view key);
  template <class T>
  const T* Find(std::string_view key, const char* wanted) const;

  Metadata metadata_;
};

/// Reads and checks header, metadata and the places of all tensors, whose bytes stay in the file; of a split model, all
/// parts by the name of the first. Errors: kIo; kFormat (not GGUF, truncated, counts or sizes beyond the file, twice
/// the same key or tensor, ranges that overlap or are not aligned, bool other than 0 or 1, text that is not UTF-8);
/// kUnsupported (byte order, version, nested arrays, a tensor type, naming the tensor).
GgufFile ReadGguf(const std::filesystem::path& path);

}  // namespace hawser
