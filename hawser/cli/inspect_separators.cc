// hawser inspect separators: which tokens of a vocabulary separate text, how often they come, and how much attention a
// model pays them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"
#include "hawser/cli/inspect.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/drift.h"
#include "hawser/eval/picture_file.h"
#include "hawser/eval/separator_attention.h"
#include "hawser/model/places.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

struct SeparatorOptions {
  ModelOptions model;
  std::string form = "text";
  std::vector<std::filesystem::path> data;
  int32_t top = 40;
  bool attention = false;
  int64_t window = 64, sequences = 8, tokens = 0;
  std::string bos = "auto";
  std::filesystem::path svg;
};

/// What the data say of a set of separators.
struct Measured {
  int64_t tokens = 0, separators = 0;
  std::vector<int64_t> counts;  // by id
  std::vector<int64_t> gaps;    // tokens from one separator to the next, sorted

  /// The least gap that a share of `quantile` of all gaps does not exceed.
  int64_t Gap(double quantile) const {
    if (gaps.empty()) return 0;
    return gaps[static_cast<size_t>(std::max(1.0, std::ceil(quantile * static_cast<double>(gaps.size())))) - 1];
  }
  double MeanGap() const {
    double sum = 0;
    for (const int64_t gap : gaps) sum += static_cast<double>(gap);
    return gaps.empty() ? 0 : sum / static_cast<double>(gaps.size());
  }
  double Density() const { return tokens > 0 ? static_cast<double>(separators) / static_cast<double>(tokens) : 0; }
};

Measured Measure(const Tokenizer& tokenizer, const std::vector<uint8_t>& flags,
                 const std::vector<std::filesystem::path>& data) {
  Measured m;
  m.counts.resize(flags.size());
  for (const Document& document : TokenizeDocuments(ReadDocuments(ListDataFiles(data)), tokenizer)) {
    int64_t last = -1;
    for (size_t t = 0; t < document.tokens.size(); ++t) {
      const auto id = static_cast<size_t>(document.tokens[t]);
      ++m.counts[id];
      if (flags[id] == 0) continue;
      ++m.separators;
      if (last >= 0) m.gaps.push_back(static_cast<int64_t>(t) - last);
      last = static_cast<int64_t>(t);
    }
    m.tokens += static_cast<int64_t>(document.tokens.size());
  }
  std::ranges::sort(m.gaps);
  return m;
}

constexpr int64_t kAttentionTokens = 2048;

SeparatorAttention MeasureAttention(const SeparatorOptions& options, const CommonOptions& common,
                                    const std::vector<uint8_t>& flags) {
  const ModelToRun run = OpenModelToRun(options.model, {}, options.tokens, "f32");
  const int64_t meant = MaxContext(run.weights.spec(), run.model.spec.context);
  const int64_t tokens = options.tokens > 0 ? options.tokens : std::min(kAttentionTokens, meant);
  if (tokens > meant) LogLine(fmt::format("note: {} tokens are beyond the {} this model is meant for", tokens, meant));
  const auto sequences = DriftSequences(ReadDocuments(ListDataFiles(options.data)), *run.model.tokenizer,
                                        options.sequences, tokens, ParseBosRule(options.bos));
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  ProgressBar bar("attention", static_cast<int64_t>(sequences.size()) * run.weights.spec().layers);
  const SeparatorAttention attention = MeasureSeparatorAttention(
      backend.get(), run.weights, *run.model.tokenizer, flags, sequences,
      {.window = options.window, .top = options.top, .on_layer = [&](int64_t done) { bar.Update(done); }});
  bar.Finish();
  return attention;
}

