// io/digest.h - SHA-1 and SHA-256 of streams of bytes, by OpenSSL.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace hawser {

class Digest {
 public:
  enum class Kind { kSha1, kSha256 };

  /// Errors: kUnsupported where the build has no OpenSSL.
  explicit Digest(Kind kind);
  ~Digest();

  void Add(std::string_view bytes);
  /// In lower-case hexadecimal; nothing can be added behind it.
  std::string Hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Of one text. Errors: as Digest.
std::string Sha256(std::string_view text);

}  // namespace hawser
