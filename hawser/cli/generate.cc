// hawser generate: continues a prompt, with any cache policy and any rotary scaling.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/interrupt.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/base/utf8.h"
#include "hawser/cli/command.h"
#include "hawser/cli/decoding.h"
#include "hawser/cli/focus.h"
#include "hawser/cli/stdin.h"
#include "hawser/eval/report.h"
#include "hawser/infer/generation.h"
#include "hawser/io/json.h"
#include "hawser/kv/report.h"
#include "hawser/kv/state.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"
#include "hawser/tok/chat_template.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

struct GenerateFlags : DecodingOptions {
  ModelOptions model;
  PrefixOptions prefix;
  std::string prompt, words;  // --prompt, or behind MODEL
  std::string prompt_file;    // "-": stdin
  bool parse_special = false;
  bool chat = false;
  std::string system;
  bool ignore_eos = false;
  int64_t max_new = 0;  // 0: as many as the default allows
  std::vector<std::string> stops;
  std::string bos = "auto";
  bool echo = false;
  FormatOptions format;
  std::filesystem::path load_state, save_state;
  std::string focus;
};

constexpr int64_t kDefaultMaxNew = 256;

/// New tokens to make: --max-new, or what fits where it was not given. With every key kept, a scheme that is meant for
/// a bounded context must hold prompt and new tokens.
int64_t MaxNew(const GenerateFlags& options, const ModelSpec& spec, const KvForm& form, int64_t prompt) {
  const int64_t wanted = options.max_new > 0 ? options.max_new : kDefaultMaxNew;
  const int64_t limit = MostTokens(options, spec, form);
  if (prompt < limit && options.max_new == 0) return std::min(wanted, limit - prompt);
  if (prompt + wanted > limit) {
    Fail(ErrorKind::kUsage,
         "{} prompt tokens and {} new ones do not fit the context of {} tokens; ask for less, stretch the context "
         "(--rope yarn:factor=4), or bound the cache (--kv bounded:{})",
         prompt, wanted, limit, std::max<int64_t>(8, limit / 2));
  }
  return wanted;
}

/// The text of an earlier run that this one continues, if any.
struct Earlier {
  KvStateInfo info;
  TextState text;
  bool given = false;
};

/// What the options said of the model when a text was saved, kept beside it.
nlohmann::json SettingsJson(const GenerateFlags& options) {
  nlohmann::json settings = {{"context", options.context}, {"rope", options.rope}, {"dtype", options.dtype}};
  const auto add = [&](const char* key, const std::filesystem::path& file) {
    if (!file.empty()) settings[key] = TextOfBytes(std::filesystem::absolute(file).string());
  };
  add("index", options.prefix.index);
  if (!options.prefix.index.empty()) settings["keep"] = options.prefix.keep;
  add("grammar", options.format.grammar);
  add("json_schema", options.format.schema);
  return settings;
}

/// GenerateFlags that are not given now are as they were for the saved text; `goes_on`: no prompt comes behind it, so
/// that a form it was cut in goes on too. Errors: kFormat.
void TakeOverSettings(const nlohmann::json& notes, bool keep_given, bool goes_on, GenerateFlags* options) {
  if (!notes.is_object() || !notes.contains("settings")) return;  // as texts were saved before
  const JsonObject settings(notes["settings"], "the saved text's \"settings\"");
  if (options->context == 0) options->context = settings.Int("context", 0, int64_t{1} << 40);
  if (options->rope.empty()) options->rope = settings.String("rope");
  if (options->dtype.empty()) options->dtype = settings.String("dtype");
  if (notes["settings"].contains("index")) {
    if (options->prefix.index.empty()) options->prefix.index = BytesOfText(settings.String("index"));
    if (!keep_given) options->prefix.keep = settings.String("keep");
  }
  const bool form_given = !options->format.grammar.empty() || !options->format.schema.empty();
  if (!goes_on || form_given || !notes.contains("formed")) return;
  if (notes["settings"].contains("grammar")) options->format.grammar = BytesOfText(settings.String("grammar"));
  if (notes["settings"].contains("json_schema")) options->format.schema = BytesOfText(settings.String("json_schema"));
}