int RunSeparators(const SeparatorOptions& options, const CommonOptions& common) {
  if (options.attention && options.data.empty()) {
    Fail(ErrorKind::kUsage, "--attention: over which text? Give --data PATH...");
  }
  if (!options.svg.empty()) {
    if (!options.attention) Fail(ErrorKind::kUsage, "--svg draws attention by layer; give --attention");
    CheckPictureName(options.svg);
  }
  const auto tokenizer = OpenTokenizer(options.model);
  const std::vector<uint8_t> flags = SeparatorFlags(*tokenizer, options.form);
  const std::string warning = SeparatorWarning(flags, options.form);
  if (!warning.empty()) LogLine(warning);
  Measured m;
  if (!options.data.empty()) m = Measure(*tokenizer, flags, options.data);
  std::optional<SeparatorAttention> attention;
  if (options.attention) attention = MeasureAttention(options, common, flags);
  if (!options.svg.empty()) WritePicture(options.svg, ToSvg(*attention));

  std::vector<int32_t> ids;
  for (size_t id = 0; id < flags.size(); ++id) {
    if (flags[id] != 0) ids.push_back(static_cast<int32_t>(id));
  }
  const double share = static_cast<double>(ids.size()) / static_cast<double>(flags.size());
  const auto count = [&](int32_t id) { return m.counts.empty() ? int64_t{0} : m.counts[static_cast<size_t>(id)]; };
  if (common.json) {
    nlohmann::json tokens = nlohmann::json::array();
    for (const int32_t id : ids) {
      nlohmann::json row = {{"id", id}, {"token", tokenizer->Display(id)}};
      if (m.tokens > 0) row["count"] = count(id);
      tokens.push_back(std::move(row));
    }
    nlohmann::json json = {{"separators", options.form},
                           {"vocabulary", flags.size()},
                           {"matched", ids.size()},
                           {"vocabulary_share", share},
                           {"warning", warning.empty() ? nlohmann::json() : nlohmann::json(warning)},
                           {"tokens", std::move(tokens)}};
    if (!options.data.empty()) {
      json["data"] = {
          {"tokens", m.tokens},
          {"separators", m.separators},
          {"density", m.Density()},
          {"gap", {{"mean", m.MeanGap()}, {"median", m.Gap(0.5)}, {"p99", m.Gap(0.99)}, {"max", m.Gap(1)}}}};
    }
    if (attention) json["attention"] = ToJson(*attention);
    PrintJson(json);
    return 0;
  }
  // The most frequent first where there are data; else by id.
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) { return count(a) > count(b); });
  std::string text = fmt::format("{:>8}  {:<16}{}\n", "id", "token", m.tokens > 0 ? "      count   share" : "");
  const size_t shown = std::min(ids.size(), static_cast<size_t>(options.top));
  for (size_t i = 0; i < shown; ++i) {
    const int32_t id = ids[i];
    text += fmt::format("{:>8}  {:<16}", id, PrintableLine(tokenizer->Display(id), 60));
    if (m.tokens > 0) {
      text += fmt::format(" {:>10} {:>6.2f}%", count(id),
                          100.0 * static_cast<double>(count(id)) / static_cast<double>(m.tokens));
    }
    text += '\n';
  }
  if (shown < ids.size()) text += fmt::format("{:>8}  and {} more (--top N shows N)\n", "", ids.size() - shown);
  text += fmt::format("\nseparators '{}': {} of {} tokens, {:.1f} % of the vocabulary\n", options.form, ids.size(),
                      flags.size(), 100 * share);
  if (!options.data.empty()) {
    text += fmt::format("in the data: {} of {} tokens, density {:.4f}\n", m.separators, m.tokens, m.Density());
    text += fmt::format("tokens from one to the next: mean {:.1f}, median {}, 99 % within {}, at most {}\n",
                        m.MeanGap(), m.Gap(0.5), m.Gap(0.99), m.Gap(1));
  }
  if (attention) text += "\n" + ToText(*attention);
  PrintText(text);
  return 0;
}

}  // namespace

std::function<int()> SetupInspectSeparators(Command command, CommonOptions& common) {
  auto options = std::make_shared<SeparatorOptions>();
  AddModelOptions(command, options->model);
  command
      .Add("--sep", options->form,
           "Which tokens separate: text (the rule: . , ? ! ; : a newline, or blank), a preset (neox-9, neox-20, "
           "llama3-9, llama3-17, llama3-18, falcon-13) or ids, joined by +")
      .ShowDefault();
  command.Add("--data", options->data, "Text to measure the density on: .txt and .jsonl files, or folders of them");
  command.Add("--top", options->top, "Tokens listed at most").Range(1, int64_t{1} << 30).ShowDefault();
  command.Add("--attention", options->attention,
              "Also run the model over --data: the attention that separators draw, by layer and by token");
  command.Add("--window", options->window, "Of --attention: keys among the last N tokens are near, others are far")
      .Range(1, int64_t{1} << 30)
      .ShowDefault();
  command.Add("--sequences", options->sequences, "Of --attention: texts to average over, spread evenly over the data")
      .Range(1, 1 << 20)
      .ShowDefault();
  command
      .Add("--tokens", options->tokens,
           "Of --attention: tokens of a text; default: 2048, or the model's context if shorter")
      .Range(2, 1 << 24);
  command.Add("--bos", options->bos, "Of --attention: BOS in front of a text: auto (the tokenizer's rule), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--svg", options->svg, "Of --attention: draw it by layer in this file: .svg, .png or .pdf").Writes();
  return [options, &common] { return RunSeparators(*options, common); };
}

}  // namespace hawser
