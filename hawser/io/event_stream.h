// io/event_stream.h - server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) out of the
// bytes of an answer: the data of each.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace hawser {

class EventStream {
 public:
  /// Takes the next bytes; calls `take` with the data of each event that they complete, its lines joined by line ends.
  /// Errors: kFormat for an event of more than 64 MiB; those of `take`.
  void Push(std::string_view bytes, const std::function<void(const std::string& data)>& take);

 private:
  void Line(std::string_view line, const std::function<void(const std::string& data)>& take);

  std::string line_, data_;
  bool any_ = false, after_return_ = false;
};

}  // namespace hawser
