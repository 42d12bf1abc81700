#include "hawser/train/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <sstream>
#include <type_traits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/printable.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"
#include "hawser/base/utf8.h"
#include "hawser/train/config_keys.h"
#include "hawser/train/toml.h"
#include "hawser/zoo/builtin.h"

namespace hawser {
namespace {

/// What a recipe calls the values of an enum; of the dtypes it knows two.
template <class E>
constexpr auto kNamesOf = EnumNames<E>::kNames;
template <>
constexpr std::array<std::string_view, 2> kNamesOf<DType> = {"f32", "bf16"};

[[noreturn]] void FailType(std::string_view key, std::string_view wanted, const toml::node& node) {
  std::ostringstream found;
  node.visit([&](const auto& n) { found << n; });
  Fail(ErrorKind::kUsage, "recipe key \"{}\": expected {}, found {}", key, wanted, PrintableLine(found.str(), 100));
}

void Assign(std::string_view key, const toml::node& node, std::string& field) {
  const auto value = node.value_exact<std::string>();
  if (!value) FailType(key, "text", node);
  field = BytesOfText(*value);  // TOML is UTF-8, paths are bytes
}
void Assign(std::string_view key, const toml::node& node, bool& field) {
  const auto value = node.value_exact<bool>();
  if (!value) FailType(key, "true or false", node);
  field = *value;
}
void Assign(std::string_view key, const toml::node& node, double& field) {
  const auto value = node.value<double>();
  if (!node.is_number() || !value || !std::isfinite(*value)) FailType(key, "a finite number", node);
  field = *value;
}
void Assign(std::string_view key, const toml::node& node, int64_t& field) {
  if (const auto value = node.value_exact<int64_t>()) {
    field = *value;
    return;
  }
  if (const auto text = node.value_exact<std::string>()) {
    const auto size = ParseSize(*text);
    if (!size) FailType(key, "a whole number, such as 4096, \"16k\" or \"1M\"", node);
    field = *size;
    return;
  }
  const auto value = node.value_exact<double>();  // 2e6 is a float to TOML
  if (!value || *value != std::floor(*value) || std::abs(*value) > 0x1p53) FailType(key, "a whole number", node);
  field = static_cast<int64_t>(*value);
}
void Assign(std::string_view key, const toml::node& node, SourceConfig& field);
template <class E>
requires std::is_enum_v<E>
void Assign(std::string_view key, const toml::node& node, E& field) {
  const auto value = node.value_exact<std::string>();
  const auto& names = kNamesOf<E>;
  const auto found = std::ranges::find(names, value.value_or(""));
  if (found == names.end()) FailType(key, fmt::format("\"{}\"", fmt::join(names, "\" or \"")), node);
  field = static_cast<E>(found - names.begin());
}
void Assign(std::string_view key, const toml::node& node, BosRule& field) {
  if (const auto value = node.value_exact<bool>()) {
    field = *value ? BosRule::kOn : BosRule::kOff;
    return;
  }
  Assign<BosRule>(key, node, field);
}
/// A list, or one value that stands for a list of one.
template <class T>
void Assign(std::string_view key, const toml::node& node, std::vector<T>& field) {
  std::vector<T> values;
  const auto add = [&](const toml::node& element) {
    T value{};
    Assign(key, element, value);
    values.push_back(std::move(value));
  };
  if (const toml::array* list = node.as_array()) {
    for (const toml::node& element : *list) add(element);
  } else {
    add(node);
  }
  field = std::move(values);
}

void Assign(std::string_view key, const toml::node& node, SourceConfig& field) {
  const toml::table* table = node.as_table();
  if (table == nullptr) FailType(key, "tables [[source]] with data and weight", node);
  for (const auto& [name, value] : *table) {
    const std::string inner = fmt::format("{}.{}", key, name.str());
    if (name == "name") {
      Assign(inner, value, field.name);
    } else if (name == "data") {
      Assign(inner, value, field.data);
    } else if (name == "weight") {
      Assign(inner, value, field.weight);
    } else {
      Fail(ErrorKind::kUsage, "unknown recipe key \"{}\"{}", inner,
           SuggestName(name.str(), {"name", "data", "weight"}));
    }
  }
}

std::string Print(const std::string& value) {
  std::ostringstream out;
  out << toml::value<std::string>(TextOfBytes(value));
  return out.str();
}
std::string Print(bool value) { return value ? "true" : "false"; }
std::string Print(int64_t value) { return fmt::format("{}", value); }
std::string Print(double value) { return fmt::format("{}", value); }
template <class E>
requires std::is_enum_v<E> std::string Print(E value) {
  return fmt::format("\"{}\"", kNamesOf<E>.at(static_cast<size_t>(value)));
}
std::string Print(const SourceConfig& source);
template <class T>
std::string Print(const std::vector<T>& values) {
  std::string out;
  for (const T& value : values) out += (out.empty() ? "" : ", ") + Print(value);
  return "[" + out + "]";
}

std::string Print(const SourceConfig& source) {
  return fmt::format("{{name = {}, data = {}, weight = {}}}", Print(source.name), Print(source.data),
                     Print(source.weight));
}

/// Errors: kUsage for a mixture that is none.
void CheckSources(const TrainConfig& c) {
  if (c.sources.empty()) return;
  if (!c.data.empty()) {
    Fail(ErrorKind::kUsage, "both \"data\" and [[source]] say what to train on: put the data into a [[source]] too");
  }
  if (c.upsample != Upsample::kNone) {
    Fail(ErrorKind::kUsage, "upsample = {} and the weights of [[source]] both say what is drawn more often: choose one",
         Print(c.upsample));
  }
  std::set<std::string> names;
  for (const SourceConfig& source : c.sources) {
    if (source.data.empty()) Fail(ErrorKind::kUsage, "source \"{}\" has no data", source.name);
    if (!(source.weight > 0) || !(source.weight <= 1e9)) {
      Fail(ErrorKind::kUsage, "source \"{}\": the weight must be above 0 and at most 1e9, found {}", source.name,
           source.weight);
    }
    if (!names.insert(source.name).second) {
      Fail(ErrorKind::kUsage, "two sources are called \"{}\": give each a name", source.name);
    }
  }
}

void AssignKey(TrainConfig& config, std::string_view key, const toml::node& node) {
  bool found = false;
  std::vector<std::string_view> known;
  VisitKeys(config, [&](auto& field, const KeyDoc& doc) {
    known.push_back(doc.key);
    if (doc.key != key) return;
    Assign(key, node, field);
    found = true;
  });
  if (!found)
    Fail(ErrorKind::kUsage, "unknown recipe key \"{}\"{}; hawser help recipe lists all", key, SuggestName(key, known));
}

void ApplyTable(TrainConfig& config, const toml::table& table, const std::string& prefix) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    if (const toml::table* inner = node.as_table()) {
      ApplyTable(config, *inner, name + ".");
    } else {
      AssignKey(config, name, node);
    }
  }
}

