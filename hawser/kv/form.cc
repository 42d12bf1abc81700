#include "hawser/kv/form.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <type_traits>
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
constexpr int64_t kMostNeighbours = 4095, kMostPlaces = 65536;  // what is summed over for each key, or once

/// visit(kind) for one of each kind, with what is standard.
template <class V, size_t... I>
void ForEachKind(V&& visit, std::index_sequence<I...> /*kinds*/ = {}) {
  if constexpr (sizeof...(I) == 0) {
    ForEachKind(visit, std::make_index_sequence<std::variant_size_v<KvKind>>());
  } else {
    (visit(std::variant_alternative_t<I, KvKind>{}), ...);
  }
}

/// visit(numbers, doc) for those of a form, or of one kind.
template <class Kind, class V>
void VisitNumbers(Kind& kind, V&& visit) {
  if constexpr (requires { std::visit([](auto&) {}, kind); }) {
    std::visit([&](auto& of) { VisitNumbers(of, visit); }, kind);
  } else {
    std::remove_const_t<Kind>::Numbers(kind, visit);
  }
}

/// When nothing is said.
template <class Kind>
constexpr KvPrefill kStandardPrefill = KvChosen<Kind> ? KvPrefill::kDense : KvPrefill::kSparse;

/// The options that a form knows, in the order of its text: visit.Choice(name, names, value, standard) for those of a
/// few names, visit.Count(name, value, standard, least, most), Layers, Separators and Stored for the others.
template <class Form, class V>
void VisitOptions(Form& form, V&& visit) {
  const auto [positions, separators] =
      std::visit([]<class Kind>(const Kind&) { return std::pair(Kind::kPositions, Kind::kSeparators); }, form.kind);
  auto* stream = std::get_if<KvSepStream>(&form.kind);
  if (auto* snap = std::get_if<KvSnap>(&form.kind)) {
    visit.Count("window", snap->window, KvSnap().window, 1, kMost);
    visit.Count("kernel", snap->kernel, KvSnap().kernel, 1, kMostNeighbours);
  }
  if (auto* expected = std::get_if<KvExpected>(&form.kind)) {
    visit.Count("sinks", expected->sinks, KvExpected().sinks, 0, kMost);
    visit.Count("future", expected->future, KvExpected().future, 1, kMostPlaces);
    visit.Choice("covariance", kSwitchNames, expected->covariance, true);
    visit.Choice("norms", kSwitchNames, expected->norms, true);
  }
  if (stream != nullptr) visit.Choice("policy", kTriggerNames, stream->trigger, KvTrigger::kOverflow);
  if (!form.keeps_all() && !form.chosen()) visit.Choice("positions", kPositionNames, form.positions, positions);
  std::visit(
      [&]<class Kind>(const Kind&) {
        bool prompts_alone = false;
        if constexpr (KvChosen<Kind>) prompts_alone = !Kind::kEveryStep;
        if (form.keeps_all() || prompts_alone) return;
        visit.Choice("prefill", kPrefillNames, form.prefill, kStandardPrefill<Kind>);
      },
      form.kind);
  if (stream != nullptr) {
    visit.Choice("accumulate", kSwitchNames, stream->accumulate, true);
    visit.Choice("bounded", kSwitchNames, stream->bounded, true);
  }
  if (!form.keeps_all()) visit.Layers("full-layers", form.full_layers);
  if (separators) visit.Separators("sep", form.separator_set);
  visit.Stored("dtype", form.dtype);
}

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

std::string_view NameOf(const KvKind& kind) {
  return std::visit([]<class Kind>(const Kind&) { return Kind::kName; }, kind);
}

/// `sink:a,c`.
std::string FormOf(const KvKind& kind) {
  std::string form(NameOf(kind));
  char mark = ':';
  VisitNumbers(kind, [&](const KvNumbers&, const KvNumberDoc& doc) {
    form.append(1, mark).append(doc.name);
    mark = ',';
  });
  return form;
}

