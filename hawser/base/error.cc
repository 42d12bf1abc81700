#include "hawser/base/error.h"

#include "hawser/base/printable.h"

namespace hawser {

Error::Error(ErrorKind kind, std::string_view message) : kind_(kind), message_(PrintableLine(message)) {}

void Error::AddFrame(std::string_view frame) {
  const std::string front = PrintableLine(frame) + ": ";
  if (!message_.starts_with(front)) message_ = PrintableLine(front + message_);
}

int ExitCode(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInternal:
      return 1;
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kFormat:
    case ErrorKind::kIo:
      return 3;
    case ErrorKind::kUnsupported:
      return 4;
    case ErrorKind::kNumeric:
      return 5;
  }
  return 1;
}

void CheckFailed(const char* file, int line, const char* condition) {
  Fail(ErrorKind::kInternal, "{}:{}: check failed: {}", file, line, condition);
}

}  // namespace hawser
