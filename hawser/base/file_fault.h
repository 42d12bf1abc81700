// base/file_fault.h - the system calls that change a disk. All writes pass here, so that tests and people can make any
// one of them go wrong. Without a fault set a call costs one load more than the system call it is.
//
// A fault is KIND@K, for the K-th call (from 1):
//   fail@K   it fails with EIO                       full@K   it and all later ones that take space fail with ENOSPC
//   short@K  it and all later writes put down half   cut@K    it and all later ones do not happen and fail
//   kill@K   the process is killed before it         tear@K   a write puts down half, then the process is killed
//   delay@K  the process stops (SIGSTOP) before it, until someone continues it
// "trace" changes nothing and says on stderr what passes. The environment variable HAWSER_FILE_FAULT sets a fault for
// a process. What cut@K leaves on disk is what kill@K leaves: it lets a test walk every K within one process.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hawser {

/// Sets a fault for this process while alive, in place of that of the environment. One at a time.
class FileFault {
 public:
  /// Errors: kUsage for text that is no fault.
  explicit FileFault(std::string_view text);
  ~FileFault();
  FileFault(const FileFault&) = delete;
  FileFault& operator=(const FileFault&) = delete;

  /// Calls that have passed since the fault was set.
  static int64_t calls();
};

/// As the system calls of these names: -1 and errno where they fail.
namespace disk {

/// Creates the file where it is absent.
int Create(const char* path, int flags);
ssize_t Write(int fd, const void* data, size_t bytes);
int Sync(int fd);
int Truncate(const char* path, off_t bytes);
int Rename(const char* from, const char* to);
/// Swaps two names in one step. EINVAL where the file system cannot.
int Exchange(const char* a, const char* b);
int Link(const char* from, const char* to);
int Unlink(const char* path);
int RemoveFolder(const char* path);
int MakeFolder(const char* path);

}  // namespace disk
}  // namespace hawser
