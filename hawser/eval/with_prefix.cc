#include "hawser/eval/with_prefix.h"

#include <algorithm>
#include <string_view>

#include "hawser/base/error.h"

namespace hawser {
namespace {

void CheckHasPrompt(const LmRequest& request) {
  if (request.kind != LmRequest::Kind::kRolling) return;
  Fail(ErrorKind::kUnsupported,
       "an indexed prefix is of prompts; texts whose every token is predicted have none: measure what stands behind it "
       "with eval ppl --index");
}

int64_t Common(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

std::string_view ShownContext(const LmRequest& request) { return std::string_view(request.context).substr(0, 60); }

}  // namespace

void CheckBeginsWith(std::span<const int32_t> prefix, std::span<const int32_t> ids, std::string_view what,
                     std::string_view advice) {
  const int64_t common = Common(prefix, ids);
  if (common < std::ssize(prefix)) {
    Fail(ErrorKind::kUsage,
         "--index: {} does not begin with the indexed prefix: of its {} tokens they have the first {} in common. {}",
         what, prefix.size(), common, advice);
  }
  if (ids.size() > prefix.size()) return;
  Fail(ErrorKind::kUsage,
       "--index: {} ends with the indexed prefix of {} tokens, and needs a token behind it; index less. {}", what,
       prefix.size(), advice);
}

void CheckBehindPrefix(std::span<const int32_t> prefix, const LmRequest& request, std::span<const int32_t> prompt) {
  CheckHasPrompt(request);
  CheckBeginsWith(prefix, prompt, "a prompt",
                  fmt::format("hawser index MODEL --task TASK indexes what the prompts of a task begin with; one that "
                              "is longer than the longest input (--context) loses its beginning. The prompt begins "
                              "'{}'",
                              ShownContext(request)));
}

std::vector<int32_t> SharedPrefix(std::span<const LmRequest> requests, const PromptEncoder& encoder) {
  std::vector<int32_t> shared;
  bool first = true;
  const auto take = [&](std::span<const int32_t> prompt) {
    const std::span<const int32_t> all_but_one = prompt.first(prompt.size() - std::min<size_t>(1, prompt.size()));
    if (first) shared.assign(all_but_one.begin(), all_but_one.end());
    first = false;
    shared.resize(static_cast<size_t>(Common(shared, all_but_one)));
  };
  int64_t prompt_tokens = 0;
  for (const LmRequest& request : requests) {
    CheckHasPrompt(request);
    if (request.kind == LmRequest::Kind::kGenerate) {
      take(encoder.Prompt(request, &prompt_tokens));
      continue;
    }
    for (const ScoredText& text : encoder.Scored(request, 0, &prompt_tokens)) {
      take(std::span(text.ids).first(text.ids.size() - static_cast<size_t>(text.scored)));
    }
  }
  return shared;
}

}  // namespace hawser