template <class T>
void InRange(std::string_view key, T value, T low, T high) {
  if (value >= low && value <= high) return;  // false for NaN
  Fail(ErrorKind::kUsage, "recipe key \"{}\" must be in [{}, {}], found {}", key, low, high, value);
}

template <class T>
void InRange(const KeyDoc& doc, T value) {
  const auto x = static_cast<double>(value);
  if (x >= doc.least && x <= doc.most) return;  // false for NaN
  if (doc.most == KeyDoc().most)
    Fail(ErrorKind::kUsage, "recipe key \"{}\" must be {} or more, found {}", doc.key, doc.least, value);
  InRange(doc.key, x, doc.least, doc.most);
}

/// Pairs of a step and the steps of the plan up to there, each later and longer than the one before.
void CheckLengthened(const TrainConfig& c) {
  const std::vector<int64_t>& pairs = c.lengthened;
  bool good = pairs.size() % 2 == 0;
  for (size_t i = 0; good && i < pairs.size(); i += 2) {
    const int64_t after = pairs[i], steps = pairs[i + 1];
    good = after >= 1 && after <= steps && (i == 0 || (after >= pairs[i - 2] && steps > pairs[i - 1]));
  }
  if (!good) {
    Fail(ErrorKind::kUsage,
         "recipe key \"lengthened\": expected pairs \"up to step A, of B steps\" with A <= B, growing, found {}",
         Print(pairs));
  }
  if (pairs.empty() || c.steps == 0 || pairs.back() < c.steps) return;
  Fail(ErrorKind::kUsage, "steps = {}: a run can be made longer, not shorter, and this one was to have {} steps before",
       c.steps, pairs.back());
}

}  // namespace