GenerateOptions MakeGenerateOptions(const GenerateFlags& options, const CommonOptions& common, const ModelSpec& spec,
                                    const Tokenizer& tokenizer, int64_t max_new) {
  GenerateOptions generate{.max_new = max_new, .sampler = options.sampler, .stops = options.stops};
  generate.sampler.seed = common.seed;
  generate.cancelled = InterruptGuard::Came;
  generate.end_ids = EndIds(spec, tokenizer);
  if (options.ignore_eos) generate.sampler.never = std::move(generate.end_ids);
  return generate;
}

/// The prompt as a user's message, in the form that the model was trained on.
std::vector<int32_t> ChatIds(const GenerateFlags& options, const std::string& prompt, const Tokenizer& tokenizer) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return ChatTemplate(tokenizer).Ids(messages, /*answer=*/true);
}

/// The prompt of a new text, or the text that goes on behind an earlier one or a prefix.
std::vector<int32_t> IdsToFeed(const GenerateFlags& options, const std::string& prompt, const Tokenizer& tokenizer,
                               const Earlier& earlier) {
  if (options.chat) return ChatIds(options, prompt, tokenizer);
  if (!options.prefix.index.empty() && !earlier.given) {
    std::vector<int32_t> ids = tokenizer.Encode(prompt, options.parse_special, /*goes_on=*/true);
    if (ids.empty()) Fail(ErrorKind::kUsage, "behind --index give the text as it goes on with --prompt");
    return ids;
  }
  if (!earlier.given) return PromptIds(prompt, tokenizer, options.parse_special, ParseBosRule(options.bos));
  std::vector<int32_t> ids = tokenizer.Encode(prompt, options.parse_special, /*goes_on=*/!earlier.text.at_start);
  if (ids.empty() && earlier.text.pending.empty()) {
    Fail(ErrorKind::kUsage, "the text saved in {} has come to its end; say how it goes on with --prompt",
         options.load_state.string());
  }
  return ids;
}

/// The text to continue: of one of the options, or of a pipe or file at stdin. Errors: kUsage for two of them.
std::string ReadPrompt(const GenerateFlags& options, Command command) {
  const bool by_option = command.Has("--prompt"), by_word = command.Has("PROMPT"),
             by_file = command.Has("--prompt-file");
  if (by_option + by_word + by_file > 1) {
    Fail(ErrorKind::kUsage,
         "a prompt is given twice: each of --prompt, --prompt-file and a text behind MODEL excludes the others");
  }
  if (by_option) return options.prompt;
  if (by_word) return options.words;
  if (by_file && options.prompt_file == "-") return ReadStdin("the prompt");
  if (by_file) return ReadFile(options.prompt_file);
  return StdinHoldsText() ? ReadStdinLine("the prompt (--prompt \"\" is none)") : "";
}

std::string_view EndedBy(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "--max-new";
    case StopReason::kEos:
      return "the end of the text";
    case StopReason::kStop:
      return "--stop, or the end of the grammar";
    case StopReason::kCancelled:
      return "the user";
  }
  return "";
}

nlohmann::json ResultJson(const GenerateResult& result, int64_t prompt_tokens) {
  return {{"ids", result.ids},
          {"prompt_tokens", prompt_tokens},
          {"new_tokens", result.ids.size()},
          {"stop", Name(result.stop)},
          {"seconds", result.prefill_seconds + result.decode_seconds},
          {"prefill_tokens_per_second", result.prefill_tokens_per_second()},
          {"decode_tokens_per_second", result.decode_tokens_per_second()}};
}

/// Errors: kUsage for options of caches, which have no meaning where candidates are read.
void RefuseBesideFocus(Command command) {
  for (const char* option : {"--kv", "--context", "--save-state", "--load-state", "--index", "--keep"}) {
    if (!command.Has(option)) continue;
    Fail(ErrorKind::kUsage, "--focus does not go with {}: chunks and window have caches of their own", option);
  }
}

