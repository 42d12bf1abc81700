#include "hawser/base/utf8.h"

#include <charconv>
#include <cstdint>

#include <fmt/format.h>

namespace hawser {
namespace {

constexpr std::string_view kUri = "file:";

}  // namespace

bool IsUtf8(std::string_view text) {
  const auto* at = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = at + text.size();
  while (at < end) {
    const unsigned lead = *at++;
    if (lead < 0x80) continue;
    const int more = lead >= 0xC2 && lead < 0xE0   ? 1
                     : lead >= 0xE0 && lead < 0xF0 ? 2
                     : lead >= 0xF0 && lead < 0xF5 ? 3
                                                   : 0;
    if (more == 0 || end - at < more) return false;
    const unsigned first = *at;
    if ((lead == 0xE0 && first < 0xA0) || (lead == 0xED && first > 0x9F) || (lead == 0xF0 && first < 0x90) ||
        (lead == 0xF4 && first > 0x8F)) {
      return false;
    }
    for (int i = 0; i < more; ++i) {
      if ((*at++ & 0xC0) != 0x80) return false;
    }
  }
  return true;
}

std::string TextOfBytes(std::string_view bytes) {
  if (IsUtf8(bytes) && !bytes.starts_with(kUri)) return std::string(bytes);
  std::string uri = bytes.starts_with('/') ? "file://" : "file:";
  for (const char c : bytes) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       std::string_view("/-._~").find(c) != std::string_view::npos;
    uri += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return uri;
}

std::string BytesOfText(std::string_view text) {
  if (!text.starts_with(kUri)) return std::string(text);
  const std::string_view uri = text.substr(text.starts_with("file:///") ? 7 : kUri.size());
  std::string bytes;
  for (size_t i = 0; i < uri.size(); ++i) {
    uint8_t byte = 0;
    const char* hex = uri.data() + i + 1;
    if (uri[i] == '%' && i + 2 < uri.size() && std::from_chars(hex, hex + 2, byte, 16).ptr == hex + 2) {
      bytes += static_cast<char>(byte);
      i += 2;
    } else {
      bytes += uri[i];
    }
  }
  return bytes;
}

}  // namespace hawser
