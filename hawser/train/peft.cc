#include "hawser/train/peft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/io/convert.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/places.h"
#include "hawser/train/run_folder.h"
#include "hawser/zoo/file_tensors.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";
constexpr std::string_view kModulePrefix = "base_model.model.";

// Keys that do not change what the adapters compute once they are trained.
const std::set<std::string_view> kHarmless = {
    "arrow_config", "auto_mapping",    "base_model_name_or_path", "corda_config",   "ensure_weight_tying",
    "eva_config",   "exclude_modules", "inference_mode",          "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_dropout",    "megatron_core",           "peft_version",   "qalora_group_size",
    "revision",     "runtime_config",  "target_modules",          "task_type"};
const std::set<std::string_view> kRead = {"peft_type",     "r",          "lora_alpha", "rank_pattern",
                                          "alpha_pattern", "use_rslora", "bias",       "init_lora_weights"};

/// A linear layer as the files of the family have it, and the matrices of the model that its rows are.
struct Module {
  struct Part {
    const ParamInfo* info;
    std::vector<TensorPiece> pieces;
  };
  std::vector<std::string> names;  // the first is written
  std::vector<int64_t> shape;      // [out, in]
  std::vector<Part> parts;
};

constexpr std::string_view kWeight = ".weight";

std::string WithoutWeight(const std::string& name) { return name.substr(0, name.size() - kWeight.size()); }