std::string_view Name(Schedule schedule) { return EnumNames<Schedule>::kNames.at(static_cast<size_t>(schedule)); }

void ApplyRecipe(TrainConfig& config, std::string_view toml, std::string_view origin) {
  const toml::table table = ParseToml(toml, origin);
  WithFrame(origin, [&] { ApplyTable(config, table, ""); });
}

void ApplyRecipeFile(TrainConfig& config, const std::filesystem::path& path) {
  TrainConfig read = config;
  ApplyRecipe(read, ReadFile(path), path.string());
  const auto from_folder = [&](std::string& value, bool changed) {
    if (changed && !value.empty()) value = (path.parent_path() / value).lexically_normal().string();
  };
  from_folder(read.model, read.model != config.model && !IsModelName(read.model));
  from_folder(read.tokenizer, read.tokenizer != config.tokenizer && !IsModelName(read.tokenizer));
  from_folder(read.adapter, read.adapter != config.adapter);
  const bool other_data = read.data != config.data;
  for (std::string& item : read.data) from_folder(item, other_data);
  const bool other_sources = read.sources != config.sources;
  for (SourceConfig& source : read.sources) {
    for (std::string& item : source.data) from_folder(item, other_sources);
  }
  config = std::move(read);
}

void SetData(TrainConfig& config, const std::vector<std::string>& data) {
  TrainConfig read = config;
  read.data.clear();
  read.sources.clear();
  for (const std::string& item : data) {
    const size_t equals = item.rfind('=');
    std::error_code code;
    const auto weight = equals == item.npos || std::filesystem::exists(item, code)
                            ? std::nullopt
                            : ParseNumber<double>(std::string_view(item).substr(equals + 1));
    if (weight) {
      read.sources.push_back({.data = {item.substr(0, equals)}, .weight = *weight});
    } else {
      read.data.push_back(item);
    }
  }
  if (!read.data.empty() && !read.sources.empty()) {
    Fail(ErrorKind::kUsage, "\"{}\" has a weight and \"{}\" has none: give every path one, or none",
         read.sources.front().data.front(), read.data.front());
  }
  config = std::move(read);
}

void ApplySetting(TrainConfig& config, std::string_view setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    Fail(ErrorKind::kUsage, "expected key=value, found \"{}\"", setting);
  }
  const std::string_view key = setting.substr(0, equals), value = setting.substr(equals + 1);
  toml::table table;
  try {
    table = ParseToml("value = " + std::string(value), key);
  } catch (const Error&) {
    table.clear();
  }
  if (table.size() != 1) table = toml::table{{"value", std::string(value)}};
  // Text needs no quotes, even where it could be read as a number.
  VisitKeys(config, [&](const auto& field, const KeyDoc& doc) {
    const bool is_text = std::is_same_v<std::decay_t<decltype(field)>, std::string>;
    if (doc.key == key && is_text && !table["value"].is_string()) table.insert_or_assign("value", std::string(value));
  });
  AssignKey(config, key, *table.get("value"));
}

std::string ToToml(const TrainConfig& config) {
  std::string out;
  VisitKeys(config, [&](const auto& field, const KeyDoc& doc) {
    const std::string_view key = doc.key;
    const size_t dot = key.find('.');
    if (dot == std::string_view::npos) {
      // A model that is continued is a key; one from scratch is a table of the same name.
      if (key != "model" || !config.model.empty()) out += fmt::format("{} = {}\n", key, Print(field));
    } else if (config.model.empty()) {
      if (out.find("[model]") == std::string::npos) out += "\n[model]\n";
      out += fmt::format("{} = {}\n", key.substr(dot + 1), Print(field));
    }
  });
  return out;
}

