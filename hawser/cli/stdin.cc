#include "hawser/cli/stdin.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"

namespace hawser {

bool StdinHoldsText() {
  struct stat info {};
  if (fstat(STDIN_FILENO, &info) != 0) return false;
  return S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode) || S_ISREG(info.st_mode);
}

std::string ReadStdin(std::string_view what) {
  constexpr size_t kMost = size_t{256} << 20;
  struct pollfd ready {
    .fd = STDIN_FILENO, .events = POLLIN, .revents = 0
  };
  if (poll(&ready, 1, 1000) == 0) LogLine(fmt::format("reading {} from standard input", what));
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t got = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) Fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > kMost) Fail(ErrorKind::kUsage, "stdin: more than {} MiB of {}; cut it", kMost >> 20, what);
  }
}

std::string ReadStdinLine(std::string_view what) {
  std::string text = ReadStdin(what);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

}  // namespace hawser
