// testing/hostile.h - files for tests: a fresh folder (test_folder.h), errors checked for kind and words, and every way
// to cut a file short or flip a bit of it.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/testing/test_folder.h"

namespace hawser {

inline void WriteBytes(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::remove(path);  // some file systems sync a file that is truncated and written again
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// The message of the Error(kUsage) that `body` throws.
inline std::string UsageMessage(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

/// `body` throws an Error of this kind whose message holds all of `words`.
inline void ExpectError(ErrorKind kind, std::initializer_list<std::string_view> words,
                        const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(ExitCode(error.kind()), ExitCode(kind)) << error.what();
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string_view word : words) {
      EXPECT_NE(std::string_view(error.what()).find(word), std::string_view::npos)
          << "'" << word << "' is not in: " << error.what();
    }
    return;
  }
  ADD_FAILURE() << "no error; wanted one that says " << (words.size() ? *words.begin() : "something");
}

/// `body` returns, or throws an Error about its input; true if it returned.
inline bool EndsWell(const std::function<void()>& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kUnsupported ||
                error.kind() == ErrorKind::kIo)
        << error.what();
    return false;
  }
}

/// Every proper prefix of `bytes`, in `path`, must be refused by `read`.
inline void ExpectTruncationsFail(const std::filesystem::path& path, const std::string& bytes,
                                  const std::function<void()>& read) {
  for (size_t size = 0; size < bytes.size(); ++size) {
    WriteBytes(path, std::string_view(bytes).substr(0, size));
    EXPECT_FALSE(EndsWell(read)) << "cut to " << size << " of " << bytes.size() << " bytes";
  }
}

/// Every bit of the first `header` bytes flipped must end in an Error or a good read, never in a crash. Returns how
/// many reads failed.
inline int FlipBits(const std::filesystem::path& path, const std::string& bytes, size_t header,
                    const std::function<void()>& read) {
  int failed = 0;
  for (size_t bit = 0; bit < 8 * std::min(header, bytes.size()); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    WriteBytes(path, flipped);
    failed += EndsWell(read) ? 0 : 1;
  }
  return failed;
}

/// Runs `body` while no file of this process can grow beyond `bytes`, as on a full disk.
inline void WithFileLimit(size_t bytes, const std::function<void()>& body) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = bytes;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  try {
    body();
  } catch (...) {
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    throw;
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
}

}  // namespace hawser