/// The text is read through candidates (--focus).
int RunFocus(const GenerateFlags& options, const std::string& prompt, const ModelToRun& run,
             const CommonOptions& common) {
  const Tokenizer& tokenizer = *run.model.tokenizer;
  const ModelSpec& spec = run.weights.spec();
  const FocusToRun focus = OpenFocus(options.focus, run.weights);
  const std::vector<int32_t> ids = IdsToFeed(options, prompt, tokenizer, {});
  const auto prompt_tokens = std::ssize(ids);
  const int32_t bos = FocusBos(tokenizer, ParseBosRule(options.bos));
  const int64_t room = FocusRoom(spec, focus.options.shape, prompt_tokens, bos >= 0 && ids.front() == bos);
  const int64_t max_new = options.max_new > 0 ? options.max_new : std::min(kDefaultMaxNew, room);
  if (max_new > room || max_new == 0) {
    Fail(ErrorKind::kUsage,
         "{} new tokens do not fit: behind {} of the prompt, chunks, window and candidates leave room for {} in the "
         "context of {}; ask for less, or give a smaller chunk, prompt or local",
         std::max<int64_t>(1, max_new), prompt_tokens, room, spec.context);
  }
  GenerateOptions generate = MakeGenerateOptions(options, common, spec, tokenizer, max_new);
  generate.at_start = prompt.empty();
  generate.constraint = ConstraintOf(options.format, tokenizer);
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  Decoder base(backend.get(), run.weights), condenser(backend.get(), focus.candidates);
  FocusStream stream(backend.get(), &base, &condenser, run.weights.dtype(), bos, focus.options);
  const auto show = [&](std::string_view piece) {
    if (!common.json) PrintRaw(piece);
  };
  if (options.echo) show(prompt);
  const InterruptGuard guard;
  const GenerateResult result = Generate(stream, ids, tokenizer, generate, show);
  show("\n");
  LogLine(fmt::format("read {}, wrote {}, ended by {}", AtRate(prompt_tokens, result.prefill_tokens_per_second()),
                      AtRate(std::ssize(result.ids), result.decode_tokens_per_second()), EndedBy(result.stop)));
  LogLine(FocusLine(stream));
  if (common.json) {
    nlohmann::json json = ResultJson(result, prompt_tokens);
    json["text"] = options.echo ? prompt + result.text : result.text;
    json["focus"] = FocusJson(stream, focus.options);
    PrintJson(json);
  }
  return InterruptGuard::Came() ? kInterrupted : 0;
}

int Run(GenerateFlags options, Command command, const CommonOptions& common) {
  const std::string prompt = ReadPrompt(options, command);
  if (options.chat && !options.load_state.empty()) {
    Fail(ErrorKind::kUsage, "--chat begins a conversation; behind --load-state give the text as it goes on");
  }
  if (!options.chat && !options.system.empty()) Fail(ErrorKind::kUsage, "--system goes with --chat");
  Earlier earlier;
  if (!options.load_state.empty()) {
    earlier = {.info = ReadKvStateInfo(options.load_state), .given = true};
    WithFrame(options.load_state.string(),
              [&] { TakeOverSettings(earlier.info.notes, command.Has("--keep"), prompt.empty(), &options); });
  }
  if (!options.focus.empty()) RefuseBesideFocus(command);
  const ModelToRun run = OpenModelToRun(options.model, options.rope, options.context, options.dtype);
  if (!options.focus.empty()) return RunFocus(options, prompt, run, common);
  const Tokenizer& tokenizer = *run.model.tokenizer;
  const ModelSpec& spec = run.weights.spec();
  if (earlier.given) {
    earlier.text =
        WithFrame(options.load_state.string(), [&] { return ParseTextState(earlier.info.notes, spec.vocab); });
  }
  const KvForm form = ChooseForm(options.kv.empty() && earlier.given ? earlier.info.policy : options.kv, spec);
  const std::vector<int32_t> ids = IdsToFeed(options, prompt, tokenizer, earlier);
  const auto prompt_tokens = static_cast<int64_t>(ids.size());
  const int64_t length = options.context > 0 ? options.context
                         : earlier.given     ? earlier.info.declared_length
                                             : 0;  // as many as there are
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const std::shared_ptr<SqueezedReader> prefix =
      OpenPrefixOf(options.prefix, command.Has("--keep"), backend.get(), run.weights, length);
  const int64_t behind = earlier.given ? earlier.info.seen : prefix != nullptr ? prefix->tokens() : 0;
  const int64_t max_new = MaxNew(options, spec, form, behind + prompt_tokens);

  GenerateOptions generate = MakeGenerateOptions(options, common, spec, tokenizer, max_new);
  generate.at_start = prompt.empty() && (earlier.given ? earlier.text.at_start : prefix == nullptr);
  generate.hold = !options.save_state.empty();
  generate.reseed = command.Has("--seed");
  generate.constraint = ConstraintOf(options.format, tokenizer);

  const DType dtype = run.weights.dtype();
  Decoder decoder(backend.get(), run.weights);
  if (length > 0 && DependsOnLength(spec.rope)) {
    LogLine(fmt::format("note: positions are scaled for {} tokens from the start, as --context declares", length));
  }
  KvCache cache = NewKvCache(backend.get(), decoder.spec(), form,
                             ModelSeparators(&tokenizer, form.separator_set, spec.vocab), dtype, length);
  if (prefix != nullptr) cache.Follow(prefix);
  TextState& text = earlier.text;
  if (earlier.given) LoadKvState(options.load_state, ModelFingerprint(run.weights), &cache);
  CheckCacheFits(cache, prompt_tokens, max_new);
  Generation generation(&decoder, &cache);

  const auto show = [&](std::string_view piece) {
    if (!common.json) PrintRaw(piece);
  };
  if (options.echo) show(prompt);
  const InterruptGuard guard;
  const GenerateResult result = Generate(generation, ids, tokenizer, generate, show, &text);
  show("\n");
  if (!options.save_state.empty()) {
    nlohmann::json notes = ToJson(text);
    notes["settings"] = SettingsJson(options);
    SaveKvState(cache, ModelFingerprint(run.weights), options.save_state, notes);
  }

  const auto new_tokens = static_cast<int64_t>(result.ids.size());
  LogLine(fmt::format("read {}, wrote {}, ended by {}", AtRate(prompt_tokens, result.prefill_tokens_per_second()),
                      AtRate(new_tokens, result.decode_tokens_per_second()), EndedBy(result.stop)));
  LogLine(CacheText(cache));
  if (common.json) {
    nlohmann::json json = ResultJson(result, prompt_tokens);
    json["kv"] = KvReportJson(cache);
    json["text"] = options.echo ? prompt + result.text : result.text;
    if (earlier.given) json["continues_after"] = earlier.info.seen;
    if (!options.save_state.empty()) {
      json["saved_state"] = options.save_state.string();
      json["held_bytes"] = text.held.size();
    }
    PrintJson(json);
  }
  return InterruptGuard::Came() ? kInterrupted : 0;
}

}  // namespace

