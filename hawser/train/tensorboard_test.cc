#include "hawser/train/tensorboard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

uint32_t Crc(std::string_view text) { return Crc32c(std::as_bytes(std::span(text))); }

TEST(Crc32c, KnownValues) {
  // RFC 3720, B.4, and the check value of the catalogue of CRCs.
  EXPECT_EQ(Crc("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc(""), 0u);
}

struct Scalar {
  int64_t step;
  std::string tag;
  float value;
  bool operator==(const Scalar&) const = default;
};

/// A reader apart from the writer: every byte of a file must be accounted for.
class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {
    while (at_ < bytes_.size()) ReadRecord();
  }
  std::vector<Scalar> scalars;
  int versions = 0;
  std::vector<int64_t> starts;

 private:
  static uint64_t Little(std::string_view b, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; ++i) v |= uint64_t{static_cast<uint8_t>(b.at(i))} << (8 * i);
    return v;
  }
  static void ExpectMasked(std::string_view data, std::string_view stored) {
    const uint32_t unrotated = static_cast<uint32_t>(Little(stored, 4)) - 0xa282ead8u;
    EXPECT_EQ(unrotated << 15 | unrotated >> 17, Crc(data));
  }
  static uint64_t Varint(std::string_view& b) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(b.at(0));
      b.remove_prefix(1);
      v |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 128) return v;
    }
  }
  /// visit(field number, wire type, value as number or bytes)
  template <class Visit>
  static void Fields(std::string_view b, Visit&& visit) {
    while (!b.empty()) {
      const uint64_t key = Varint(b);
      const uint64_t wire = key & 7;
      uint64_t number = 0;
      std::string_view bytes;
      if (wire == 0) {
        number = Varint(b);
      } else {
        const size_t size = wire == 1 ? 8 : wire == 5 ? 4 : Varint(b);
        ASSERT_LE(size, b.size());
        bytes = b.substr(0, size);
        b.remove_prefix(size);
      }
      visit(key >> 3, number, bytes);
    }
  }
  void ReadRecord() {
    const std::string_view rest = std::string_view(bytes_).substr(at_);
    const uint64_t size = Little(rest, 8);
    ASSERT_LE(size + 16, rest.size());
    ExpectMasked(rest.substr(0, 8), rest.substr(8));
    const std::string_view event = rest.substr(12, size);
    ExpectMasked(event, rest.substr(12 + size));
    at_ += size + 16;
    int64_t step = 0;
    double wall = 0;
    Fields(event, [&](uint64_t field, uint64_t number, std::string_view bytes) {
      if (field == 1) std::memcpy(&wall, bytes.data(), 8);
      if (field == 2) step = static_cast<int64_t>(number);
      if (field == 3) versions += bytes == "brain.Event:2";
      if (field == 7) starts.push_back(step);
      if (field != 5) return;
      Fields(bytes, [&](uint64_t, uint64_t, std::string_view value) {
        Scalar scalar{.step = step};
        Fields(value, [&](uint64_t part, uint64_t, std::string_view b) {
          if (part == 1) scalar.tag = b;
          if (part == 2) std::memcpy(&scalar.value, b.data(), 4);
        });
        scalars.push_back(scalar);
      });
    });
    EXPECT_GT(wall, 1.6e9);  // seconds since 1970
  }
  std::string bytes_;
  size_t at_ = 0;
};

class TensorBoardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    MakeDirectories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<fs::path> Files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename().string().find("tfevents") != std::string::npos) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  /// Writes steps (after, to] and leaves.
  void Write(int64_t after, int64_t to) {
    TensorBoardLog log(folder_, after);
    for (int64_t step = after + 1; step <= to; ++step) {
      const std::pair<std::string_view, double> scalars[] = {{"loss", 0.5 * static_cast<double>(step)}, {"lr", 1e-3}};
      log.Append(step, scalars);
    }
  }
  std::vector<int64_t> LossSteps() const {
    std::vector<int64_t> steps;
    for (const fs::path& file : Files()) {
      for (const Scalar& scalar : Reader(ReadFile(file)).scalars) {
        if (scalar.tag == "loss") steps.push_back(scalar.step);
      }
    }
    return steps;
  }
  fs::path folder_ = FreshPath("tensorboard");
};

