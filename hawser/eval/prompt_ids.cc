#include "hawser/eval/prompt_ids.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/eval/perplexity.h"
#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

std::string_view Beginning(std::string_view text) { return text.substr(0, 60); }

}  // namespace

PromptEncoder::PromptEncoder(const Tokenizer& tokenizer, BosRule bos, bool chat, int64_t max_length)
    : tokenizer_(tokenizer),
      chat_(chat ? std::make_unique<ChatTemplate>(tokenizer) : nullptr),
      max_length_(max_length),
      prefix_(chat ? std::vector<int32_t>() : TextPrefix(tokenizer, bos)),
      first_(tokenizer.bos() >= 0 ? tokenizer.bos() : tokenizer.eos()) {}

jinja::Text PromptEncoder::TextOf(const LmRequest& request) const {
  if (chat_ == nullptr || request.kind == LmRequest::Kind::kRolling) return {request.context + request.answer_prefix};
  const auto render = [&](bool system) {
    nlohmann::ordered_json messages = nlohmann::ordered_json::array();
    for (const LmTurn& turn : request.before) {
      if (system || turn.role != "system") messages.push_back({{"role", turn.role}, {"content", turn.text}});
    }
    messages.push_back({{"role", "user"}, {"content", request.context}});
    return chat_->Render(messages, /*answer=*/true);
  };
  const bool system = std::ranges::any_of(request.before, [](const LmTurn& turn) { return turn.role == "system"; });
  jinja::Text text;
  try {
    text = render(true);
  } catch (const Error& error) {
    if (!system) throw;
    text = render(false);
    if (!told_.exchange(true)) LogLine(fmt::format("note: asked without a turn of the system: {}", error.what()));
  }
  text.Append(jinja::Text(request.answer_prefix, /*given=*/true));
  return text;
}

/// Behind what stands before every text.
std::vector<int32_t> PromptEncoder::Encode(const jinja::Text& text, const LmRequest& request) const {
  std::vector<int32_t> ids = prefix_;
  if (text.empty()) return ids;
  const std::vector<int32_t> encoded =
      chat_ == nullptr ? tokenizer_.Encode(text.bytes(), request.special) : chat_->Encode(text);
  // A template may begin with BOS itself.
  if (request.special && !ids.empty() && !encoded.empty() && encoded.front() == ids.back()) ids.pop_back();
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  return ids;
}

ScoredText PromptEncoder::Cut(std::vector<int32_t> ids, int64_t scored, size_t owner, const LmRequest& request) const {
  if (scored < 1 || scored > max_length_) {
    Fail(ErrorKind::kUsage,
         "a continuation of {} tokens cannot be scored: wanted 1 to {}, the longest input (--context); its context "
         "begins '{}'",
         scored, max_length_, Beginning(request.context));
  }
  if (static_cast<int64_t>(ids.size()) > max_length_ + 1) {
    ids.erase(ids.begin(), ids.end() - static_cast<int64_t>(max_length_ + 1));
  }
  return {.ids = std::move(ids), .scored = scored, .owner = owner};
}

std::vector<ScoredText> PromptEncoder::Scored(const LmRequest& request, size_t owner, int64_t* prompt_tokens) const {
  if (request.kind == LmRequest::Kind::kRolling) return Windows(request, owner);
  return request.split == LmRequest::Split::kCommon ? BehindCommon(request, owner, prompt_tokens)
                                                    : Continuations(request, owner, prompt_tokens);
}

std::vector<ScoredText> PromptEncoder::Continuations(const LmRequest& request, size_t owner,
                                                     int64_t* prompt_tokens) const {
  const jinja::Text whole = TextOf(request);
  const std::vector<int32_t> before = Encode(whole.Part(0, PythonRstrip(whole.bytes())), request);
  std::vector<ScoredText> texts;
  for (const std::string& continuation : request.continuations) {
    jinja::Text text = whole;
    text.Append(jinja::Text(continuation, /*given=*/true));
    std::vector<int32_t> ids = Encode(text, request);
    size_t begin = before.size();
    if (begin == 0) {  // nothing stands before it
      if (first_ < 0) {
        Fail(ErrorKind::kUsage, "an empty context needs BOS or EOS before it, and the tokenizer has neither");
      }
      if (ids.empty() || ids.front() != first_) ids.insert(ids.begin(), first_);
      begin = 1;
    }
    const int64_t scored = static_cast<int64_t>(ids.size()) - static_cast<int64_t>(begin);
    texts.push_back(Cut(std::move(ids), scored, owner, request));
  }
  *prompt_tokens = static_cast<int64_t>(before.size());
  return texts;
}

std::vector<ScoredText> PromptEncoder::BehindCommon(const LmRequest& request, size_t owner,
                                                    int64_t* prompt_tokens) const {
  const jinja::Text whole = TextOf(request);
  std::vector<std::vector<int32_t>> all;
  size_t common = 0;
  for (const std::string& continuation : request.continuations) {
    jinja::Text text = whole;
    text.Append(jinja::Text(continuation, /*given=*/true));
    std::vector<int32_t> ids = Encode(text, request);
    common = all.empty() ? ids.size()
                         : std::min<size_t>(common, std::ranges::mismatch(all.front(), ids).in1 - all.front().begin());
    all.push_back(std::move(ids));
  }
  *prompt_tokens = static_cast<int64_t>(common);
  std::vector<ScoredText> texts;
  for (std::vector<int32_t>& ids : all) {
    const auto scored = static_cast<int64_t>(ids.size() - std::max<size_t>(common, 1));
    texts.push_back(Cut(std::move(ids), scored, owner, request));
  }
  return texts;
}

std::vector<ScoredText> PromptEncoder::Windows(const LmRequest& request, size_t owner) const {
  const std::vector<int32_t> ids = tokenizer_.Encode(request.context);
  const auto length = static_cast<int64_t>(ids.size());
  std::vector<ScoredText> texts;
  for (const PplWindow& window :
       PlanWindows({.protocol = PplProtocol::kRolling, .context = std::max<int64_t>(max_length_, 2)}, {&length, 1},
                   first_ >= 0)) {
    ScoredText text{.scored = window.end - window.score_begin, .owner = owner};
    if (window.prefix) text.ids.push_back(first_);
    text.ids.insert(text.ids.end(), ids.begin() + window.begin, ids.begin() + window.end);
    texts.push_back(std::move(text));
  }
  return texts;
}

std::vector<int32_t> PromptEncoder::Prompt(const LmRequest& request, int64_t* prompt_tokens) const {
  std::vector<int32_t> ids = Encode(TextOf(request), request);
  if (ids.empty() && first_ >= 0) ids.push_back(first_);
  *prompt_tokens = static_cast<int64_t>(ids.size());
  const int64_t most = max_length_ - request.max_new;
  if (most < 1 || ids.empty()) {
    Fail(ErrorKind::kUsage, "{} new tokens leave no room for a prompt in {} tokens; set --context higher",
         request.max_new, max_length_);
  }
  if (*prompt_tokens > most) ids.erase(ids.begin(), ids.end() - most);
  return ids;
}

}  // namespace hawser
