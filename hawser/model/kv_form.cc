#include "hawser/model/kv_form.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "hawser/attn/pattern.h"
#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

constexpr std::array<std::string_view, 3> kPositionNames = {"absolute", "rank", "cachelen"};
constexpr std::array<std::string_view, 2> kTriggerNames = {"overflow", "full"};
constexpr std::array<std::string_view, 2> kPrefillNames = {"sparse", "dense"};
constexpr std::array<std::string_view, 3> kDTypeNames = {"f32", "bf16", "q8_0"};
constexpr std::array<DType, 3> kDTypes = {DType::kF32, DType::kBF16, DType::kQ8_0};
constexpr std::array<std::string_view, 2> kSwitchNames = {"off", "on"};
// Leaves room for sums and + 1 in int32, the type of windows and slot numbers.
constexpr int64_t kMost = int64_t{1} << 29;

struct Field {
  std::string_view name;
  int64_t least;
  bool may_be_all = false;
};

/// One row a kind: what its numbers are called and which options it knows.
struct Row {
  std::string_view name;
  KvKind kind;
  std::array<Field, 4> fields;
  size_t num_fields;
  KvPositions positions;  // the standard ones
  bool separators;
  std::string_view summary;
};
constexpr std::array<Row, 6> kRows = {{
    {"full", KvKind::kFull, {}, 0, KvPositions::kAbsolute, false, "every token stays"},
    {"window",
     KvKind::kWindow,
     {{{"W", 1, true}}},
     1,
     KvPositions::kAbsolute,
     false,
     "the last W - 1 and the token itself"},
    {"sink",
     KvKind::kSink,
     {{{"a", 0}, {"c", 1, true}}},
     2,
     KvPositions::kRank,
     false,
     "StreamingLLM: the first a and the last c"},
    {"sep",
     KvKind::kSep,
     {{{"a", 0}, {"n", 1, true}}},
     2,
     KvPositions::kAbsolute,
     true,
     "SepLLM: the first a, all separators, a window of n"},
    {"fix",
     KvKind::kFix,
     {{{"a", 0}, {"n", 1, true}, {"d", 1}}},
     3,
     KvPositions::kAbsolute,
     false,
     "FixLLM: the first a, each d-th token, a window of n"},
    {"sep-stream",
     KvKind::kSepStream,
     {{{"a", 0}, {"s", 1}, {"w", 1}, {"c", 1}}},
     4,
     KvPositions::kRank,
     true,
     "SepLLM as a stream: the first a, s separators, w of the last, never more than c"},
}};

/// A name for a form that many want. `expansion` ends where options may follow; N of bounded:N is a number.
struct Preset {
  std::string_view name;
  std::string_view expansion;
  std::string_view summary;
};
constexpr Preset kPresets[] = {{"streaming", "sink:4,796", "an endless text in 800 tokens, by recency"},
                               {"sepllm", "sep-stream:4,64,256,800", "an endless text in 800 tokens, by separators"},
                               {"bounded:N", "sink:4,N-4", "at most N tokens, by recency"}};
constexpr int64_t kBoundedSinks = 4;

/// The text with a preset written out; any other text as it is.
std::string ExpandPreset(std::string_view text) {
  const size_t end = std::min(text.find_first_of(":,"), text.size());
  const std::string_view name = text.substr(0, end);
  if (name == "bounded") {
    const std::string_view rest = text.substr(std::min(end + 1, text.size()));
    const std::string_view number = rest.substr(0, rest.find(','));
    const auto most = ParseSize(number);
    if (end == text.size() || text[end] != ':' || !most || *most <= kBoundedSinks || *most > kMost) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": bounded:N wants a whole number of tokens from {} to {}, found \"{}\"",
           text, kBoundedSinks + 1, kMost, number);
    }
    return fmt::format("sink:{},{}{}", kBoundedSinks, *most - kBoundedSinks, rest.substr(number.size()));
  }
  for (const Preset& preset : kPresets) {
    if (preset.name != name) continue;
    if (end == text.size()) return std::string(preset.expansion);
    return fmt::format("{},{}", preset.expansion, text.substr(end + 1));
  }
  return std::string(text);
}

std::string FormOf(const Row& row) {
  std::string form(row.name);
  for (size_t i = 0; i < row.num_fields; ++i) form.append(i == 0 ? ":" : ",").append(row.fields[i].name);
  return form;
}

