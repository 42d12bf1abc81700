// testing/fault_walk.h - makes every call that changes a disk go wrong in turn (base/file_fault.h).
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file_fault.h"
#include "hawser/testing/test_folder.h"

namespace hawser {

/// An empty folder in memory where the system has one, as walks sync files thousands of times; removed at the end.
class WalkFolder {
 public:
  void Clear() const {
    std::filesystem::remove_all(path());
    std::filesystem::create_directories(path());
  }
  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path() / name; }

 private:
  UniqueFolder folder_{access("/dev/shm", W_OK) == 0 ? "/dev/shm" : TestRoot()};
};

struct FaultWalk {
  int64_t calls = 0;   // of a run without faults: as many were made to go wrong
  int64_t errors = 0;  // runs that ended in an Error
};

/// For k = 1, 2, ... and one beyond the last call: `prepare`, `run` under KIND@k, which may only throw Error(kIo), then
/// `check(threw)`.
inline FaultWalk WalkFaults(const std::string& kind, const std::function<void()>& prepare,
                            const std::function<void()>& run, const std::function<void(bool threw)>& check) {
  FaultWalk walk;
  for (int64_t k = 1; !::testing::Test::HasFailure(); ++k) {
    SCOPED_TRACE(fmt::format("{}@{}", kind, k));
    prepare();
    bool threw = false;
    {
      const FileFault fault(fmt::format("{}@{}", kind, k));
      try {
        run();
      } catch (const Error& error) {
        threw = true;
        EXPECT_EQ(error.kind(), ErrorKind::kIo) << error.what();
      }
      walk.calls = FileFault::calls();
    }
    walk.errors += threw;
    check(threw);
    if (k > walk.calls) break;
  }
  return walk;
}

}  // namespace hawser
