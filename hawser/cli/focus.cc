#include "hawser/cli/focus.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/form.h"
#include "hawser/base/size.h"
#include "hawser/eval/report.h"
#include "hawser/zoo/focus_file.h"

namespace hawser {
namespace {

struct FocusForm {
  static constexpr std::string_view kName = "focus", kHelp = "how a long text is read through candidates";
  int64_t chunk = 0, prompt = 0, local = 0, sync = 0;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(chunk, {"chunk", "tokens of memory that are read together", 1, 1 << 30});
    v(prompt, {"prompt", "tokens of the window behind each chunk", 1, 1 << 30});
    v(local, {"local", "tokens of the window", 1, 1 << 30});
    v(sync, {"sync", "tokens between new candidates", 1, 1 << 30});
  }
};

/// Where the keys behind a path begin: at the first comma with "word=" behind it.
size_t EndOfPath(std::string_view text) {
  for (size_t comma = text.find(','); comma != std::string_view::npos; comma = text.find(',', comma + 1)) {
    const std::string_view rest = text.substr(comma + 1);
    const size_t equals = rest.find('=');
    if (equals == std::string_view::npos || equals == 0) continue;
    const std::string_view word = rest.substr(0, equals);
    if (std::ranges::all_of(word, [](unsigned char c) { return std::isalpha(c) != 0 || c == '_'; })) return comma;
  }
  return text.size();
}

}  // namespace

void AddFocusOption(Command command, std::string& text) {
  command.Add("--focus", text,
              "Read a long prompt through the candidates of this file or run (--objective focus): "
              "FILE,chunk=M,prompt=P,local=L,sync=R; what is left out is as they were trained");
}

FocusToRun OpenFocus(const std::string& text, const Weights& model) {
  const size_t end = EndOfPath(text);
  FocusForm form;
  if (end < text.size()) form = ParseForm<FocusForm>("--focus", "focus:" + text.substr(end + 1));
  FocusToRun run{.candidates = model, .file = text.substr(0, end)};
  const FocusAdapters adapters = ReadFocusAdapters(run.file, model);
  const auto given = [](int64_t value, int64_t otherwise) { return value > 0 ? value : otherwise; };
  FocusShape& shape = run.options.shape;
  shape.chunk = given(form.chunk, adapters.shape.chunk);
  shape.local = given(form.local, adapters.shape.local);
  shape.prompt = given(form.prompt, std::min(adapters.shape.prompt, shape.local));
  run.options.sync = given(form.sync, adapters.sync);
  run.candidates = WithCandidates(model, adapters.candidates);
  return run;
}

std::string FocusLine(const FocusStream& stream) {
  const FocusRows& rows = stream.rows();
  return fmt::format("focus: {} of memory in {}; rows: {} of chunks, {} of candidates, {} of windows; caches {}",
                     Counted(stream.memory(), "token"), Counted(stream.chunks(), "chunk"), rows.chunk, rows.candidate,
                     rows.local, HumanBytes(stream.bytes()));
}

nlohmann::json FocusJson(const FocusStream& stream, const FocusOptions& options) {
  const FocusRows& rows = stream.rows();
  return {{"chunk", options.shape.chunk}, {"prompt", options.shape.prompt},   {"local", options.shape.local},
          {"sync", options.sync},         {"memory", stream.memory()},        {"chunks", stream.chunks()},
          {"chunk_rows", rows.chunk},     {"candidate_rows", rows.candidate}, {"local_rows", rows.local},
          {"bytes", stream.bytes()}};
}

}  // namespace hawser