const Row& RowOf(KvKind kind) { return kRows[static_cast<size_t>(kind)]; }

std::vector<std::string> OptionNames(const Row& row) {
  std::string dtype = fmt::format("dtype={}", fmt::join(kDTypeNames, "|"));
  if (row.kind == KvKind::kFull) return {dtype};
  std::vector<std::string> names;
  names.push_back(fmt::format("positions={}", fmt::join(kPositionNames, "|")));
  if (row.kind == KvKind::kSepStream) names.push_back(fmt::format("policy={}", fmt::join(kTriggerNames, "|")));
  names.push_back("prefill=sparse|dense");
  names.push_back("full-layers=0+1");
  if (row.separators) names.push_back("sep=FORM");
  if (row.kind == KvKind::kSepStream) {
    names.push_back("accumulate=on|off");
    names.push_back("bounded=on|off");
  }
  names.push_back(std::move(dtype));
  return names;
}

template <class T, size_t N>
bool Choose(std::string_view value, const std::array<std::string_view, N>& names, T* out) {
  const auto found = std::ranges::find(names, value);
  if (found == names.end()) return false;
  *out = static_cast<T>(found - names.begin());
  return true;
}

/// The pieces of one text: `kind:part,part,...`.
class FormReader {
 public:
  explicit FormReader(std::string_view text) : text_(text) {
    size_t end = std::min(text.find(':'), text.size());
    kind_ = text.substr(0, end);
    while (end < text.size()) {
      const size_t begin = end + 1;
      end = std::min(text.find(',', begin), text.size());
      parts_.push_back(text.substr(begin, end - begin));
    }
  }

  std::string_view kind() const { return kind_; }
  std::string_view text() const { return text_; }

  /// Takes the part `name=value` if there is one.
  std::optional<std::string_view> Take(std::string_view name) {
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!parts_[i].starts_with(name) || parts_[i].substr(name.size(), 1) != "=") continue;
      const std::string_view value = parts_[i].substr(name.size() + 1);
      parts_.erase(parts_.begin() + static_cast<int64_t>(i));
      if (std::ranges::any_of(
              parts_, [&](std::string_view p) { return p.starts_with(name) && p.substr(name.size(), 1) == "="; })) {
        Fail(ErrorKind::kUsage, "kv policy \"{}\": {}= is given twice", text_, name);
      }
      return value;
    }
    return std::nullopt;
  }

  /// Takes the field by its name, or the first part without one.
  KvForm::Number TakeNumber(const Field& field) {
    std::optional<std::string_view> value = Take(field.name);
    if (!value && !parts_.empty() && parts_.front().find('=') == std::string_view::npos) {
      value = parts_.front();
      parts_.erase(parts_.begin());
    }
    if (!value)
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} is missing; the forms are {}", text_, field.name, KvFormList());
    return ReadNumber(field, *value);
  }

  KvForm::Number ReadNumber(const Field& field, std::string_view value) const {
    KvForm::Number number;
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find('+', begin), value.size());
      const std::string_view part = value.substr(begin, end - begin);
      begin = end + 1;
      if (field.may_be_all && part == "all") {
        number.push_back(KvForm::kAll);
        continue;
      }
      const auto n = ParseSize(part);
      if (!n || *n < field.least || *n > kMost) {
        Fail(ErrorKind::kUsage, "kv policy \"{}\": {} must be a whole number from {} to {}{}, found \"{}\"", text_,
             field.name, field.least, kMost, field.may_be_all ? " or all" : "", part);
      }
      number.push_back(*n);
    }
    // Equal ones say the same as one.
    if (std::ranges::all_of(number, [&](int64_t n) { return n == number.front(); })) number.resize(1);
    return number;
  }

  template <class T, size_t N>
  void TakeChoice(std::string_view name, const std::array<std::string_view, N>& names, T* out) {
    const auto value = Take(name);
    if (value && !Choose(*value, names, out)) FailOption(fmt::format("{}={}", name, *value));
  }

  void TakeLayersAndSeparators(KvForm* form) {
    if (const auto value = Take("full-layers")) {
      form->full_layers = WithFrame(fmt::format("kv policy \"{}\"", text_), [&] { return ParseLayerList(*value); });
    }
    if (!RowOf(form->kind).separators) return;
    if (const auto value = Take("sep")) {
      if (value->empty()) FailOption("sep=");
      form->separator_set = *value == "text" ? "" : *value;
    }
  }

  void TakeDType(KvForm* form) {
    size_t which = kDTypes.size();
    TakeChoice("dtype", kDTypeNames, &which);
    if (which < kDTypes.size()) form->dtype = kDTypes[which];
  }

  void ExpectEnd() const {
    if (!parts_.empty()) FailOption(parts_.front());
  }

 private:
  [[noreturn]] void FailOption(std::string_view part) const {
    std::string known = "none";
    for (const Row& row : kRows) {
      if (row.name == kind_) known = fmt::format("{}", fmt::join(OptionNames(row), ", "));
    }
    if (kind_ == "sepcache") known = "the parameters of SepCache, full-layers=, prefill= and dtype=";
    Fail(ErrorKind::kUsage, "kv policy \"{}\": unknown option \"{}\"; {} knows {}", text_, part, kind_, known);
  }

  std::string_view text_, kind_;
  std::vector<std::string_view> parts_;
};

