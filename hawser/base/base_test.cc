#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>
#include <set>
#include <span>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/base/dtype.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/hash.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/base/text.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

// Opening a pipe waits for the other end, reading a device need not end: both are refused unopened.
TEST(FileTest, RefusesWhatIsNoRegularFile) {
  const std::filesystem::path folder = FreshFolder("kinds");
  const auto refused = [](const std::filesystem::path& path, std::string_view what) {
    for (const auto& read :
         std::initializer_list<std::function<void()>>{[&] { MappedFile file(path); }, [&] { ReadFile(path); },
                                                      [&] { ReadPieces(path, [](std::span<const std::byte>) {}); }}) {
      try {
        read();
        ADD_FAILURE() << path << " was read";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kIo);
        EXPECT_NE(std::string_view(error.what()).find(what), std::string_view::npos) << error.what();
      }
    }
  };
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0644), 0);
  std::filesystem::create_symlink("pipe", folder / "link");
  refused(folder / "pipe", "a pipe");
  refused(folder / "link", "a pipe");
  refused(folder, "a folder");
  refused("/dev/zero", "a device");
  refused(folder / "absent", "No such file");
}

TEST(FileTest, ReadsInPiecesWhatItReadsWhole) {
  const std::filesystem::path path = FreshFolder("pieces") / "file";
  std::string text(size_t{3} << 20, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{1} << 20, text.size() - 3}) {
    WriteFileAtomically(path, std::string_view(text).substr(0, size));
    std::string pieces;
    ReadPieces(path, [&](std::span<const std::byte> piece) {
      EXPECT_EQ(pieces.size() % (1 << 20), 0u);
      pieces.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    });
    EXPECT_EQ(pieces, ReadFile(path));
    EXPECT_EQ(pieces.size(), size);
  }
}

TEST(DTypeTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(ToF32(ToBF16(1.0f)), 1.0f);
  EXPECT_EQ(ToF32(ToBF16(257.0f)), 256.0f);  // a tie goes to the even neighbour
  EXPECT_EQ(ToF32(ToBF16(259.0f)), 260.0f);
  EXPECT_EQ(ToF32(ToBF16(257.5f)), 258.0f);
  EXPECT_TRUE(std::isinf(ToF32(ToBF16(INFINITY))));
  EXPECT_TRUE(std::isnan(ToF32(ToBF16(NAN))));
  EXPECT_EQ(std::signbit(ToF32(ToBF16(-0.0f))), true);
  Rng rng{1};
  for (int i = 0; i < 10000; ++i) {
    const auto x = static_cast<float>(rng.Normal() * 100);
    EXPECT_LE(std::abs(ToF32(ToBF16(x)) - x), std::abs(x) * 0x1p-8f);
  }
}

TEST(DTypeTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(x))));
    } else {
      EXPECT_EQ(F32ToF16(x), bits);
    }
  }
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);            // overflow to infinity
  EXPECT_EQ(F32ToF16(2049.0f), F32ToF16(2048.0f));  // tie to even
  EXPECT_EQ(F16ToF32(F32ToF16(1e-9f)), 0.0f);       // underflow
  EXPECT_EQ(F16ToF32(1), std::ldexp(1.0f, -24));    // the least subnormal
}

TEST(DTypeTest, NamesParseBack) {
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kF64, DType::kI32, DType::kI64, DType::kU8}) {
    EXPECT_EQ(ParseDType(Name(dtype)), dtype);
  }
  EXPECT_THROW(ParseDType("f8"), Error);
}

TEST(RngTest, CountersResumeAndStreamsDiffer) {
  Rng a{7, 3};
  std::vector<uint64_t> values;
  for (int i = 0; i < 100; ++i) values.push_back(a.Bits());
  Rng resumed{7, 3, 40};
  for (int i = 40; i < 100; ++i) EXPECT_EQ(resumed.Bits(), values[i]);
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t stream = 0; stream < 10; ++stream) {
      for (uint64_t counter = 0; counter < 100; ++counter) seen.insert(RandomBits(seed, stream, counter));
    }
  }
  EXPECT_EQ(seen.size(), 10000u);
}