/// `all`: ParamLayout(spec), which the result points into.
std::vector<Module> ModulesOf(const ModelSpec& spec, const ParamLayout& all) {
  std::vector<Module> modules;
  for (const FileTensor& tensor : FileTensors(spec)) {
    if (!IsLinear(all.params()[tensor.pieces.front().param])) continue;
    Module module{.shape = tensor.shape};
    for (const std::string& name : tensor.names) module.names.push_back(WithoutWeight(name));
    // The classes of every family call their head so, whatever their files do.
    const auto head = std::ranges::find(module.names, "lm_head");
    if (head != module.names.end()) std::rotate(module.names.begin(), head, head + 1);
    for (const TensorPiece& piece : tensor.pieces) {
      const ParamInfo* info = &all.params()[piece.param];
      auto part = std::ranges::find(module.parts, info, &Module::Part::info);
      if (part == module.parts.end()) part = module.parts.insert(part, {info, {}});
      part->pieces.push_back(piece);
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

/// visit(row of the module, row of the part, rows)
template <class Visit>
void ForEachRun(const Module& module, const Module::Part& part, Visit&& visit) {
  const int64_t in = module.shape[1];
  for (const TensorPiece& piece : part.pieces) visit(piece.file_begin / in, piece.param_begin / in, piece.size / in);
}

std::string TensorName(const std::string& module, char side) {
  return fmt::format("{}{}.lora_{}.weight", kModulePrefix, module, side);
}

fs::path FindFolder(const fs::path& folder) {
  std::error_code code;
  for (const fs::path& candidate : {folder, folder / "adapter"}) {
    if (fs::exists(candidate / kConfig, code)) return candidate;
  }
  Fail(ErrorKind::kIo, "{}: holds no adapters: there is no {}, here or in adapter/", folder.string(), kConfig);
}

/// Null, false, or empty.
bool IsNothing(const nlohmann::json& value) {
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

/// What adapter_config.json says of rank and scale.
struct PeftConfig {
  int64_t rank = 0;
  double alpha = 0;
  bool rslora = false;
  std::map<std::string, int64_t> ranks;  // of modules that end so
  std::map<std::string, double> alphas;

  template <class T>
  static T OfModule(const std::map<std::string, T>& pattern, const std::string& module, T fallback) {
    for (const auto& [name, value] : pattern) {
      if (module == name || module.ends_with("." + name)) return value;
    }
    return fallback;
  }
  int64_t RankOf(const std::string& module) const { return OfModule(ranks, module, rank); }
  double ScaleOf(const std::string& module) const { return Scale(OfModule(alphas, module, alpha), RankOf(module)); }
  double Scale(double numerator, int64_t of_rank) const {
    const auto r = static_cast<double>(of_rank);
    return numerator / (rslora ? std::sqrt(r) : r);
  }
};

constexpr int64_t kMostRank = int64_t{1} << 16;

/// Errors for keys that ask for something else than W + s B A.
PeftConfig ReadConfig(const fs::path& path) {
  const nlohmann::json json = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  const JsonObject object(json, path.string());
  const auto refuse = [&](const std::string& key, std::string_view wanted) {
    Fail(ErrorKind::kUnsupported, "{}: \"{}\" is {}; supported is {}", path.string(), key, JsonText(json[key]), wanted);
  };
  if (object.StringOr("peft_type", "LORA") != "LORA") refuse("peft_type", "\"LORA\"");
  if (object.StringOr("bias", "none") != "none") refuse("bias", "\"none\"");
  if (const nlohmann::json* init = object.Find("init_lora_weights"); init != nullptr) {
    // Other ways to begin (PiSSA, OLoRA, LoftQ, ...) change the weights of the base model.
    if (!init->is_boolean() && *init != "gaussian") refuse("init_lora_weights", "true, false or \"gaussian\"");
  }
  for (const auto& [key, value] : json.items()) {
    if (!IsNothing(value) && !kHarmless.contains(key) && !kRead.contains(key)) {
      refuse(key, "the plain form of LoRA, without this key");
    }
  }
  PeftConfig config{.rank = object.Int("r", 1, kMostRank),
                    .alpha = object.Number("lora_alpha"),
                    .rslora = object.BoolOr("use_rslora", false)};
  if (const auto alpha = static_cast<float>(config.alpha); alpha == 0 || !std::isfinite(alpha)) {
    Fail(ErrorKind::kFormat, "{}: lora_alpha must be a number of f32 other than 0, found {}", path.string(),
         config.alpha);
  }
  const auto pattern = [&](const char* key, const auto& take) {
    const nlohmann::json* found = object.Find(key);
    if (found == nullptr || IsNothing(*found)) return;
    constexpr std::string_view kOfExpressions = "^$*+?()[]{}|\\";
    for (const auto& [name, value] : found->items()) {
      if (name.find_first_of(kOfExpressions) != name.npos) refuse(key, "names of modules without regular expressions");
      take(JsonObject(*found, fmt::format("{}: {}", path.string(), key)), name);
    }
  };
  pattern("rank_pattern", [&](const JsonObject& of, const std::string& name) {
    config.ranks[name] = of.Int(name.c_str(), 1, kMostRank);
  });
  pattern("alpha_pattern",
          [&](const JsonObject& of, const std::string& name) { config.alphas[name] = of.Number(name.c_str()); });
  return config;
}

/// The shortest targets that adapt exactly these modules of the model: last names where all of that name are adapted.
std::vector<std::string> ShortTargets(const std::set<std::string>& modules, const ParamLayout& all) {
  std::set<std::string> last;
  for (const std::string& module : modules) last.insert(module.substr(module.rfind('.') + 1));
  std::vector<std::string> names(last.begin(), last.end());
  if (LoraLayout(all, {.rank = 1, .targets = names}).params().size() != 2 * modules.size()) {
    names.assign(modules.begin(), modules.end());
  }
  return names;
}

/// The adapter of one matrix of the model.
struct Adapter {
  int64_t rank;
  double scale;
  std::vector<float> a, b;  // [rank, in], [out, rank]
};

struct Peft {
  LoraSpec lora;
  std::map<std::string, Adapter> adapters;  // by ParamInfo.name
};

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.size()));
  ConvertToF32(view.dtype, view.bytes.data(), view.size(), values.data());
  return values;
}

/// Which part of a fused module each block of `rank` columns of its B [out, columns] serves, where every block serves
/// one and every part has one at most; else none.
std::vector<const Module::Part*> BlocksOf(const Module& module, const std::vector<float>& b, int64_t columns,
                                          int64_t rank) {
  if (columns % rank != 0 || columns / rank > static_cast<int64_t>(module.parts.size())) return {};
  std::vector<const Module::Part*> owners(static_cast<size_t>(columns / rank));
  for (const Module::Part& part : module.parts) {
    bool owns = false;
    for (size_t block = 0; block < owners.size(); ++block) {
      bool serves = false;
      ForEachRun(module, part, [&](int64_t row, int64_t, int64_t rows) {
        for (int64_t i = row; i < row + rows; ++i) {
          const float* begin = b.data() + i * columns + static_cast<int64_t>(block) * rank;
          serves = serves || std::any_of(begin, begin + rank, [](float x) { return x != 0; });
        }
      });
      if (!serves) continue;
      if (owns || owners[block] != nullptr) return {};
      owns = true;
      owners[block] = &part;
    }
  }
  return std::ranges::find(owners, nullptr) == owners.end() ? owners : std::vector<const Module::Part*>();
}

/// Rows of a module's B that are those of a part, and of them the columns from `begin` on.
std::vector<float> RowsOfPart(const Module& module, const Module::Part& part, const std::vector<float>& b,
                              int64_t columns, int64_t begin, int64_t rank) {
  std::vector<float> rows_of_part(static_cast<size_t>(part.info->rows * rank));
  ForEachRun(module, part, [&](int64_t row, int64_t to, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(b.data() + (row + i) * columns + begin, rank, rows_of_part.data() + (to + i) * rank);
    }
  });
  return rows_of_part;
}

