// hawser chat: a conversation in the terminal, or line by line through a pipe.
#include "hawser/infer/chat.h"

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
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/cli/decoding.h"
#include "hawser/cli/line_input.h"
#include "hawser/io/json.h"
#include "hawser/model/kv_report.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kDefaultMaxNew = 2048;

struct ChatOptions : DecodingOptions {
  ModelOptions model;
  std::string system;
  fs::path load;
  std::vector<std::string> stops;
  int64_t max_new = kDefaultMaxNew;
};

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

class Session {
 public:
  Session(const ChatOptions& options, const CommonOptions& common)
      : options_(options),
        common_(common),
        run_(OpenModelToRun(options.model, options.rope, options.context, options.dtype)) {
    const ModelSpec& spec = run_.weights.spec();
    const KvForm form = ChooseForm(options.kv, spec);
    most_ = MostTokens(options, spec, form);
    backend_ = MakeBackend(common.device);
    decoder_ = std::make_unique<Decoder>(backend_.get(), run_.weights);
    cache_ = std::make_unique<KvCache>(backend_.get(), decoder_->spec(), form,
                                       ModelSeparators(run_.model.tokenizer.get(), form.separator_set, spec.vocab),
                                       run_.weights.dtype(), options.context);
    chat_ = std::make_unique<Chat>(decoder_.get(), cache_.get(), run_.model.tokenizer.get(), most_);
    if (!options.load.empty()) Load(options.load);
    if (!options.system.empty()) chat_->SetSystem(options.system);
    generate_.max_new = options.max_new;
    generate_.sampler = options.sampler;
    generate_.sampler.seed = common.seed;
    generate_.stops = options.stops;
    generate_.end_ids = EndIds(spec, *run_.model.tokenizer);
    generate_.cancelled = InterruptCatcher::Came;
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
      chat_->Reset();
    } else if (name == "/system") {
      if (rest.empty()) return Tell((chat_->system().empty() ? "(none)" : chat_->system()) + "\n");
      chat_->SetSystem(rest == "\"\"" ? "" : rest);
    } else if (name == "/save") {
      if (rest.empty()) Fail(ErrorKind::kUsage, "/save wants the name of a file");
      const Json talk = {{"messages", chat_->messages()}};
      WriteFileAtomically(rest, talk.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    } else if (name == "/load") {
      if (rest.empty()) Fail(ErrorKind::kUsage, "/load wants the name of a file");
      Load(rest);
    } else if (name == "/stats") {
      Tell(Stats());
    } else {
      Fail(ErrorKind::kUsage, "{}: no such command; /help tells those there are, //{} says it as text", name,
           name.substr(1));
    }
  }

  void Load(const fs::path& path) {
    const Json talk = ReadTalk(path);
    WithFrame(path.string(), [&] { chat_->SetMessages(talk); });
  }

  void Tell(const std::string& text) { common_.json ? LogLine(text) : PrintText(text); }

  void Answer(const std::string& text) {
    const auto show = [&](std::string_view piece) {
      if (!common_.json) PrintRaw(piece);
    };
    const GenerateResult result = chat_->Answer(text, generate_, show);
    read_ += result.prompt_tokens;
    written_ += static_cast<int64_t>(result.ids.size());
    reread_ += chat_->reread();
    read_seconds_ += result.prefill_seconds;
    decode_seconds_ += result.decode_seconds;
    decode_steps_ += result.steps;
    show("\n");
    if (result.stop == StopReason::kCancelled) LogLine("(stopped)");
    if (result.stop == StopReason::kLength) LogLine("(cut: --max-new, or the end of the context)");
    if (!common_.json) return;
    PrintJson({{"text", result.text},
               {"ids", result.ids},
               {"stop", Name(result.stop)},
               {"prompt_tokens", result.prompt_tokens},
               {"reread_tokens", chat_->reread()},
               {"new_tokens", result.ids.size()},
               {"seen_tokens", cache_->seen()},
               {"seconds", result.prefill_seconds + result.decode_seconds},
               {"prefill_tokens_per_second", result.prefill_tokens_per_second()},
               {"decode_tokens_per_second", result.decode_tokens_per_second()},
               {"kv", KvReportJson(*cache_)}});
  }

  std::string Stats() const {
    const auto rate = [](int64_t tokens, double seconds) {
      return AtRate(tokens, seconds > 0 ? static_cast<double>(tokens) / seconds : 0);
    };
    std::string text = fmt::format("read {}, {} of them again; wrote {}\n", rate(read_, read_seconds_), reread_,
                                   AtRate(written_, decode_seconds_ > 0 ? decode_steps_ / decode_seconds_ : 0));
    text += CacheText(*cache_) + "\n";
    if (most_ < INT64_MAX) text += fmt::format("{} of {} are left\n", most_ - cache_->seen(), Counted(most_, "token"));
    return text;
  }

  const ChatOptions& options_;
  const CommonOptions& common_;
  ModelToRun run_;
  int64_t most_ = 0;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Chat> chat_;
  GenerateOptions generate_;
  LineInput input_;
  int64_t read_ = 0, written_ = 0, reread_ = 0, decode_steps_ = 0;
  double read_seconds_ = 0, decode_seconds_ = 0;
};

}  // namespace

std::function<int()> SetupChat(Command command, CommonOptions& common) {
  auto options = std::make_shared<ChatOptions>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command.Add("--system", options->system, "System message");
  command.Add("--load", options->load, "Go on with the talk that /save wrote to this file");
  command.Add("-n,--max-new", options->max_new, "Tokens of an answer at most").Range(1, int64_t{1} << 40).ShowDefault();
  AddSamplerOptions(command, options->sampler);
  command.Add("--stop", options->stops, "End an answer in front of this text; may be given several times")
      .OneArgument();
  AddCacheOptions(command, *options);
  return [options, &common] { return Session(*options, common).Run(); };
}

}  // namespace hawser
