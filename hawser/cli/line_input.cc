#include "hawser/cli/line_input.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "hawser/base/error.h"
#include "hawser/cli/command.h"

#ifdef HAWSER_EDITLINE
#include <histedit.h>
#endif

namespace hawser {
namespace {

constexpr size_t kMostLine = size_t{16} << 20;

volatile std::sig_atomic_t interrupts = 0;
struct sigaction before;

void Count(int) { interrupts = interrupts + 1; }

}  // namespace

InterruptCatcher::InterruptCatcher() {
  struct sigaction action {};
  action.sa_handler = Count;  // without SA_RESTART: a read that waits ends
  sigaction(SIGINT, &action, &before);
  Clear();
}
InterruptCatcher::~InterruptCatcher() { sigaction(SIGINT, &before, nullptr); }
bool InterruptCatcher::Came() { return interrupts != 0; }
void InterruptCatcher::Clear() { interrupts = 0; }

#ifdef HAWSER_EDITLINE
struct LineInput::Editor {
  Editor() {
    // Characters of more than a byte want a locale that knows them; numbers stay as they are.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    line = el_init("hawser", stdin, stdout, stderr);
    past = history_init();
    HistEvent event;
    if (past != nullptr) history(past, &event, H_SETSIZE, 1000);
    if (line == nullptr) return;
    el_set(line, EL_CLIENTDATA, this);
    el_set(
        line, EL_PROMPT, +[](EditLine* of) {
          Editor* self = nullptr;
          el_get(of, EL_CLIENTDATA, &self);
          return self->prompt.data();
        });
    el_set(line, EL_EDITOR, "emacs");
    el_set(line, EL_SIGNAL, 0);
    el_set(line, EL_HIST, history, past);
    el_source(line, nullptr);  // ~/.editrc
  }
  ~Editor() {
    if (past != nullptr) history_end(past);
    if (line != nullptr) el_end(line);
  }

  EditLine* line = nullptr;
  History* past = nullptr;
  std::string prompt;
};
#else
struct LineInput::Editor {};
#endif

LineInput::LineInput() : terminal_(isatty(STDIN_FILENO) != 0) {
  if (terminal_ && isatty(STDOUT_FILENO) != 0) editor_ = std::make_unique<Editor>();
}
LineInput::~LineInput() = default;

LineInput::Got LineInput::Read(const std::string& prompt, std::string* line) {
#ifdef HAWSER_EDITLINE
  if (editor_ != nullptr && editor_->line != nullptr) {
    editor_->prompt = prompt;
    int count = 0;
    errno = 0;
    const char* text = el_gets(editor_->line, &count);
    if (InterruptCatcher::Came()) {
      el_reset(editor_->line);
      return Got::kInterrupt;
    }
    if (text == nullptr || count <= 0) return Got::kEnd;
    *line = std::string(text, static_cast<size_t>(count));
    while (line->ends_with('\n') || line->ends_with('\r')) line->pop_back();
    HistEvent event;
    if (!line->empty()) history(editor_->past, &event, H_ENTER, text);
    return Got::kLine;
  }
#endif
  if (editor_ != nullptr) PrintRaw(prompt);
  return ReadPlain(line);
}

LineInput::Got LineInput::ReadPlain(std::string* line) {
  std::array<char, 1 << 16> buffer;
  size_t searched = 0;
  while (true) {
    const size_t end = ahead_.find('\n', searched);
    if (end != ahead_.npos || (ended_ && !ahead_.empty())) {
      *line = ahead_.substr(0, end);
      ahead_.erase(0, end == ahead_.npos ? end : end + 1);
      if (line->ends_with('\r')) line->pop_back();
      return Got::kLine;
    }
    if (ended_) return Got::kEnd;
    searched = ahead_.size();
    if (searched > kMostLine) Fail(ErrorKind::kUsage, "stdin: a line of more than {} MiB; cut it", kMostLine >> 20);
    const ssize_t got = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      if (InterruptCatcher::Came()) return Got::kInterrupt;
      continue;
    }
    if (got < 0) Fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
    if (got == 0) ended_ = true;
    ahead_.append(buffer.data(), static_cast<size_t>(got));
  }
}

}  // namespace hawser