/// Reads the two tensors of a module that the file calls `name`.
void ReadModule(const TensorSource& source, const PeftConfig& config, const Module& module, const std::string& name,
                std::map<std::string, Adapter>* adapters) {
  const int64_t rank = config.RankOf(name), in = module.shape[1];
  const auto find = [&](char side, const std::vector<int64_t>& shape) {
    const TensorView* view = source.Find(TensorName(name, side));
    if (view == nullptr || view->shape != shape) {
      Fail(ErrorKind::kUsage, "tensor \"{}\": this model wants {}, found {}", TensorName(name, side), ShapeText(shape),
           view == nullptr ? "none" : ShapeText(view->shape));
    }
    return Values(*view);
  };
  const std::vector<float> a = find('A', {rank, in}), b = find('B', {module.shape[0], rank});
  const double scale = config.ScaleOf(name);
  const std::vector<const Module::Part*> owners =
      module.parts.size() > 1 ? BlocksOf(module, b, rank, config.rank) : std::vector<const Module::Part*>();
  for (size_t block = 0; block < owners.size(); ++block) {
    const int64_t begin = static_cast<int64_t>(block) * config.rank;
    std::vector<float> rows(a.begin() + begin * in, a.begin() + (begin + config.rank) * in);
    adapters->insert(
        {owners[block]->info->name,
         {config.rank, scale, std::move(rows), RowsOfPart(module, *owners[block], b, rank, begin, config.rank)}});
  }
  if (!owners.empty()) return;
  for (const Module::Part& part : module.parts) {
    adapters->insert({part.info->name, {rank, scale, a, RowsOfPart(module, part, b, rank, 0, rank)}});
  }
}

Peft Open(const fs::path& given, const ModelSpec& model) {
  const fs::path folder = FindFolder(given);
  const PeftConfig config = ReadConfig(folder / kConfig);
  const TensorSource source = ReadSafetensors(folder / kWeights);
  const ParamLayout all(model);
  Peft peft;
  WithFrame((folder / kWeights).string(), [&] {
    std::set<std::string, std::less<>> used;
    for (const Module& module : ModulesOf(model, all)) {
      for (const std::string& name : module.names) {
        if (!source.Find(TensorName(name, 'A')) && !source.Find(TensorName(name, 'B'))) continue;
        ReadModule(source, config, module, name, &peft.adapters);
        used.insert({TensorName(name, 'A'), TensorName(name, 'B')});
      }
    }
    for (const auto& [name, view] : source.tensors()) {
      if (used.contains(name)) continue;
      Fail(ErrorKind::kUsage, "tensor \"{}\" adapts nothing in this model that can be adapted", name);
    }
    if (used.empty()) Fail(ErrorKind::kFormat, "no tensors");
  });
  std::set<std::string> modules;
  for (const auto& [name, adapter] : peft.adapters) {
    modules.insert(WithoutWeight(name));
    peft.lora.rank = std::max(peft.lora.rank, adapter.rank);
  }
  peft.lora.targets = ShortTargets(modules, all);
  const double alpha = config.rslora ? config.alpha * std::sqrt(static_cast<double>(config.rank)) : config.alpha;
  peft.lora.alpha = peft.lora.rank == config.rank
                        ? alpha
                        : alpha * static_cast<double>(peft.lora.rank) / static_cast<double>(config.rank);
  return peft;
}

