// cli/line_input.h - lines that a person types: edited, with history, where there is a terminal; and Ctrl-C.
#pragma once

#include <memory>
#include <string>

namespace hawser {

/// Ctrl-C (SIGINT) interrupts what goes on instead of ending the program, while one of these is alive.
class InterruptCatcher {
 public:
  InterruptCatcher();
  ~InterruptCatcher();
  InterruptCatcher(const InterruptCatcher&) = delete;
  InterruptCatcher& operator=(const InterruptCatcher&) = delete;

  /// Whether one came since the last call of Clear.
  static bool Came();
  static void Clear();
};

class LineInput {
 public:
  enum class Got { kLine, kEnd, kInterrupt };

  LineInput();
  ~LineInput();
  LineInput(const LineInput&) = delete;
  LineInput& operator=(const LineInput&) = delete;

  /// The next line of standard input, without its end; kEnd where there is none; kInterrupt where Ctrl-C came first.
  /// `prompt` is shown where standard input and output are terminals. Errors: kIo; kUsage for a line of more than 16
  /// MiB.
  Got Read(const std::string& prompt, std::string* line);

  bool terminal() const { return terminal_; }

 private:
  struct Editor;

  Got ReadPlain(std::string* line);

  bool terminal_;
  std::unique_ptr<Editor> editor_;
  std::string ahead_;  // read but not returned yet
  bool ended_ = false;
};

}  // namespace hawser
