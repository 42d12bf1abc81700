// serve/service.h - a model behind OpenAI's API: routes, and the engine that answers them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "hawser/infer/scheduler.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/sessions.h"
#include "hawser/serve/web_server.h"
#include "hawser/tok/bos.h"
#include "hawser/zoo/load.h"

namespace hawser {

/// What becomes of a request that the context does not hold, where the cache keeps everything.
enum class OnFull : uint8_t { kError, kShift, kSep };

struct ServiceOptions {
  WebOptions web;
  SchedulerOptions scheduler;
  SessionOptions sessions;
  std::string name;     // of the model, as clients see it
  std::string api_key;  // empty: everybody is served
  std::string cors;     // origin that pages may come from; empty: this server's own alone
  bool strict_model = false;
  bool slots = false;  // tell what every text under way does
  OnFull on_full = OnFull::kError;
  bool page = true;
  std::chrono::milliseconds drain{30000};
  BosRule bos = BosRule::kAuto;
};

class Service {
 public:
  /// `run` and the backend outlive it. Errors: those of WebServer and Scheduler.
  Service(const ModelToRun* run, Backend* backend, ServiceOptions options);
  ~Service();

  uint16_t port() const;
  /// Serves until a signal or Stop.
  void Run(bool signals);
  void Stop();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hawser