/// One rank and one scale for all: smaller ranks are filled with zeros, other scales taken into B.
ParamStore StoreOf(const Peft& peft, const ModelSpec& model) {
  const ParamLayout all(model);
  ParamStore store(model, LoraLayout(all, peft.lora), DType::kF32);
  const std::vector<ParamInfo>& infos = store.layout().params();
  for (size_t i = 0; i + 1 < infos.size(); i += 2) {
    const std::string module = infos[i].name.substr(0, infos[i].name.rfind(".lora_"));
    const Adapter& adapter = peft.adapters.at(module + std::string(kWeight));
    std::copy(adapter.a.begin(), adapter.a.end(), store.At(infos[i]).Row<float>(0));
    const Mat b = store.At(infos[i + 1]);
    const double factor = adapter.scale / peft.lora.scale();
    for (int64_t row = 0; row < b.rows; ++row) {
      for (int64_t j = 0; j < adapter.rank; ++j) {
        const float value = adapter.b[static_cast<size_t>(row * adapter.rank + j)];
        b.Row<float>(row)[j] = factor == 1 ? value : static_cast<float>(factor * value);
      }
    }
  }
  return store;
}

}  // namespace

LoraSpec ReadPeftSpec(const fs::path& folder, const ModelSpec& model) { return Open(folder, model).lora; }

ParamStore ReadPeft(const fs::path& folder, const ModelSpec& model) { return StoreOf(Open(folder, model), model); }

void MergePeft(const fs::path& folder, Backend* backend, ParamStore* params) {
  HAWSER_CHECK(params->dtype() == DType::kF32);
  const Peft peft = Open(folder, params->spec());
  const ParamStore adapters = StoreOf(peft, params->spec());
  Lora(backend, peft.lora, &adapters).Merge(*params, params);
}

void TakeTrainedPlaces(const fs::path& folder, ModelSpec* spec) {
  const fs::path own = fs::absolute(FindFolder(folder)).lexically_normal();
  const fs::path run = (own.has_filename() ? own : own.parent_path()).parent_path();
  if (!IsFile(run / kRunMark) || !IsFile(run / "config.json")) return;
  const ModelSpec trained = LoadSpec(run);
  ModelSpec taken = *spec;
  taken.rope = trained.rope;
  taken.rope.pairing = spec->rope.pairing;
  taken.local_rope = trained.local_rope;
  taken.alibi = trained.alibi;
  taken.softmax = trained.softmax;
  taken.context = trained.context;
  if (trained.places != spec->places || taken == *spec) return;
  LogLine(fmt::format("adapters of {}: rope {}, context {}, as they were trained", run.string(), PlacesText(taken),
                      taken.context));
  *spec = std::move(taken);
}

void CheckNotMerged(const fs::path& folder, const fs::path& model) {
  const fs::path given = FindFolder(folder) / kWeights, own = model / "adapter" / kWeights;
  if (!IsFile(model / kRunMark) || !IsFile(own) || !IsFile(given) || ReadFile(given) != ReadFile(own)) return;
  Fail(
      ErrorKind::kUsage,
      "the weights of {} hold these adapters already: leave --adapter out, or give the model that they were trained on",
      model.string());
}

std::vector<std::string> TargetsInModel(const ModelSpec& model, const std::vector<std::string>& targets) {
  const ParamLayout all(model);
  std::vector<std::string> result;
  for (const std::string& target : targets) {
    const auto matches = [&](const std::string& name) {
      return GlobMatch(target, name) || GlobMatch("*." + target, name);
    };
    const bool own = std::ranges::any_of(
        all.params(), [&](const ParamInfo& info) { return IsLinear(info) && matches(WithoutWeight(info.name)); });
    std::set<std::string> modules;
    for (const Module& module : ModulesOf(model, all)) {
      if (own || std::ranges::none_of(module.names, matches)) continue;
      for (const Module::Part& part : module.parts) modules.insert(WithoutWeight(part.info->name));
    }
    const std::vector<std::string> found = modules.empty() ? std::vector{target} : ShortTargets(modules, all);
    for (const std::string& name : found) {
      if (std::ranges::find(result, name) == result.end()) result.push_back(name);
    }
  }
  return result;
}

