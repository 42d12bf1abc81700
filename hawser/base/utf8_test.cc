#include "hawser/base/utf8.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdint>
#include <string>

namespace hawser {
namespace {

/// The same by the library that normalizes text.
bool DecodesAsUtf8(const std::string& text) {
  const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t value = -1;
    const utf8proc_ssize_t n = utf8proc_iterate(at + i, static_cast<utf8proc_ssize_t>(text.size() - i), &value);
    if (n <= 0) return false;
    i += static_cast<size_t>(n);
  }
  return true;
}

TEST(Utf8Test, EveryStartOfFourBytes) {
  // The bytes at which the rules change, and their neighbours.
  const unsigned char bytes[] = {0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf,
                                 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
  for (const unsigned char a : bytes) {
    for (const unsigned char b : bytes) {
      for (const unsigned char c : bytes) {
        for (const unsigned char d : bytes) {
          std::string text;
          for (const unsigned char byte : {a, b, c, d}) text += static_cast<char>(byte);
          for (size_t size = 1; size <= 4; ++size) {
            const std::string part = text.substr(0, size);
            ASSERT_EQ(IsUtf8(part), DecodesAsUtf8(part)) << int{a} << " " << int{b} << " " << int{c} << " " << int{d};
          }
        }
      }
    }
  }
  EXPECT_TRUE(IsUtf8(""));
}

TEST(Utf8Test, BytesStandInUtf8) {
  EXPECT_EQ(TextOfBytes("/a b/caf\u00e9.txt"), "/a b/caf\u00e9.txt");
  EXPECT_EQ(TextOfBytes("/a b/caf\xe9"), "file:///a%20b/caf%E9");
  EXPECT_EQ(TextOfBytes("caf\xe9"), "file:caf%E9");
  for (const char* bytes : {"", "plain", "/a b/\xff%41", "\xe9", "file:x", "file:///x%20y", "\u00e9"}) {
    EXPECT_TRUE(IsUtf8(TextOfBytes(bytes)));
    EXPECT_EQ(BytesOfText(TextOfBytes(bytes)), bytes);
  }
}

}  // namespace
}  // namespace hawser