int64_t NumberOf(const KvForm::Number& number, int32_t layer) {
  return number.size() == 1 ? number[0] : number[static_cast<size_t>(layer)];
}

void CheckStream(std::string_view text, const KvForm& form) {
  size_t layers = 1;
  for (const KvForm::Number& number : form.numbers) layers = std::max(layers, number.size());
  for (size_t layer = 0; layer < layers; ++layer) {
    std::array<int64_t, 4> n{};
    for (size_t i = 0; i < n.size(); ++i) {
      if (form.numbers[i].size() > 1 && form.numbers[i].size() != layers) {
        Fail(ErrorKind::kUsage, "kv policy \"{}\": {} and {} numbers, one a layer each", text, form.numbers[i].size(),
             layers);
      }
      n[i] = NumberOf(form.numbers[i], static_cast<int32_t>(layer));
    }
    const auto [a, s, w, c] = n;
    if (a + s + w >= c) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": a + s + w must be less than c, found {} + {} + {} = {} and c = {}{}",
           text, a, s, w, a + s + w, c, layers > 1 ? fmt::format(" in layer {}", layer) : "");
    }
  }
}

/// The constructor of transformers' SepCache: what fills the cache before a token is attended compresses it, positions
/// are true ones, prompts are dense.
KvForm ReadSepCache(FormReader& reader) {
  KvForm form{.kind = KvKind::kSepStream, .trigger = KvTrigger::kFull, .prefill = KvPrefill::kDense};
  constexpr std::array<Field, 4> kSizes = {
      {{"init_cache_size", 0}, {"sep_cache_size", 1}, {"local_size", 1}, {"cache_size", 1}}};
  constexpr std::array<int64_t, 4> kDefaults = {4, 64, 256, 512};
  for (size_t i = 0; i < kSizes.size(); ++i) {
    const auto value = reader.Take(kSizes[i].name);
    form.numbers[i] = value ? reader.ReadNumber(kSizes[i], *value) : KvForm::Number{kDefaults[i]};
  }
  const auto flag = [&](std::string_view name, bool standard) {
    const auto value = reader.Take(name);
    if (!value) return standard;
    if (*value != "true" && *value != "false" && *value != "True" && *value != "False") {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} is true or false, found \"{}\"", reader.text(), name, *value);
    }
    return *value == "true" || *value == "True";
  };
  form.accumulate = flag("SEP_ACCUMULATION", true);
  form.bounded = flag("USE_MAX_SEP_CACHE", false);
  if (flag("APPLY_PE_SHIFT", false)) form.positions = KvPositions::kRank;
  reader.TakeChoice("prefill", kPrefillNames, &form.prefill);
  reader.TakeLayersAndSeparators(&form);
  if (const auto ids = reader.Take("separator_token_ids")) form.separator_set = *ids;
  reader.TakeDType(&form);
  reader.ExpectEnd();
  return form;
}

}  // namespace

bool KvForm::layered() const {
  return !full_layers.empty() || std::ranges::any_of(numbers, [](const Number& n) { return n.size() > 1; });
}

KvForm KvForm::OfLayer(int32_t layer, int32_t layers) const {
  const bool is_full = IsFullLayer(full_layers, layer, layers);
  KvForm of = *this;
  of.full_layers.clear();
  for (Number& number : of.numbers) {
    if (number.empty()) continue;
    if (number.size() > 1 && static_cast<int32_t>(number.size()) != layers) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} numbers for {} layers; give one, or one for each layer",
           ToString(*this), number.size(), layers);
    }
    number = {NumberOf(number, layer)};
  }
  const bool sees_all =
      kind != KvKind::kSepStream && kind != KvKind::kFull && of.numbers[kind == KvKind::kWindow ? 0 : 1][0] == kAll;
  return is_full || sees_all ? KvForm{.dtype = dtype} : of;
}