TEST(RngTest, MomentsOfUniformAndNormal) {
  Rng rng{42};
  const int n = 200000;
  double mean = 0, square = 0, uniform = 0;
  std::vector<int> bins(10);
  for (int i = 0; i < n; ++i) {
    const double x = rng.Normal(), u = rng.Uniform();
    mean += x / n;
    square += x * x / n;
    uniform += u / n;
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[rng.Below(10)];
  }
  EXPECT_NEAR(mean, 0, 0.01);
  EXPECT_NEAR(square, 1, 0.02);
  EXPECT_NEAR(uniform, 0.5, 0.005);
  for (int count : bins) EXPECT_NEAR(count, n / 10, n / 200);
}

TEST(BufferTest, AlignedAndZero) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{5} << 20}) {
    Buffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    for (size_t i = 0; i < bytes; i += 997) EXPECT_EQ(buffer.as<uint8_t>()[i], 0);
  }
  Matrix m(3, 5, DType::kBF16);
  EXPECT_EQ(m.view().Rows(1, 2).Cols(2, 3).Row<bf16>(1), m.Row<bf16>(2) + 2);
}

TEST(FileTest, AtomicWriteReplacesOnlyWhenWhole) {
  const std::filesystem::path folder = FreshFolder("atomic");
  const std::filesystem::path path = folder / "a.bin";
  WriteFileAtomically(path, "old");
  EXPECT_THROW(WriteFileAtomically(path,
                                   [](FileWriter& writer) {
                                     writer.Append("half");
                                     Fail(ErrorKind::kFormat, "stop");
                                   }),
               Error);
  EXPECT_EQ(ReadFile(path), "old");
  WriteFileAtomically(path, "new");
  EXPECT_EQ(ReadFile(path), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);  // no temporary file is left
}

TEST(FileTest, AFullDiskLeavesTheOldFile) {
  const std::filesystem::path path = FreshFolder("full") / "a.bin";
  WriteFileAtomically(path, "old");
  rlimit kept{};
  getrlimit(RLIMIT_FSIZE, &kept);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = kept;
  small.rlim_cur = 1000;
  setrlimit(RLIMIT_FSIZE, &small);
  try {
    WriteFileAtomically(path, std::string(100000, 'x'));
    ADD_FAILURE() << "the write went through";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_NE(std::strstr(error.what(), "a.bin"), nullptr) << error.what();
  }
  setrlimit(RLIMIT_FSIZE, &kept);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(ReadFile(path), "old");
}

TEST(FileTest, ErrorsNameThePath) {
  for (const char* path : {"/nowhere/at/all", "/"}) {
    try {
      ReadFile(path);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIo);
      EXPECT_EQ(ExitCode(error.kind()), 3);
      EXPECT_NE(std::strstr(error.what(), path), nullptr);
    }
  }
  EXPECT_THROW(WriteFileAtomically("/nowhere/at/all", "x"), Error);
}

TEST(ParallelTest, ThrowsTheFirstExceptionOfAPieceAfterTheJoin) {
  for (const int threads : {1, 2, 5}) {
    SetThreads(threads);
    std::atomic<int> running = 0;
    const auto run = [&](int64_t bad) {
      ParallelFor(100, [&](int64_t i) {
        ++running;
        if (i == bad || bad < 0) {
          --running;
          if (i % 2 == 1) throw std::bad_alloc();
          Fail(ErrorKind::kNumeric, "piece {}", i);
        }
        --running;
      });
    };
    for (const int64_t bad : {0, 42, 98}) {
      try {
        run(bad);
        ADD_FAILURE() << "piece " << bad << " threw, the loop did not";
      } catch (const Error& error) {
        EXPECT_EQ(error.what(), fmt::format("piece {}", bad));
      }
      EXPECT_EQ(running, 0);
    }
    EXPECT_THROW(run(99), std::bad_alloc);
    EXPECT_ANY_THROW(run(-1));  // all of them throw
    EXPECT_NO_THROW(run(100));  // and the next loop is not disturbed
    int64_t sum = 0;
    EXPECT_THROW(ParallelChunks(10, 3,
                                [&](int64_t begin, int64_t) {
                                  if (begin == 9) throw std::bad_alloc();
                                }),
                 std::bad_alloc);
    ParallelFor(1, [&](int64_t i) { sum += i + 1; });
    EXPECT_EQ(sum, 1);
  }
  SetThreads(0);
}

