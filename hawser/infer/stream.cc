#include "hawser/infer/stream.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

/// True if more bytes could make text[at...] (all there is so far) one character.
bool IsCut(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - at >= length) return false;
  return std::all_of(text.begin() + static_cast<std::ptrdiff_t>(at) + 1, text.end(),
                     [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; });
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) Fail(ErrorKind::kUsage, "a stop string must not be empty");
  }
}

std::string TextStream::Push(std::string_view bytes) {
  if (stopped_) return "";
  pending_ += bytes;
  size_t cut = std::string::npos;
  for (const std::string& stop : stops_) cut = std::min(cut, pending_.find(stop));
  if (cut != std::string::npos) {
    stopped_ = true;
    pending_.resize(cut);
    return Finish();
  }
  size_t hold = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > hold; --n) {
      if (pending_.ends_with(std::string_view(stop).substr(0, n))) hold = n;
    }
  }
  return Take(pending_.size() - hold, /*whole=*/false);
}

std::string TextStream::Finish() { return Take(pending_.size(), /*whole=*/true); }

/// Takes whole characters that begin before `end` off the front; with `whole`, everything.
std::string TextStream::Take(size_t end, bool whole) {
  std::string text;
  size_t at = 0;
  while (at < end) {
    const size_t length = CodePointAt(pending_, at).length;
    if (length == 0 && !whole && IsCut(pending_, at)) break;
    if (length == 0) {
      text += "\xEF\xBF\xBD";
    } else {
      text.append(pending_, at, length);
    }
    at += std::max<size_t>(length, 1);
  }
  pending_.erase(0, at);
  return text;
}

}  // namespace hawser