/// Lists options.
class KvOptionNames {
 public:
  template <size_t N, class T>
  void Choice(std::string_view name, const std::array<std::string_view, N>& values, T, T) {
    names_.push_back(fmt::format("{}={}", name, fmt::join(values, "|")));
  }
  void Count(std::string_view name, int64_t, int64_t standard, int64_t, int64_t) {
    names_.push_back(fmt::format("{}={}", name, standard));
  }
  void Layers(std::string_view name, const std::vector<int32_t>&) { names_.push_back(fmt::format("{}=0+1", name)); }
  void Separators(std::string_view name, const std::string&) { names_.push_back(fmt::format("{}=FORM", name)); }
  void Stored(std::string_view name, std::optional<DType>) {
    names_.push_back(fmt::format("{}={}", name, fmt::join(kDTypeNames, "|")));
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

/// `policy=overflow|full`, ...
std::vector<std::string> OptionNames(const KvKind& kind) {
  KvOptionNames list;
  const KvForm form{.kind = kind};
  VisitOptions(form, list);
  return list.names();
}

/// Prints what is not standard.
class KvFormWriter {
 public:
  explicit KvFormWriter(std::string_view name) : text_(name) {}
  void Add(std::string_view part) {
    text_.append(1, mark_).append(part);
    mark_ = ',';
  }
  template <size_t N, class T>
  void Choice(std::string_view name, const std::array<std::string_view, N>& names, T value, T standard) {
    if (value != standard) Add(fmt::format("{}={}", name, names[static_cast<size_t>(value)]));
  }
  void Count(std::string_view name, int64_t value, int64_t standard, int64_t, int64_t) {
    if (value != standard) Add(fmt::format("{}={}", name, value));
  }
  void Layers(std::string_view name, const std::vector<int32_t>& layers) {
    if (!layers.empty()) Add(fmt::format("{}={}", name, fmt::join(layers, "+")));
  }
  void Separators(std::string_view name, const std::string& set) {
    if (!set.empty()) Add(fmt::format("{}={}", name, set));
  }
  void Stored(std::string_view name, std::optional<DType> dtype) {
    if (dtype) Add(fmt::format("{}={}", name, Name(*dtype)));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  char mark_ = ':';
};

template <class T, size_t N>
bool Choose(std::string_view value, const std::array<std::string_view, N>& names, T* out) {
  const auto found = std::ranges::find(names, value);
  if (found == names.end()) return false;
  *out = static_cast<T>(found - names.begin());
  return true;
}

/// The pieces of one text: `kind:part,part,...`.
class KvFormReader {
 public:
  explicit KvFormReader(std::string_view text) : text_(text) {
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
  KvNumbers TakeNumber(const KvNumberDoc& field) {
    std::optional<std::string_view> value = Take(field.name);
    if (!value && !parts_.empty() && parts_.front().find('=') == std::string_view::npos) {
      value = parts_.front();
      parts_.erase(parts_.begin());
    }
    if (!value)
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} is missing; the forms are {}", text_, field.name, KvFormList());
    return ReadNumber(field, *value);
  }

  KvNumbers ReadNumber(const KvNumberDoc& field, std::string_view value) const {
    KvNumbers number;
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find('+', begin), value.size());
      const std::string_view part = value.substr(begin, end - begin);
      begin = end + 1;
      if (field.may_be_all && part == "all") {
        number.push_back(KvForm::kAll);
        continue;
      }
      if (field.may_be_share && part.ends_with('%')) {
        number.push_back(-ReadShare(field.name, part));
        continue;
      }
      const auto n = ParseSize(part);
      if (!n || *n < field.least || *n > kMost) {
        Fail(ErrorKind::kUsage, "kv policy \"{}\": {} must be a whole number from {} to {}{}{}, found \"{}\"", text_,
             field.name, field.least, kMost, field.may_be_all ? " or all" : "",
             field.may_be_share ? " or a share such as 25%" : "", part);
      }
      number.push_back(*n);
    }
    // Equal ones say the same as one.
    if (std::ranges::all_of(number, [&](int64_t n) { return n == number.front(); })) number.resize(1);
    return number;
  }

  /// `12.5%` in hundredths of a per cent.
  int64_t ReadShare(std::string_view name, std::string_view part) const {
    const std::string_view digits = part.substr(0, part.size() - 1);
    const auto value = ParseNumber<double>(digits);
    const double hundredths = std::round(value.value_or(0) * 100);
    if (!(hundredths >= 1 && hundredths <= 10000 && std::abs(hundredths - *value * 100) < 1e-6)) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} as a share is from 0.01% to 100%, found \"{}\"", text_, name, part);
    }
    return static_cast<int64_t>(hundredths);
  }

  // The options of VisitOptions.
  void Count(std::string_view name, int64_t& value, int64_t, int64_t least, int64_t most) {
    const auto text = Take(name);
    if (!text) return;
    const auto n = ParseSize(*text);
    if (!n || *n < least || *n > most) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} must be a whole number from {} to {}, found \"{}\"", text_, name,
           least, most, *text);
    }
    value = *n;
  }
  template <size_t N, class T>
  void Choice(std::string_view name, const std::array<std::string_view, N>& names, T& value, T) {
    const auto text = Take(name);
    if (text && !Choose(*text, names, &value)) FailOption(fmt::format("{}={}", name, *text));
  }
  void Layers(std::string_view name, std::vector<int32_t>& layers) {
    if (const auto text = Take(name)) {
      layers = WithFrame(fmt::format("kv policy \"{}\"", text_), [&] { return ParseLayerList(*text); });
    }
  }
  void Separators(std::string_view name, std::string& set) {
    if (const auto text = Take(name)) {
      if (text->empty()) FailOption(fmt::format("{}=", name));
      set = *text == "text" ? "" : *text;
    }
  }
  void Stored(std::string_view name, std::optional<DType>& dtype) {
    size_t which = kDTypes.size();
    Choice(name, kDTypeNames, which, which);
    if (which < kDTypes.size()) dtype = kDTypes[which];
  }

  void ExpectEnd() const {
    if (!parts_.empty()) FailOption(parts_.front());
  }

 private:
  [[noreturn]] void FailOption(std::string_view part) const {
    std::string known = "none";
    ForEachKind([&](const auto& kind) {
      if (kind.kName == kind_) known = fmt::format("{}", fmt::join(OptionNames(kind), ", "));
    });
    if (kind_ == "sepcache") known = "the parameters of SepCache, full-layers=, prefill= and dtype=";
    Fail(ErrorKind::kUsage, "kv policy \"{}\": unknown option \"{}\"; {} knows {}", text_, part, kind_, known);
  }

  std::string_view text_, kind_;
  std::vector<std::string_view> parts_;
};

