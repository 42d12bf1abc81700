#include "hawser/io/digest.h"

#include <fmt/format.h>

#include "hawser/base/error.h"

#ifdef HAWSER_CURL
#include <openssl/evp.h>
#endif

namespace hawser {

#ifndef HAWSER_CURL

struct Digest::Impl {};
Digest::Digest(Kind) { Fail(ErrorKind::kUnsupported, "this hawser was built without OpenSSL"); }
Digest::~Digest() = default;
void Digest::Add(std::string_view) {}
std::string Digest::Hex() { return ""; }

#else

struct Digest::Impl {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

Digest::Digest(Kind kind) : impl_(std::make_unique<Impl>()) {
  HAWSER_CHECK(EVP_DigestInit_ex(impl_->context.get(), kind == Kind::kSha1 ? EVP_sha1() : EVP_sha256(), nullptr) == 1);
}
Digest::~Digest() = default;

void Digest::Add(std::string_view bytes) {
  HAWSER_CHECK(EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size()) == 1);
}

std::string Digest::Hex() {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HAWSER_CHECK(EVP_DigestFinal_ex(impl_->context.get(), bytes, &size) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", bytes[i]);
  return hex;
}

#endif

std::string Sha256(std::string_view text) {
  Digest digest(Digest::Kind::kSha256);
  digest.Add(text);
  return digest.Hex();
}

}  // namespace hawser
