// base/error.h - the one exception type: a kind, a message, and the frames added on the way up.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace hawser {

enum class ErrorKind { kInternal, kUsage, kFormat, kUnsupported, kNumeric, kIo };

/// The process exit code of a kind: 1 internal, 2 usage, 3 bad or unreadable file, 4 unsupported, 5 numeric.
int ExitCode(ErrorKind kind);

/// Thrown in cold code only (parse, load, configure, validate). The message says what was wanted, what was found and,
/// where known, what to do. Whatever it quotes, it is one printable line of bounded length (printable.h).
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string_view message);

  ErrorKind kind() const { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

  /// Puts "frame: " in front of the message, unless it stands there already; use on the way up:
  /// `catch (Error& e) { e.AddFrame(path); throw; }`.
  void AddFrame(std::string_view frame);

 private:
  ErrorKind kind_;
  std::string message_;
};

template <class... Args>
[[noreturn]] void Fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Runs `body`; an Error that leaves it gets `frame` in front.
template <class Body>
auto WithFrame(std::string_view frame, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (Error& error) {
    error.AddFrame(frame);
    throw;
  }
}

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace hawser

/// An invariant of ours, not of the input: failing it is a bug (kInternal).
#define HAWSER_CHECK(condition)                                              \
  do {                                                                       \
    if (!(condition)) ::hawser::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#ifdef NDEBUG
#define HAWSER_DCHECK(condition) \
  do {                           \
  } while (false)
#else
#define HAWSER_DCHECK(condition) HAWSER_CHECK(condition)
#endif