int64_t NumberOf(const KvNumbers& numbers, int32_t layer) {
  return numbers.size() == 1 ? numbers[0] : numbers[static_cast<size_t>(layer)];
}

void CheckStream(std::string_view text, const KvSepStream& stream) {
  size_t layers = 1;
  VisitNumbers(stream,
               [&](const KvNumbers& numbers, const KvNumberDoc&) { layers = std::max(layers, numbers.size()); });
  VisitNumbers(stream, [&](const KvNumbers& numbers, const KvNumberDoc&) {
    if (numbers.size() == 1 || numbers.size() == layers) return;
    Fail(ErrorKind::kUsage, "kv policy \"{}\": {} and {} numbers, one a layer each", text, numbers.size(), layers);
  });
  for (int32_t layer = 0; layer < static_cast<int32_t>(layers); ++layer) {
    const int64_t a = NumberOf(stream.initial, layer), s = NumberOf(stream.separators, layer),
                  w = NumberOf(stream.local, layer), c = NumberOf(stream.capacity, layer);
    if (a + s + w >= c) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": a + s + w must be less than c, found {} + {} + {} = {} and c = {}{}",
           text, a, s, w, a + s + w, c, layers > 1 ? fmt::format(" in layer {}", layer) : "");
    }
  }
}

/// What must be known of each layer of a chosen kind: `stays` tokens always do, so there is room for one more.
void CheckRoom(std::string_view text, const KvNumbers& capacity, int64_t stays, std::string_view name) {
  for (const int64_t c : capacity) {
    if (c < 0 || c > stays) continue;
    Fail(ErrorKind::kUsage, "kv policy \"{}\": c = {} must be more than {}={}, whose tokens always stay", text, c, name,
         stays);
  }
}

void CheckChosen(std::string_view text, const KvForm& form) {
  if (const auto* snap = std::get_if<KvSnap>(&form.kind)) {
    CheckRoom(text, snap->capacity, snap->window, "window");
    if (snap->kernel % 2 == 0) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": kernel must be odd, found {}", text, snap->kernel);
    }
  }
  if (const auto* expected = std::get_if<KvExpected>(&form.kind)) {
    CheckRoom(text, expected->capacity, expected->sinks, "sinks");
  }
}

