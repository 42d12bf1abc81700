// serve/answer.h - one answer under way: gathers the events of its choices and tells them, whole or piece by piece.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "hawser/infer/scheduler.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/replies.h"
#include "hawser/serve/sessions.h"
#include "hawser/serve/web_server.h"

namespace hawser {

/// What answers need of the server; all outlive them.
struct AnswerContext {
  Scheduler* scheduler;
  const Tokenizer* tokenizer;
  const Replies* replies;
  Meters* meters;
};

/// THREADS: Take from the scheduler's thread, the others from any, AddChoice before the first Take.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  /// `cache`: name of the policy, for the usage.
  Answer(const AnswerContext& context, Call call, Frame frame, std::string cache, std::shared_ptr<WebReply> reply);

  /// `prompt_text`: what `echo` repeats.
  void AddChoice(std::string prompt_text);
  /// The answer goes on behind a session, and is complete once that is saved. Until the scheduler has told of it, the
  /// session is as it was.
  void SetSession(std::unique_ptr<Sessions::Lease> lease) { lease_ = std::move(lease); }
  /// From now on a client that goes away ends all that is submitted.
  void Watch();
  /// A request of the scheduler belongs to this answer.
  void Submitted(uint64_t id);
  void CancelAll();
  /// An event of choice `index`. False: nobody listens any more.
  bool Take(size_t index, const Event& event);

 private:
  using Clock = std::chrono::steady_clock;

  void Open();
  bool TakeProgress(const Event& event);
  bool TakeOne(size_t index, const Event& event);
  bool TakeError(const Error& error);
  bool Refuse(const ApiError& error);
  void Measure(size_t index, const Event& event);
  nlohmann::ordered_json Chunk(nlohmann::ordered_json choices) const;
  nlohmann::ordered_json View(const Event& event) const;
  void Complete();
  void TellAll();

  const AnswerContext context_;
  const Call call_;
  const Frame frame_;
  const std::string cache_;
  std::shared_ptr<WebReply> reply_;
  std::vector<Choice> choices_;
  std::unique_ptr<Sessions::Lease> lease_;  // null: of no session
  std::mutex mutex_;                        // of what follows
  std::vector<uint64_t> ids_;
  Usage usage_;
  nlohmann::ordered_json view_;
  bool open_ = false, over_ = false;
  Clock::time_point begun_ = Clock::now();
  std::vector<Clock::time_point> last_;  // of each choice, its last token
};

}  // namespace hawser
