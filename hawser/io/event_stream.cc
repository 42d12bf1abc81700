#include "hawser/io/event_stream.h"

#include "hawser/base/error.h"

namespace hawser {

void EventStream::Line(std::string_view line, const std::function<void(const std::string& data)>& take) {
  if (line.empty()) {
    if (any_) take(data_);
    data_.clear();
    any_ = false;
    return;
  }
  constexpr std::string_view kData = "data";
  const size_t colon = line.find(':');
  if (line.substr(0, colon) != kData) return;  // comments, names and numbers of events
  std::string_view value = colon == line.npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (any_) data_ += '\n';
  data_ += value;
  any_ = true;
}

void EventStream::Push(std::string_view bytes, const std::function<void(const std::string& data)>& take) {
  constexpr size_t kMost = size_t{64} << 20;
  for (const char c : bytes) {
    const bool second = after_return_ && c == '\n';  // of the two that end one line
    after_return_ = c == '\r';
    if (second) continue;
    if (c == '\n' || c == '\r') {
      Line(line_, take);
      line_.clear();
    } else {
      line_ += c;
    }
    if (line_.size() + data_.size() > kMost) Fail(ErrorKind::kFormat, "an event of the server is too large");
  }
}

}  // namespace hawser
