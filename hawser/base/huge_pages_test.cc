#include "hawser/base/huge_pages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

#include "hawser/base/file.h"
#include "hawser/base/rng.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::string RandomText(size_t bytes) {
  std::string text(bytes, '\0');
  Rng rng{7};
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    const uint64_t bits = rng.Bits();
    std::memcpy(text.data() + i, &bits, 8);
  }
  return text;
}

/// What /proc says of the memory at `address`: the line of its map.
std::string MapAt(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && begin <= at && at < end) return line;
  }
  return "";
}

class HugePagesTest : public ::testing::Test {
 protected:
  void Write(size_t bytes) {
    text_ = RandomText(bytes);
    path_ = FreshPath("huge_pages");
    WriteFileAtomically(path_, text_);
  }
  bool Same(const MappedFile& map) const {
    return map.bytes().size() == text_.size() && std::memcmp(map.bytes().data(), text_.data(), text_.size()) == 0;
  }

  std::string text_;
  std::filesystem::path path_;
};

TEST_F(HugePagesTest, WhoReadsMeanwhileReadsTheSame) {
  Write(20 * kHugePage + 12345);
  const MappedFile map(path_);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(map.bytes().data()) % kHugePage, 0u);
  HugePages pages({map.bytes()});
  std::atomic<bool> done = false;
  int64_t other = 0;
  std::thread reader([&] {
    do {
      other += !Same(map);
    } while (!done);
  });
  const int64_t moved = pages.Wait();
  done = true;
  reader.join();
  EXPECT_EQ(other, 0);
  EXPECT_TRUE(Same(map));
  const std::string name = path_.filename().string();
  if (moved == 0) GTEST_SKIP() << "no huge pages here";
  // A machine may run out of them on the way.
  EXPECT_EQ(moved % static_cast<int64_t>(kHugePage), 0);
  EXPECT_LE(moved, 20 * static_cast<int64_t>(kHugePage));
  EXPECT_EQ(MapAt(map.bytes().data()).find(name), std::string::npos);
  EXPECT_NE(MapAt(&map.bytes().back()).find(name), std::string::npos) << "the part of a page at the end stays";
}

TEST_F(HugePagesTest, MayEndBeforeAllIsMoved) {
  Write(16 * kHugePage);
  const MappedFile map(path_);
  { const HugePages pages({map.bytes()}); }
  EXPECT_TRUE(Same(map));
}

TEST_F(HugePagesTest, MovesPartsAndLeavesTheRest) {
  Write(24 * kHugePage);
  const MappedFile map(path_);
  HugePages pages({map.bytes().subspan(kHugePage + 1, 10 * kHugePage), map.bytes().subspan(12 * kHugePage)});
  const int64_t moved = pages.Wait();
  EXPECT_TRUE(Same(map));
  EXPECT_LE(moved, 21 * static_cast<int64_t>(kHugePage));  // 9 whole ones of the first, 12 of the second
  EXPECT_NE(MapAt(map.bytes().data() + kHugePage).find(path_.filename().string()), std::string::npos);
}

TEST_F(HugePagesTest, LittleStaysWhereItIs) {
  Write(3 * kHugePage);
  const MappedFile map(path_);
  HugePages pages({map.bytes()});
  EXPECT_EQ(pages.Wait(), 0);
  EXPECT_EQ(HugePages({}).Wait(), 0);
}

}  // namespace
}  // namespace hawser
