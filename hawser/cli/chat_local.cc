// A talk with a model in this process.
#include <fmt/format.h>

#include "hawser/base/size.h"
#include "hawser/cli/line_input.h"
#include "hawser/cli/talker.h"
#include "hawser/infer/chat.h"
#include "hawser/kv/report.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

class LocalTalker : public Talker {
 public:
  LocalTalker(const ChatOptions& options, const CommonOptions& common)
      : run_(OpenModelToRun(options.model, options.rope, options.context, options.dtype)) {
    const ModelSpec& spec = run_.weights.spec();
    const KvForm form = ChooseForm(options.kv, spec);
    most_ = MostTokens(options, spec, form);
    backend_ = MakeBackend(common.device);
    decoder_ = std::make_unique<Decoder>(backend_.get(), run_.weights);
    cache_ = std::make_unique<KvCache>(
        NewKvCache(backend_.get(), decoder_->spec(), form,
                   ModelSeparators(run_.model.tokenizer.get(), form.separator_set, spec.vocab), run_.weights.dtype(),
                   options.context));
    if (const auto prefix =
            OpenPrefixOf(options.prefix, options.keep_given, backend_.get(), run_.weights, options.context)) {
      cache_->Follow(prefix);
    }
    chat_ = std::make_unique<Chat>(decoder_.get(), cache_.get(), run_.model.tokenizer.get(), most_);
    generate_.max_new = options.max_new;
    generate_.sampler = options.sampler;
    generate_.sampler.seed = common.seed;
    generate_.stops = options.stops;
    generate_.end_ids = EndIds(spec, *run_.model.tokenizer);
    generate_.cancelled = InterruptCatcher::Came;
    generate_.constraint = ConstraintOf(options.format, *run_.model.tokenizer);
  }

  const Json& messages() const override { return chat_->messages(); }
  void SetMessages(Json messages) override { chat_->SetMessages(std::move(messages)); }
  const std::string& system() const override { return chat_->system(); }
  void SetSystem(std::string text) override { chat_->SetSystem(std::move(text)); }
  void Reset() override { chat_->Reset(); }

  TalkAnswer Answer(const std::string& text, const std::function<void(std::string_view)>& show) override {
    const GenerateResult result = chat_->Answer(text, generate_, show);
    read_ += result.prompt_tokens;
    written_ += static_cast<int64_t>(result.ids.size());
    reread_ += chat_->reread();
    read_seconds_ += result.prefill_seconds;
    decode_seconds_ += result.decode_seconds;
    decode_steps_ += result.steps;
    return {.text = result.text,
            .stop = result.stop,
            .json = {{"text", result.text},
                     {"ids", result.ids},
                     {"stop", Name(result.stop)},
                     {"prompt_tokens", result.prompt_tokens},
                     {"reread_tokens", chat_->reread()},
                     {"new_tokens", result.ids.size()},
                     {"seen_tokens", cache_->seen()},
                     {"seconds", result.prefill_seconds + result.decode_seconds},
                     {"prefill_tokens_per_second", result.prefill_tokens_per_second()},
                     {"decode_tokens_per_second", result.decode_tokens_per_second()},
                     {"kv", KvReportJson(*cache_)}}};
  }

  std::string Stats() const override {
    const auto rate = [](int64_t tokens, double seconds) {
      return AtRate(tokens, seconds > 0 ? static_cast<double>(tokens) / seconds : 0);
    };
    std::string text = fmt::format("read {}, {} of them again; wrote {}\n", rate(read_, read_seconds_), reread_,
                                   AtRate(written_, decode_seconds_ > 0 ? decode_steps_ / decode_seconds_ : 0));
    text += CacheText(*cache_) + "\n";
    if (most_ < INT64_MAX) text += fmt::format("{} of {} are left\n", most_ - cache_->seen(), Counted(most_, "token"));
    return text;
  }

 private:
  ModelToRun run_;
  int64_t most_ = 0;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Chat> chat_;
  GenerateOptions generate_;
  int64_t read_ = 0, written_ = 0, reread_ = 0, decode_steps_ = 0;
  double read_seconds_ = 0, decode_seconds_ = 0;
};

}  // namespace

std::unique_ptr<Talker> MakeLocalTalker(const ChatOptions& options, const CommonOptions& common) {
  return std::make_unique<LocalTalker>(options, common);
}

}  // namespace hawser
