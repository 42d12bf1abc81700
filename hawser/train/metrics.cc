#include "hawser/train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/base/file.h"

namespace hawser {
namespace {

/// The leading lines of `text` that are whole objects of steps up to `step`.
std::string_view KeepLines(std::string_view text, int64_t step) {
  size_t kept = 0;
  for (size_t end; (end = text.find('\n', kept)) != text.npos; kept = end + 1) {
    const auto line = nlohmann::json::parse(text.substr(kept, end - kept), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) break;
    if (line["step"].get<int64_t>() > step) break;
  }
  return text.substr(0, kept);
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t step) : path_(path) {
  if (std::filesystem::exists(path)) {
    const std::string text = ReadFile(path);
    const std::string_view kept = KeepLines(text, step);
    if (kept.size() != text.size()) WriteFileAtomically(path, kept);
  }
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) Fail(ErrorKind::kIo, "{}: cannot open for appending: {}", path.string(), std::strerror(errno));
}

MetricsLog::~MetricsLog() { close(fd_); }

void MetricsLog::Append(const nlohmann::json& line) {
  WithFrame(path_.string(), [&] { FileWriter(fd_).Append(line.dump() + "\n"); });
}

}  // namespace hawser
