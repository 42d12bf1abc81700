#include "hawser/pos/fold.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/form.h"

namespace hawser {

FoldText SplitFoldText(std::string_view text) {
  constexpr std::string_view kName = RopeFold::kName;
  for (size_t at = 0; (at = text.find(kName, at)) != text.npos; at += kName.size()) {
    const size_t before = at == 0 ? text.npos : text.find_last_not_of(' ', at - 1);
    const bool begins = before == text.npos || text[before] == ',';
    const std::string_view fold = text.substr(at);
    if (!begins || (fold != kName && fold[kName.size()] != ':')) continue;
    return {before == text.npos ? std::string_view() : text.substr(0, before), fold};
  }
  return {text, std::nullopt};
}

RopeFold ParseFold(std::string_view text) {
  if (text.find(':') != text.rfind(':')) {
    Fail(ErrorKind::kUsage, "rope '{}': string stands behind the scheme, and once, as in yarn:factor=2,string:shift=1k",
         text);
  }
  RopeFold fold;
  FormReader reader("rope", text);
  fold.Fields(reader);
  reader.Finish();
  if (!reader.Given("shift")) {
    fold.shift = -1;
  } else if (!reader.Given("window")) {
    fold.window = std::min(fold.window, fold.shift);
  }
  return fold.shift == 0 ? RopeFold() : fold;
}

RopeFold CompleteFold(std::string_view text, const RopeFold& given, int64_t reach, int64_t wanted) {
  RopeFold fold = given;
  if (fold.shift < 0) {
    if (reach < 3) Fail(ErrorKind::kUsage, "rope '{}': string needs a shift, as in string:shift=2048", text);
    const int64_t third = reach / 3;
    if (fold.window == RopeFold().window) fold.window = std::min(fold.window, third);
    fold.shift = std::max({third, fold.window, wanted - reach + fold.window});
    if (fold.shift >= reach && fold.window < reach) {
      Fail(ErrorKind::kUsage,
           "rope '{}': {} tokens of context are too many for the {} that the model knows: string reaches less than "
           "twice as many; scale too, as in yarn:factor=4,string",
           text, wanted, reach);
    }
  }
  WithFrame(fmt::format("rope '{}'", text), [&] { Validate(fold); });
  if (fold.active() && reach > 0 && fold.shift >= reach) {
    Fail(ErrorKind::kUsage, "rope '{}': shift={} must be less than the {} tokens that the model knows", text,
         fold.shift, reach);
  }
  return fold;
}

void Validate(const RopeFold& fold) {
  if (!fold.active()) return;
  if (fold.window < 0 || fold.window > fold.shift) {
    Fail(ErrorKind::kUsage, "string: window={}; wanted from 0 to the shift of {}", fold.window, fold.shift);
  }
  if (!(fold.temperature >= 1e-3 && fold.temperature <= 1e3)) {
    Fail(ErrorKind::kUsage, "string: temperature={}; wanted a number from 0.001 to 1000", fold.temperature);
  }
}

std::string ToString(const RopeFold& fold) { return PrintForm(fold); }

std::string FoldHelp() { return FormHelp<RopeFold>(); }

}  // namespace hawser