TEST_F(TensorBoardTest, ComesBackRecordByRecord) {
  Write(0, 300);
  ASSERT_EQ(Files().size(), 1u);
  const Reader reader(ReadFile(Files()[0]));
  EXPECT_EQ(reader.versions, 1);
  EXPECT_TRUE(reader.starts.empty());
  ASSERT_EQ(reader.scalars.size(), 600u);
  EXPECT_EQ(reader.scalars[598], (Scalar{300, "loss", 150.0f}));
  EXPECT_EQ(reader.scalars[599], (Scalar{300, "lr", 1e-3f}));
}

TEST_F(TensorBoardTest, ResumeLeavesEveryStepOnceAndInOrder) {
  const std::vector<int64_t> want = {1, 2, 3, 4, 5, 6, 7};
  Write(0, 6);
  Write(4, 5);  // killed again at once, before a checkpoint
  Write(4, 7);
  EXPECT_EQ(Files().size(), 3u);
  EXPECT_EQ(LossSteps(), want);
  EXPECT_EQ(Reader(ReadFile(Files()[2])).starts, std::vector<int64_t>{5});
  Write(7, 7);
  EXPECT_EQ(LossSteps(), want);
  Write(0, 7);  // no checkpoint was left
  EXPECT_EQ(LossSteps(), want);
}

// What is not of our writing stays as it is, and its name cannot push ours beyond all numbers.
TEST_F(TensorBoardTest, FilesOfImpossibleTimesAreNotOurs) {
  for (const char* name : {"9223372036854775807", "9223372036854775806", "10000000000", "18446744073709551616", "-1"}) {
    std::ofstream(folder_ / fmt::format("events.out.tfevents.{}.hawser", name)) << "theirs";
  }
  Write(0, 3);
  int theirs = 0;
  for (const fs::path& path : Files()) theirs += ReadFile(path) == "theirs" ? 1 : 0;
  EXPECT_EQ(theirs, 5);
  EXPECT_EQ(Files().size(), 6u);
}

TEST_F(TensorBoardTest, BrokenEndsAreCutOff) {
  Write(0, 2);
  const std::string whole = ReadFile(Files()[0]);
  for (size_t size = 0; size <= whole.size(); ++size) {
    fs::remove_all(folder_);
    MakeDirectories(folder_);
    std::ofstream(folder_ / "events.out.tfevents.0000000007.hawser", std::ios::binary) << whole.substr(0, size);
    Write(100, 101);
    const std::vector<int64_t> steps = LossSteps();  // fails by itself on a byte left over
    ASSERT_FALSE(steps.empty());
    EXPECT_EQ(steps.back(), 101);
    for (size_t i = 0; i + 1 < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
  }
  // Flipped bits too, and what is not ours stays as it is.
  for (size_t at = 0; at < whole.size(); ++at) {
    fs::remove_all(folder_);
    MakeDirectories(folder_);
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 1 << at % 8);
    std::ofstream(folder_ / "events.out.tfevents.0000000007.hawser", std::ios::binary) << bad;
    TensorBoardLog(folder_, 3);
    const fs::path file = folder_ / "events.out.tfevents.0000000007.hawser";
    if (fs::exists(file)) Reader(ReadFile(file));  // one without a whole record at its begin is removed
  }
  std::ofstream(folder_ / "events.out.tfevents.1.other", std::ios::binary) << "theirs";
  TensorBoardLog(folder_, 0);
  EXPECT_EQ(ReadFile(folder_ / "events.out.tfevents.1.other"), "theirs");
  EXPECT_THROW(TensorBoardLog(folder_ / "none", 0), Error);
}

}  // namespace
}  // namespace hawser