void SavePeft(const ParamStore& adapters, const LoraSpec& lora, const std::string& base_model, const fs::path& folder) {
  MakeDirectories(folder);
  std::map<std::string, ConstMat, std::less<>> values;  // "model.layers.0.self_attn.q_proj.lora_A.weight"
  for (const ParamInfo& info : adapters.layout().params()) values[info.name] = adapters.At(info);
  const ParamLayout all(adapters.spec());
  std::vector<TensorToWrite> tensors;
  std::vector<std::vector<float>> fused;  // a list that grows keeps the values of its lists in place
  nlohmann::json names = nlohmann::json::array(), ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  nlohmann::json alpha = lora.alpha;
  if (lora.alpha == std::floor(lora.alpha)) alpha = std::llround(lora.alpha);  // as other writers have it
  const auto put = [&](const std::string& module, char side, std::vector<int64_t> shape, const void* data) {
    const std::span bytes(static_cast<const std::byte*>(data),
                          static_cast<size_t>(shape[0] * shape[1]) * sizeof(float));
    tensors.push_back({TensorName(module, side), {DType::kF32, std::move(shape), bytes}, DType::kF32});
  };
  for (const Module& module : ModulesOf(adapters.spec(), all)) {
    std::vector<const Module::Part*> adapted;
    const auto value = [&](const Module::Part& part, char side) {
      return values.find(fmt::format("{}.lora_{}.weight", WithoutWeight(part.info->name), side));
    };
    for (const Module::Part& part : module.parts) {
      if (value(part, 'A') != values.end()) adapted.push_back(&part);
    }
    if (adapted.empty()) continue;
    const std::string& name = module.names.front();
    names.push_back(name);
    const int64_t in = module.shape[1], out = module.shape[0], r = lora.rank;
    if (module.parts.size() == 1) {
      put(name, 'A', {r, in}, value(module.parts[0], 'A')->second.data);
      put(name, 'B', {out, r}, value(module.parts[0], 'B')->second.data);
      continue;
    }
    // Each matrix by itself: A one below the other, B on a diagonal of blocks, of a rank that is the sum.
    const auto blocks = static_cast<int64_t>(adapted.size()), rank = blocks * r;
    std::vector<float> a, b(static_cast<size_t>(out * rank));
    for (int64_t block = 0; block < blocks; ++block) {
      const Module::Part& part = *adapted[static_cast<size_t>(block)];
      const float* from = value(part, 'A')->second.Row<float>(0);
      a.insert(a.end(), from, from + r * in);
      const ConstMat rows_of_part = value(part, 'B')->second;
      ForEachRun(module, part, [&](int64_t row, int64_t begin, int64_t rows) {
        for (int64_t i = 0; i < rows; ++i) {
          std::copy_n(rows_of_part.Row<float>(begin + i), r, b.data() + (row + i) * rank + block * r);
        }
      });
    }
    put(name, 'A', {rank, in}, a.data());
    put(name, 'B', {out, rank}, b.data());
    fused.push_back(std::move(a));
    fused.push_back(std::move(b));
    if (blocks == 1) continue;
    ranks[name] = rank;
    alphas[name] = alpha.is_number_integer() ? nlohmann::json(blocks * alpha.get<int64_t>())
                                             : nlohmann::json(static_cast<double>(blocks) * lora.alpha);
  }
  WriteSafetensors(folder / kWeights, std::move(tensors));
  const nlohmann::json config = {{"peft_type", "LORA"},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", base_model},
                                 {"r", lora.rank},
                                 {"lora_alpha", alpha},
                                 {"lora_dropout", 0.0},
                                 {"target_modules", names},
                                 {"rank_pattern", ranks},
                                 {"alpha_pattern", alphas},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"use_rslora", false},
                                 {"modules_to_save", nullptr},
                                 {"inference_mode", true}};
  WriteFileAtomically(folder / kConfig, JsonText(config, 2) + "\n");
}

}  // namespace hawser