std::function<int()> SetupGenerate(Command command, CommonOptions& common) {
  auto options = std::make_shared<GenerateFlags>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command.Add("PROMPT", options->words, "Text to continue");
  command.Add("-p,--prompt", options->prompt,
              "Text to continue (default: what comes through a pipe, without a newline at its end)");
  command.Add("--prompt-file", options->prompt_file, "File with the text to continue; -: standard input as it is")
      .Reads();
  command.Add("--parse-special", options->parse_special, "Names of special tokens in the prompt are those tokens");
  command.Add("--chat", options->chat, "The prompt is a user's message, put in the model's chat template");
  command.Add("--system", options->system, "System message in front of it, with --chat");
  command.Add("--bos", options->bos, "BOS in front of the prompt: auto (the tokenizer's rule), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--echo", options->echo, "Print the prompt in front of its continuation");
  command
      .Add("-n,--max-new", options->max_new,
           fmt::format("New tokens at most (default {}, or what fits the context)", kDefaultMaxNew))
      .Range(1, int64_t{1} << 40);
  AddSamplerOptions(command, options->sampler);
  command.Add("--ignore-eos", options->ignore_eos, "Never end the text: the tokens that would are not drawn");
  command.Add("--stop", options->stops, "End in front of this text; may be given several times").OneArgument();
  AddCacheOptions(command, *options);
  AddPrefixOptions(command, options->prefix,
                   "The text goes on behind the prefix in this file, which hawser index wrote");
  AddFocusOption(command, options->focus);
  AddFormatOptions(command, options->format, "the new text");
  command
      .Add("--save-state", options->save_state,
           "Write the cache to this file at the end, or at Ctrl-C, to go on from it later")
      .Writes();
  command
      .Add(
          "--load-state", options->load_state,
          "Go on after the text whose cache --save-state wrote: same model, rope and policy (all but MODEL may be left "
          "out); --prompt, if any, comes behind that text")
      .MayBeReplaced();
  return [options, command, &common] { return Run(*options, command, common); };
}

}  // namespace hawser