TEST(TextTest, UnknownNamesBringUpKnownOnes) {
  EXPECT_EQ(SuggestName("widow", {"window", "sinks"}), "; did you mean 'window'? (known: window, sinks)");
  EXPECT_EQ(SuggestName("zzzz", {"window", "sinks"}), "; known: window, sinks");
  const std::initializer_list<std::string_view> many = {"a", "b", "c", "d", "e", "f", "g", "h", "window"};
  EXPECT_EQ(SuggestName("windows", many), "; did you mean 'window'? (nearest: window, d, a)");
  EXPECT_EQ(SuggestName("zz", many), "; nearest: a, b, c");
}

TEST(ParallelTest, EveryPieceOnceForAnyThreadCount) {
  for (const int threads : {1, 2, 5}) {
    SetThreads(threads);
    std::vector<int> hits(1003);
    ParallelChunks(1003, 10, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++hits[i];
    });
    EXPECT_EQ(hits, std::vector<int>(1003, 1));
  }
  SetThreads(0);
}

TEST(ErrorTest, FramesAndExitCodes) {
  try {
    WithFrame("load x", [] { Fail(ErrorKind::kFormat, "tensor {} is bad", 3); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "load x: tensor 3 is bad");
  }
  try {  // who reads a file and who takes its text name it once
    WithFrame("x.json", [] { Fail(ErrorKind::kIo, "{}: cannot open", "x.json"); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "x.json: cannot open");
  }
  EXPECT_EQ(ExitCode(ErrorKind::kUsage), 2);
  EXPECT_EQ(ExitCode(ErrorKind::kUnsupported), 4);
  EXPECT_EQ(ExitCode(ErrorKind::kNumeric), 5);
  EXPECT_EQ(ExitCode(ErrorKind::kInternal), 1);
}

TEST(SplitAt, KeepsEmptyPieces) {
  using Pieces = std::vector<std::string_view>;
  EXPECT_EQ(SplitAt("a+bc", '+'), (Pieces{"a", "bc"}));
  EXPECT_EQ(SplitAt("+a++", '+'), (Pieces{"", "a", "", ""}));
  EXPECT_EQ(SplitAt("", '+'), Pieces{""});
}

TEST(GlobMatch, StarsAndQuestionMarks) {
  for (const char* glob : {"abc", "*", "a*", "*c", "a*c", "*b*", "a?c", "???", "**abc**", "*?c", "abc*"}) {
    EXPECT_TRUE(GlobMatch(glob, "abc")) << glob;
  }
  for (const char* glob : {"", "ab", "abcd", "*d*", "a?", "????", "b*", "*b", "ABC", "[a]bc"}) {
    EXPECT_FALSE(GlobMatch(glob, "abc")) << glob;
  }
  EXPECT_TRUE(GlobMatch("", ""));
  EXPECT_TRUE(GlobMatch("*", ""));
  EXPECT_FALSE(GlobMatch("?", ""));
  EXPECT_TRUE(GlobMatch("*.q_proj.*", "model.layers.0.self_attn.q_proj.weight"));
  EXPECT_TRUE(GlobMatch("*aab", "aaaaaab"));
  EXPECT_FALSE(GlobMatch("*a*a*a*a*a*a*a*a*b", std::string(200, 'a')));
}

TEST(Hash64, PiecesGiveTheHashOfTheWhole) {
  std::vector<std::byte> bytes(1003);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37);
  const std::span<const std::byte> whole(bytes);
  for (const size_t cut : {0, 8, 512, 1000}) {
    Hasher64 hasher(5);
    hasher.Add(whole.first(cut));
    hasher.Add(whole.subspan(cut));
    EXPECT_EQ(hasher.Finish(), Hash64(whole, 5)) << cut;
  }
  EXPECT_NE(Hash64(whole.first(1002)), Hash64(whole));
  EXPECT_NE(Hash64(whole.first(8)), Hash64(whole.first(8), 1));
  // A word of zeros and none: their number tells them apart.
  const std::vector<std::byte> zeros(8);
  EXPECT_NE(Hash64(zeros), Hash64({}));
}

}  // namespace
}  // namespace hawser
