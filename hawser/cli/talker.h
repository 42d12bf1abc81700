// cli/talker.h - who answers in a talk: a model in this process, or a server.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/cli/decoding.h"
#include "hawser/infer/continuation.h"

namespace hawser {

struct ChatOptions : DecodingOptions {
  ModelOptions model;
  PrefixOptions prefix;
  FormatOptions format;
  std::string system;
  std::filesystem::path load;
  std::vector<std::string> stops;
  int64_t max_new = 2048;
  std::string url, api_key, session;  // of a server
  bool in_session = false, seeded = false, keep_given = false;
};

struct TalkAnswer {
  std::string text;
  StopReason stop = StopReason::kLength;
  nlohmann::json json;  // of --json
};

class Talker {
 public:
  using Json = nlohmann::ordered_json;
  virtual ~Talker() = default;

  // As Chat (infer/chat.h).
  virtual const Json& messages() const = 0;
  virtual void SetMessages(Json messages) = 0;
  virtual const std::string& system() const = 0;
  virtual void SetSystem(std::string text) = 0;
  virtual void Reset() = 0;
  /// Ctrl-C cancels it.
  virtual TalkAnswer Answer(const std::string& text, const std::function<void(std::string_view)>& show) = 0;
  /// Lines about tokens, speed and cache.
  virtual std::string Stats() const = 0;
};

/// `options` and `common` outlive them.
std::unique_ptr<Talker> MakeLocalTalker(const ChatOptions& options, const CommonOptions& common);
/// Errors: kUsage for what the server refuses, kIo where it cannot be reached or does not answer as OpenAI's API.
std::unique_ptr<Talker> MakeRemoteTalker(const ChatOptions& options, const CommonOptions& common);

}  // namespace hawser
