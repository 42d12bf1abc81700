// base/file.h - whole-file reads, read-only maps, and writes that appear under their final name only when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace hawser {

/// Read-only map of a file. Errors: kIo naming the path, also for what is no regular file (a pipe, a device, a folder).
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// The whole file. Errors: as MappedFile.
std::string ReadFile(const std::filesystem::path& path);

/// `bytes` bytes of a file (-1: all there are) from byte `begin` on, or as many as there are, piece by piece: for files
/// too large to stand in memory. All pieces but the last are of 1 MiB. Errors: as MappedFile.
void ReadPieces(const std::filesystem::path& path, const std::function<void(std::span<const std::byte>)>& take,
                int64_t begin = 0, int64_t bytes = -1);

/// Sequential writer handed to WriteFileAtomically's body. Append throws kIo (no space left, ...).
class FileWriter {
 public:
  explicit FileWriter(int fd) : fd_(fd) {}
  void Append(const void* data, size_t bytes);
  void Append(std::string_view text) { Append(text.data(), text.size()); }

 private:
  int fd_;
};

/// Writes `path` by way of a temporary name in the same folder (lock.h): body, fsync, rename, fsync of the folder. If
/// anything fails the temporary file is removed, `path` is what it was before, and an Error(kIo) names it. What killed
/// processes left of the same `path` is removed. The mode is that of the umask.
void WriteFileAtomically(const std::filesystem::path& path, const std::function<void(FileWriter&)>& body);
void WriteFileAtomically(const std::filesystem::path& path, std::string_view contents);

/// A file that grows by whole pieces. After a kill all pieces but the last are there; that one may be cut.
class AppendFile {
 public:
  /// Opens `path`, made where it is absent. Errors: kIo naming it.
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// One write where the disk allows it. Errors: kIo naming the path.
  void Append(std::string_view piece);

 private:
  std::filesystem::path path_;
  int fd_;
};

/// Cuts a file off behind its first `bytes`, in place. Errors: kIo naming the path.
void TruncateFile(const std::filesystem::path& path, uint64_t bytes);

/// Creates the folder and its parents. Errors: kIo naming the path.
void MakeDirectories(const std::filesystem::path& path);

/// Whether there is a regular file, or a folder, or anything: false also where that cannot be seen.
bool IsFile(const std::filesystem::path& path);
bool IsFolder(const std::filesystem::path& path);
bool Exists(const std::filesystem::path& path);

/// Peak resident set of this process so far, and the present one, in bytes (0 where the system does not tell).
int64_t PeakRssBytes();
int64_t RssBytes();

}  // namespace hawser