/// The constructor of transformers' SepCache: what fills the cache before a token is attended compresses it, positions
/// are true ones, prompts are dense.
KvForm ReadSepCache(KvFormReader& reader) {
  KvSepStream stream{.initial = {4}, .separators = {64}, .local = {256}, .capacity = {512}};
  const auto size = [&](std::string_view name, int64_t least, KvNumbers* numbers) {
    if (const auto value = reader.Take(name)) *numbers = reader.ReadNumber({name, least}, *value);
  };
  size("init_cache_size", 0, &stream.initial);
  size("sep_cache_size", 1, &stream.separators);
  size("local_size", 1, &stream.local);
  size("cache_size", 1, &stream.capacity);
  const auto flag = [&](std::string_view name, bool standard) {
    const auto value = reader.Take(name);
    if (!value) return standard;
    if (*value != "true" && *value != "false" && *value != "True" && *value != "False") {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} is true or false, found \"{}\"", reader.text(), name, *value);
    }
    return *value == "true" || *value == "True";
  };
  stream.trigger = KvTrigger::kFull;
  stream.accumulate = flag("SEP_ACCUMULATION", true);
  stream.bounded = flag("USE_MAX_SEP_CACHE", false);
  KvForm form{.kind = std::move(stream), .prefill = KvPrefill::kDense};
  if (flag("APPLY_PE_SHIFT", false)) form.positions = KvPositions::kRank;
  reader.Choice("prefill", kPrefillNames, form.prefill, form.prefill);
  reader.Layers("full-layers", form.full_layers);
  reader.Separators("sep", form.separator_set);
  if (const auto ids = reader.Take("separator_token_ids")) form.separator_set = *ids;
  reader.Stored("dtype", form.dtype);
  reader.ExpectEnd();
  return form;
}

}  // namespace

bool KvForm::layered() const {
  bool layered = !full_layers.empty();
  VisitNumbers(kind, [&](const KvNumbers& numbers, const KvNumberDoc&) { layered |= numbers.size() > 1; });
  return layered;
}

KvForm KvForm::OfLayer(int32_t layer, int32_t layers) const {
  KvForm of = *this;
  of.full_layers.clear();
  bool sees_all = IsFullLayer(full_layers, layer, layers);
  VisitNumbers(of.kind, [&](KvNumbers& numbers, const KvNumberDoc& doc) {
    if (numbers.size() > 1 && static_cast<int32_t>(numbers.size()) != layers) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": {} numbers for {} layers; give one, or one for each layer",
           ToString(*this), numbers.size(), layers);
    }
    numbers = {NumberOf(numbers, layer)};
    sees_all |= doc.may_be_all && numbers[0] == kAll;
  });
  return sees_all ? KvForm{.dtype = dtype} : of;
}

std::string KvFormList() {
  std::string list;
  ForEachKind([&](const auto& kind) { list += FormOf(kind) + ", "; });
  list += "sepcache:NAME=VALUE,..";
  for (const Preset& preset : kPresets) list.append(", ").append(preset.name);
  return list;
}

std::string KvFormHelp() {
  std::string text;
  ForEachKind([&](const auto& kind) {
    text += fmt::format("  {:<20} {}\n", FormOf(kind), kind.kHelp);
    std::string names;
    for (const std::string& option : OptionNames(kind)) {
      names.append(names.empty() ? "" : ", ").append(option, 0, option.find('='));
    }
    text += fmt::format("  {:<20}   options: {}\n", "", names);
  });
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
  KvFormReader reader(text);
  if (reader.kind() == "sepcache") {
    KvForm form = ReadSepCache(reader);
    CheckStream(text, std::get<KvSepStream>(form.kind));
    return form;
  }
  std::optional<KvForm> form;
  ForEachKind([&]<class Kind>(const Kind& kind) {
    if (Kind::kName != reader.kind()) return;
    form = KvForm{.kind = kind, .positions = Kind::kPositions, .prefill = kStandardPrefill<Kind>};
  });
  if (!form) {
    std::vector<std::string_view> names = {"sepcache", "bounded"};
    ForEachKind([&](const auto& kind) { names.push_back(kind.kName); });
    for (const Preset& preset : kPresets) names.push_back(preset.name);
    Fail(ErrorKind::kUsage, "unknown kv policy \"{}\"{}; the forms are {}", text, SuggestName(reader.kind(), names),
         KvFormList());
  }
  VisitNumbers(form->kind, [&](KvNumbers& numbers, const KvNumberDoc& doc) { numbers = reader.TakeNumber(doc); });
  VisitOptions(*form, reader);
  reader.ExpectEnd();
  if (const auto* stream = std::get_if<KvSepStream>(&form->kind)) CheckStream(text, *stream);
  CheckChosen(text, *form);
  return *form;
}

std::string ToString(const KvForm& form) {
  KvFormWriter writer(NameOf(form.kind));
  VisitNumbers(form.kind, [&](const KvNumbers& numbers, const KvNumberDoc&) {
    std::string part;
    for (const int64_t n : numbers) {
      part.append(part.empty() ? "" : "+");
      part += n == KvForm::kAll ? "all"
              : n < 0           ? fmt::format("{}%", static_cast<double>(-n) / 100)
                                : fmt::format("{}", n);
    }
    writer.Add(part);
  });
  VisitOptions(form, writer);
  return writer.text();
}

}  // namespace hawser
