#include "hawser/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file_fault.h"
#include "hawser/base/folder.h"
#include "hawser/base/lock.h"

namespace hawser {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.Release()) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// A regular file, open for reading. Pipes, sockets, devices and folders are refused without being opened: that alone
/// may block for ever or set a device going. What takes the file's place in between is found out after opening.
Descriptor OpenRegular(const std::filesystem::path& path) {
  const auto check = [&](int failed, const struct stat& info) {
    if (failed != 0) FailIo(path, "open", errno);
    if (!S_ISREG(info.st_mode)) FailNotRegular(path, info.st_mode);
  };
  struct stat info {};
  check(stat(path.c_str(), &info), info);
  Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) FailIo(path, "open", errno);
  check(fstat(fd.get(), &info), info);
  return fd;
}

/// A read-only map of a file's bytes, a large one at a multiple of the size of a huge page (huge_pages.h). Null: errno
/// says why not.
const std::byte* Map(int fd, size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const auto map = [&](void* at, int flags) { return mmap(at, bytes, PROT_READ, MAP_PRIVATE | flags, fd, 0); };
  void* wide = MAP_FAILED;
  if (bytes >= kHuge)
    wide = mmap(nullptr, bytes + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) {
    void* anywhere = map(nullptr, 0);
    return anywhere == MAP_FAILED ? nullptr : static_cast<const std::byte*>(anywhere);
  }
  const auto begin = reinterpret_cast<uintptr_t>(wide), end = begin + bytes + kHuge;
  const uintptr_t at = (begin + kHuge - 1) / kHuge * kHuge;
  if (map(reinterpret_cast<void*>(at), MAP_FIXED) == MAP_FAILED) {
    const int error = errno;
    munmap(wide, bytes + kHuge);
    errno = error;
    return nullptr;
  }
  if (at > begin) munmap(wide, at - begin);
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t behind = (at + bytes + page - 1) / page * page;
  if (behind < end) munmap(reinterpret_cast<void*>(behind), end - behind);
  return reinterpret_cast<const std::byte*>(at);
}

int64_t StatusKilobytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::strtoll(line.c_str() + key.size(), nullptr, 10);
  }
  return 0;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor fd = OpenRegular(path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) FailIo(path, "stat", errno);
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  data_ = Map(fd.get(), size_);
  if (data_ == nullptr) FailIo(path, "map", errno);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

std::string ReadFile(const std::filesystem::path& path) {
  const MappedFile map(path);
  return {reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size()};
}

void ReadPieces(const std::filesystem::path& path, const std::function<void(std::span<const std::byte>)>& take,
                int64_t begin, int64_t bytes) {
  const Descriptor fd = OpenRegular(path);
  if (lseek(fd.get(), begin, SEEK_SET) < 0) FailIo(path, "read", errno);
  int64_t left = bytes < 0 ? std::numeric_limits<int64_t>::max() : bytes;
  std::vector<std::byte> piece(size_t{1} << 20);
  for (size_t filled = 0;;) {
    const size_t wanted = std::min(piece.size() - filled, static_cast<size_t>(left));
    const ssize_t got = read(fd.get(), piece.data() + filled, wanted);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) FailIo(path, "read", errno);
    filled += static_cast<size_t>(got);
    left -= got;
    if (got > 0 && filled < piece.size()) continue;
    if (filled > 0) take(std::span(piece).first(filled));
    if (got == 0) return;
    filled = 0;
  }
}

void FileWriter::Append(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = disk::Write(fd_, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) Fail(ErrorKind::kIo, "cannot write: {}", std::strerror(errno));
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void WriteFileAtomically(const std::filesystem::path& path, const std::function<void(FileWriter&)>& body) {
  CheckTarget(path);
  RemoveAbandonedOf(path);
  TemporaryFile temporary(path);
  FileWriter writer(temporary.fd());
  WithFrame(path.string(), [&] { body(writer); });
  if (disk::Sync(temporary.fd()) != 0) FailIo(path, "sync", errno);
  if (disk::Rename(temporary.path().c_str(), path.c_str()) != 0) FailIo(path, "rename", errno);
  temporary.Release();
  SyncFolder(ParentFolder(path));
}

void WriteFileAtomically(const std::filesystem::path& path, std::string_view contents) {
  WriteFileAtomically(path, [&](FileWriter& writer) { writer.Append(contents); });
}

AppendFile::AppendFile(const std::filesystem::path& path)
    : path_((CheckTarget(path), path)), fd_(disk::Create(path.c_str(), O_WRONLY | O_APPEND)) {
  if (fd_ < 0) FailIo(path, "open for appending", errno);
}

AppendFile::~AppendFile() { close(fd_); }

void AppendFile::Append(std::string_view piece) {
  WithFrame(path_.string(), [&] { FileWriter(fd_).Append(piece); });
}

void TruncateFile(const std::filesystem::path& path, uint64_t bytes) {
  if (disk::Truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) FailIo(path, "cut off its end", errno);
}

bool IsFile(const std::filesystem::path& path) {
  std::error_code code;
  return std::filesystem::is_regular_file(path, code);
}
bool IsFolder(const std::filesystem::path& path) {
  std::error_code code;
  return std::filesystem::is_directory(path, code);
}
bool Exists(const std::filesystem::path& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

void MakeDirectories(const std::filesystem::path& path) {
  std::error_code code;
  std::filesystem::path folder;
  for (const std::filesystem::path& part : path) {
    folder /= part;
    if (part.empty() || std::filesystem::is_directory(folder, code) || disk::MakeFolder(folder.c_str()) == 0) continue;
    const int error = errno;  // another process may have made it meanwhile
    if (!std::filesystem::is_directory(folder, code)) FailIo(path, "create folder", error);
  }
}

int64_t PeakRssBytes() { return StatusKilobytes("VmHWM:") * 1024; }
int64_t RssBytes() { return StatusKilobytes("VmRSS:") * 1024; }

}  // namespace hawser