std::string KvFormList() {
  std::string list;
  for (const Row& row : kRows) list += FormOf(row) + ", ";
  list += "sepcache:NAME=VALUE,..";
  for (const Preset& preset : kPresets) list.append(", ").append(preset.name);
  return list;
}

std::string KvFormHelp() {
  std::string text;
  for (const Row& row : kRows) {
    text += fmt::format("  {:<20} {}\n", FormOf(row), row.summary);
    std::string names;
    for (const std::string& option : OptionNames(row)) {
      names.append(names.empty() ? "" : ", ").append(option, 0, option.find('='));
    }
    text += fmt::format("  {:<20}   options: {}\n", "", names);
  }
  text += fmt::format("  {:<20} {}\n", "sepcache:NAME=VALUE",
                      "the same as sep-stream, by the names of transformers' SepCache");
  text += "\npresets, with the options of what they stand for:\n";
  for (const Preset& preset : kPresets) {
    text += fmt::format("  {:<20} {} ({})\n", preset.name, preset.summary, preset.expansion);
  }
  return text;
}

KvForm ParseKvForm(std::string_view given) {
  const std::string text = ExpandPreset(given);
  FormReader reader(text);
  KvForm form;
  const auto row = std::ranges::find(kRows, reader.kind(), &Row::name);
  if (reader.kind() == "sepcache") {
    form = ReadSepCache(reader);
  } else if (row == kRows.end()) {
    std::vector<std::string_view> names = {"sepcache", "bounded"};
    for (const Row& known : kRows) names.push_back(known.name);
    for (const Preset& preset : kPresets) names.push_back(preset.name);
    Fail(ErrorKind::kUsage, "unknown kv policy \"{}\"{}; the forms are {}", text, SuggestName(reader.kind(), names),
         KvFormList());
  } else {
    form.kind = row->kind;
    form.positions = row->positions;
    for (size_t i = 0; i < row->num_fields; ++i) form.numbers[i] = reader.TakeNumber(row->fields[i]);
    if (row->kind != KvKind::kFull) {
      reader.TakeChoice("positions", kPositionNames, &form.positions);
      reader.TakeChoice("prefill", kPrefillNames, &form.prefill);
      reader.TakeLayersAndSeparators(&form);
    }
    if (row->kind == KvKind::kSepStream) {
      reader.TakeChoice("policy", kTriggerNames, &form.trigger);
      reader.TakeChoice("accumulate", kSwitchNames, &form.accumulate);
      reader.TakeChoice("bounded", kSwitchNames, &form.bounded);
    }
    reader.TakeDType(&form);
    reader.ExpectEnd();
  }
  if (form.kind == KvKind::kSepStream) CheckStream(text, form);
  return form;
}

std::string ToString(const KvForm& form) {
  const Row& row = RowOf(form.kind);
  std::string text(row.name);
  for (size_t i = 0; i < row.num_fields; ++i) {
    text += i == 0 ? ":" : ",";
    for (size_t n = 0; n < form.numbers[i].size(); ++n) {
      const int64_t value = form.numbers[i][n];
      text += (n > 0 ? "+" : "") + (value == KvForm::kAll ? "all" : fmt::format("{}", value));
    }
  }
  if (form.trigger == KvTrigger::kFull) text += ",policy=full";
  if (form.positions != row.positions) {
    text += fmt::format(",positions={}", kPositionNames[static_cast<size_t>(form.positions)]);
  }
  if (form.prefill == KvPrefill::kDense) text += ",prefill=dense";
  if (!form.accumulate) text += ",accumulate=off";
  if (!form.bounded) text += ",bounded=off";
  if (!form.full_layers.empty()) text += fmt::format(",full-layers={}", fmt::join(form.full_layers, "+"));
  if (!form.separator_set.empty()) text += ",sep=" + form.separator_set;
  if (form.dtype) text += fmt::format("{}dtype={}", form.kind == KvKind::kFull ? ":" : ",", Name(*form.dtype));
  return text;
}

}  // namespace hawser
