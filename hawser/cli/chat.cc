// hawser chat: a conversation in the terminal, or line by line through a pipe.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"
#include "hawser/cli/line_input.h"
#include "hawser/cli/talker.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kHelp =
    "/help           this list\n"
    "/reset          begin anew; the system message stays\n"
    "/system [TEXT]  show the system message, or set it to TEXT; /system \"\" takes it away\n"
    "/save FILE      write the talk as JSON\n"
    "/load FILE      go on with a talk that /save wrote\n"
    "/stats          tokens read and written, a second too, and what the cache holds\n"
    "/quit           leave (Ctrl-D too, or Ctrl-C twice)\n"
    "A line that ends in \\ goes on in the next. //text says /text. Ctrl-C stops an answer.\n";

/// The talk as a file: {"messages": [{"role", "content"}, ...]}.
Json ReadTalk(const fs::path& path) {
  const nlohmann::json document = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  return Json(document.is_object() && document.contains("messages") ? document["messages"] : document);
}

class Conversation {
 public:
  Conversation(const ChatOptions& options, const CommonOptions& common)
      : common_(common),
        talker_(options.url.empty() ? MakeLocalTalker(options, common) : MakeRemoteTalker(options, common)) {
    if (!options.load.empty()) Load(options.load);
    if (!options.system.empty()) talker_->SetSystem(options.system);
  }

  int Run() {
    const InterruptCatcher catcher;
    if (input_.terminal()) LogLine("/help tells the commands; Ctrl-C stops an answer, Ctrl-D leaves");
    bool asked_to_leave = false;
    for (std::string text;;) {
      InterruptCatcher::Clear();
      const LineInput::Got got = ReadMessage(&text);
      if (got == LineInput::Got::kEnd) break;
      if (got == LineInput::Got::kInterrupt) {
        if (asked_to_leave) break;
        asked_to_leave = true;
        if (input_.terminal()) PrintRaw("\n");
        LogLine("Ctrl-C again, or Ctrl-D, leaves");
        continue;
      }
      asked_to_leave = false;
      if (text.empty()) continue;
      if (text == "/quit" || text == "/exit") return 0;
      Take(text);
    }
    if (input_.terminal()) PrintRaw("\n");
    return 0;
  }

 private:
  /// A line, and those it goes on in.
  LineInput::Got ReadMessage(std::string* text) {
    text->clear();
    const char* prompt = "> ";
    for (std::string line;;) {
      const LineInput::Got got = input_.Read(prompt, &line);
      if (got == LineInput::Got::kEnd && !text->empty()) return LineInput::Got::kLine;
      if (got != LineInput::Got::kLine) return got;
      *text += line;
      if (!line.ends_with('\\')) return got;
      text->back() = '\n';
      prompt = ". ";
    }
  }

  /// A mistake is told and the talk goes on, where a person can do better; it ends a script.
  void Take(const std::string& text) {
    try {
      if (!text.starts_with('/') || text.starts_with("//")) {
        Answer(text.starts_with("//") ? text.substr(1) : text);
      } else {
        Command(text);
      }
    } catch (const Error& error) {
      if (!input_.terminal() || error.kind() == ErrorKind::kInternal) throw;
      PrintError(error);
    }
  }

  static void PrintError(const Error& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "hawser: %s\n", error.what());
  }

  void Command(const std::string& text) {
    const size_t blank = std::min(text.find(' '), text.size());
    const std::string name = text.substr(0, blank);
    std::string rest = text.substr(std::min(text.find_first_not_of(' ', blank), text.size()));
    if (name == "/help") {
      Tell(std::string(kHelp));
    } else if (name == "/reset") {
      talker_->Reset();
    } else if (name == "/system") {
      if (rest.empty()) return Tell((talker_->system().empty() ? "(none)" : talker_->system()) + "\n");
      talker_->SetSystem(rest == "\"\"" ? "" : rest);
    } else if (name == "/save") {
      if (rest.empty()) Fail(ErrorKind::kUsage, "/save wants the name of a file");
      const Json talk = {{"messages", talker_->messages()}};
      WriteFileAtomically(rest, JsonText(talk, 2) + "\n");
    } else if (name == "/load") {
      if (rest.empty()) Fail(ErrorKind::kUsage, "/load wants the name of a file");
      Load(rest);
    } else if (name == "/stats") {
      Tell(talker_->Stats());
    } else {
      Fail(ErrorKind::kUsage, "{}: no such command; /help tells those there are, //{} says it as text", name,
           name.substr(1));
    }
  }

  void Load(const fs::path& path) {
    const Json talk = ReadTalk(path);
    WithFrame(path.string(), [&] { talker_->SetMessages(talk); });
  }

  void Tell(const std::string& text) { common_.json ? LogLine(text) : PrintText(text); }

  void Answer(const std::string& text) {
    const auto show = [&](std::string_view piece) {
      if (!common_.json) PrintRaw(piece);
    };
    const TalkAnswer answer = talker_->Answer(text, show);
    show("\n");
    if (answer.stop == StopReason::kCancelled) LogLine("(stopped)");
    if (answer.stop == StopReason::kLength) LogLine("(cut: --max-new, or the end of the context)");
    if (common_.json) PrintJson(answer.json);
  }

  const CommonOptions& common_;
  std::unique_ptr<Talker> talker_;
  LineInput input_;
};

/// Options that belong to a model here do not go with a server, and the other way round.
void CheckOptions(const ChatOptions& options, Command command) {
  const auto refuse = [&](std::initializer_list<const char*> names, const char* why) {
    for (const char* name : names) {
      if (command.Has(name)) Fail(ErrorKind::kUsage, "{}: {}", name, why);
    }
  };
  if (!options.url.empty()) {
    refuse({"--tokenizer", "--adapter", "--rope", "--context", "--dtype", "--repeat-last-n", "--index", "--keep"},
           "the server of --url has the model, and decides this");
    return;
  }
  refuse({"--api-key", "--session"}, "goes with --url");
  if (options.model.model.empty()) Fail(ErrorKind::kUsage, "give a MODEL, or the server of one: --url URL");
}

}  // namespace

std::function<int()> SetupChat(Command command, CommonOptions& common) {
  auto options = std::make_shared<ChatOptions>();
  AddModelOptions(command, options->model, /*required=*/false);
  AddAdapterOption(command, options->model);
  command.Add("--system", options->system, "System message");
  command.Add("--load", options->load, "Go on with the talk that /save wrote to this file");
  command.Add("-n,--max-new", options->max_new, "Tokens of an answer at most").Range(1, int64_t{1} << 40).ShowDefault();
  AddSamplerOptions(command, options->sampler);
  command.Add("--stop", options->stops, "End an answer in front of this text; may be given several times")
      .OneArgument();
  AddCacheOptions(command, *options);
  AddPrefixOptions(command, options->prefix,
                   "The talk goes on behind the prefix in this file, which hawser index wrote");
  AddFormatOptions(command, options->format, "each answer");
  command.Add("--url", options->url,
              "Talk to a server instead (hawser serve, or any that answers as OpenAI's API); MODEL is a name there");
  command.Add("--api-key", options->api_key,
              "Key of the server; others on this machine can see it: better HAWSER_API_KEY in the environment");
  command
      .Add("--session", options->session,
           "Let the server keep the talk, which may be endless then: a new session, or the one with this id")
      .OptionalArgument();
  return [options, command, &common] {
    options->in_session = command.Has("--session");
    options->seeded = command.Has("--seed");
    options->keep_given = command.Has("--keep");
    CheckOptions(*options, command);
    return Conversation(*options, common).Run();
  };
}

}  // namespace hawser