void Validate(const TrainConfig& c) {
  CheckSources(c);
  if (c.data.empty() && c.sources.empty())
    Fail(ErrorKind::kUsage, "no data: give files or folders of text (recipe key \"data\", --data)");
  if (c.steps == 0 && c.tokens == 0) Fail(ErrorKind::kUsage, "how long to train? Give one of steps and tokens");
  if (c.steps != 0 && c.tokens != 0) {
    Fail(ErrorKind::kUsage, "steps = {} and tokens = {} contradict each other: give one of them", c.steps, c.tokens);
  }
  VisitKeys(c, [](const auto& field, const KeyDoc& doc) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(field)>>) InRange(doc, field);
  });
  CheckLengthened(c);
  if (c.average_last > c.keep) {
    Fail(ErrorKind::kUsage, "average_last = {} needs as many checkpoints: set keep = {} or more, found {}",
         c.average_last, c.average_last, c.keep);
  }
  if (c.validate_every > 0 && c.holdout == 0) {
    Fail(ErrorKind::kUsage, "validate_every = {} needs files to validate on: set holdout", c.validate_every);
  }
}

std::vector<std::string> KeysThatMatter(const TrainConfig& a, const TrainConfig& b) {
  std::vector<std::string> left, right, differ;
  std::vector<std::string_view> keys;
  VisitKeys(a, [&](const auto& field, const KeyDoc& doc) {
    keys.push_back(doc.key);
    left.push_back(doc.matters == Matters::kYes ? Print(field) : "");
  });
  VisitKeys(b, [&](const auto& field, const KeyDoc& doc) {
    right.push_back(doc.matters == Matters::kYes ? Print(field) : "");
  });
  for (size_t i = 0; i < keys.size(); ++i) {
    if (left[i] != right[i]) differ.emplace_back(keys[i]);
  }
  return differ;
}

std::vector<RecipeKey> RecipeKeys() {
  const TrainConfig standard;
  std::vector<RecipeKey> keys;
  VisitKeys(standard, [&](const auto& field, const KeyDoc& doc) {
    keys.push_back({.key = doc.key, .standard = Print(field), .help = doc.help});
  });
  return keys;
}

double DefaultLearningRate(int64_t width) {
  return std::min(5e-3, 3e-3 * std::pow(64.0 / static_cast<double>(width), 1.2));
}

ModelSpec ScratchSpec(const TrainConfig& config, int64_t tokenizer_vocab) {
  const ModelDims& d = config.dims;
  const int64_t vocab = d.vocab > 0 ? d.vocab : tokenizer_vocab;
  constexpr int64_t kMany = 1 << 26;
  InRange("model.vocab", vocab, std::max<int64_t>(tokenizer_vocab, 1), kMany);
  InRange("model.width", d.width, int64_t{1}, kMany);
  InRange("model.layers", d.layers, int64_t{1}, kMany);
  InRange("model.heads", d.heads, int64_t{1}, kMany);
  InRange("model.kv_heads", d.kv_heads, int64_t{0}, d.heads);
  InRange("model.head_dim", d.head_dim, int64_t{0}, kMany);
  InRange("model.mlp_width", d.mlp_width, int64_t{0}, kMany);
  if (config.context == 0) Fail(ErrorKind::kUsage, "a model from scratch needs the recipe key \"context\"");
  if (d.head_dim == 0 && d.width % d.heads != 0) {
    Fail(ErrorKind::kUsage, "model.width = {} is not a multiple of model.heads = {}: set model.head_dim", d.width,
         d.heads);
  }
  ModelSpec spec;
  spec.vocab = static_cast<int32_t>(vocab);
  spec.width = static_cast<int32_t>(d.width);
  spec.layers = static_cast<int32_t>(d.layers);
  spec.heads = static_cast<int32_t>(d.heads);
  spec.kv_heads = static_cast<int32_t>(d.kv_heads > 0 ? d.kv_heads : d.heads);
  spec.head_dim = static_cast<int32_t>(d.head_dim > 0 ? d.head_dim : d.width / d.heads);
  spec.mlp_width = static_cast<int32_t>(d.mlp_width > 0 ? d.mlp_width : (d.width * 8 / 3 + 15) / 16 * 16);
  spec.norm_eps = static_cast<float>(d.norm_eps);
  spec.tie_embeddings = d.tie_embeddings;
  spec.context = config.context;
  spec.rope.theta = d.theta;
  spec.rope.rotary_dim = spec.head_dim;
  try {
    Validate(spec);
  } catch (const Error& error) {  // sizes of a recipe, not of a file
    Fail(ErrorKind::kUsage, "recipe table [model]: {}", error.what());
  }
  return spec;
}

}  // namespace hawser
