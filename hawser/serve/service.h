// serve/service.h - a model behind OpenAI's API: routes, and the engine that answers them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hawser/infer/scheduler.h"
#include "hawser/serve/meters.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/replies.h"
#include "hawser/serve/sessions.h"
#include "hawser/serve/web_server.h"
#include "hawser/tok/bos.h"
#include "hawser/zoo/load.h"

namespace hawser {

/// What becomes of a request that the context does not hold, where the cache keeps everything.
enum class OnFull : uint8_t { kError, kShift, kSep };

struct ServiceOptions {
  SchedulerOptions scheduler;
  SessionOptions sessions;
  std::string name;     // of the model, as clients see it
  std::string api_key;  // empty: everybody is served
  bool strict_model = false;
  bool slots = false;  // tell what every text under way does
  CallLimits limits;
  OnFull on_full = OnFull::kError;
  bool page = true;
  BosRule bos = BosRule::kAuto;
};

/// What a service serves; both outlive its Run.
struct ServedModel {
  const ModelToRun* run = nullptr;
  Backend* backend = nullptr;
  ServiceOptions options;
};

class Service {
 public:
  /// Binds. `cors`: origin that pages may come from; empty: this server's own alone. `drain`: what texts under way get
  /// when it is stopped. Errors: those of WebServer.
  Service(const WebOptions& web, const std::string& cors, std::chrono::milliseconds drain);
  ~Service();

  uint16_t port() const;
  /// Serves until a signal or Stop. `load` is called on another thread, with as many threads for its loops as this
  /// one has; until it returns, whoever asks is told to come again (503). `ready` is called once the model is served. A
  /// signal that comes before ends the process with 0. Errors: those of `load` and of Scheduler.
  void Run(bool signals, const std::function<ServedModel()>& load, const std::function<void()>& ready = {});
  void Stop();

  struct Impl;

 private:
  void Handle(const WebRequest& request, const std::shared_ptr<WebReply>& reply);

  std::chrono::milliseconds drain_;
  Meters meters_;
  std::atomic<bool> ends_ = false;
  Replies replies_;
  std::unique_ptr<WebServer> web_;
  std::unique_ptr<Impl> impl_;
  std::atomic<Impl*> served_ = nullptr;  // impl_, once it is whole
};

}  // namespace hawser
