// zoo/gguf_keys.h - the keys of a GGUF file about its network: one list of them reads and writes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/io/gguf.h"
#include "hawser/io/gguf_writer.h"

namespace hawser {

/// Passed over a spec, it fills the spec from a file, or fields from the spec. Names stand behind "ARCHITECTURE.".
/// A key that is absent gives `fallback`; without one it is required. Errors: kFormat naming the key.
class GgufKeys {
 public:
  GgufKeys(std::string_view architecture, const GgufFile* read) : architecture_(architecture), in_(read) {}
  GgufKeys(std::string_view architecture, std::vector<GgufField>* written)
      : architecture_(architecture), out_(written) {}

  bool reading() const { return in_ != nullptr; }
  const GgufFile& file() const { return *in_; }  // when reading
  /// "llama.block_count"; known from here on.
  std::string Key(std::string_view name);

  void Int(std::string_view name, int32_t* value, std::optional<int64_t> fallback = {}, int64_t least = 1);
  void Int(std::string_view name, int64_t* value, std::optional<int64_t> fallback = {}, int64_t least = 1);
  /// Written unless it is `neutral`.
  void Number(std::string_view name, float* value, std::optional<float> fallback = {},
              std::optional<float> neutral = {});
  void Flag(std::string_view name, bool* value);
  template <class T>
  void Put(std::string_view name, T value) {  // when writing
    out_->push_back({Key(name), std::move(value)});
  }
  /// A field whose name is whole already.
  template <class T>
  void PutField(std::string_view key, T value) {
    out_->push_back({std::string(key), std::move(value)});
  }

  /// Errors: kUnsupported for a key of the architecture that nothing asked for: it may change what is computed.
  void RefuseUnknown() const;

 private:
  std::string_view architecture_;
  const GgufFile* in_ = nullptr;
  std::vector<GgufField>* out_ = nullptr;
  std::vector<std::string> known_;
};

}  // namespace hawser
