#include "hawser/train/peft.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/io/convert.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";

// Keys that do not change what the adapters compute once they are trained.
const std::set<std::string_view> kHarmless = {
    "arrow_config", "auto_mapping",    "base_model_name_or_path", "corda_config",   "ensure_weight_tying",
    "eva_config",   "exclude_modules", "inference_mode",          "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_dropout",    "megatron_core",           "peft_version",   "qalora_group_size",
    "revision",     "runtime_config",  "target_modules",          "task_type"};
const std::set<std::string_view> kRead = {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"};

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

/// Rank and alpha; errors for keys that ask for something else than W + s B A.
LoraSpec ReadConfig(const fs::path& path) {
  const nlohmann::json json = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  const JsonObject object(json, path.string());
  const auto refuse = [&](const std::string& key, std::string_view wanted) {
    Fail(ErrorKind::kUnsupported, "{}: \"{}\" is {}; supported is {}", path.string(), key, json[key].dump(), wanted);
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
  LoraSpec lora;
  lora.rank = object.Int("r", 1, int64_t{1} << 16);
  lora.alpha = object.Number("lora_alpha");
  if (object.BoolOr("use_rslora", false)) lora.alpha *= std::sqrt(static_cast<double>(lora.rank));
  return lora;
}

/// Modules that have tensors, by their last name where that says the same. Errors: kUsage naming a tensor that adapts
/// nothing in a model with the parameters `all`.
std::vector<std::string> Targets(const TensorSource& source, const LoraSpec& lora, const ParamLayout& all) {
  const auto layout_of = [&](std::vector<std::string> targets) {
    LoraSpec spec = lora;
    spec.targets = std::move(targets);
    return LoraLayout(all, spec);
  };
  std::set<std::string> known, full, last;
  const ParamLayout everything = layout_of({"*"});  // outlives the loop over it
  for (const ParamInfo& info : everything.params()) known.insert(std::string(kPrefix) + info.name);
  for (const auto& [name, view] : source.tensors()) {
    if (!known.contains(name)) {
      Fail(ErrorKind::kUsage, "tensor \"{}\" adapts nothing in this model that can be adapted", name);
    }
    const std::string module = name.substr(kPrefix.size(), name.find(".lora_") - kPrefix.size());
    full.insert(module);
    last.insert(module.substr(module.rfind('.') + 1));
  }
  if (full.empty()) Fail(ErrorKind::kFormat, "no tensors");
  std::vector<std::string> names(last.begin(), last.end());
  if (layout_of(names).params().size() != 2 * full.size()) names.assign(full.begin(), full.end());
  return names;
}

struct Peft {
  LoraSpec lora;
  ParamLayout layout;
  TensorSource source;
};

Peft Open(const fs::path& given, const ParamLayout& all) {
  const fs::path folder = FindFolder(given);
  Peft peft{.lora = ReadConfig(folder / kConfig), .source = ReadSafetensors(folder / kWeights)};
  const std::string path = (folder / kWeights).string();
  WithFrame(path, [&] {
    peft.lora.targets = Targets(peft.source, peft.lora, all);
    peft.layout = LoraLayout(all, peft.lora);
  });
  for (const ParamInfo& info : peft.layout.params()) {
    const std::string name = std::string(kPrefix) + info.name;
    const TensorView* view = peft.source.Find(name);
    const std::vector<int64_t> shape = {info.rows, info.cols};
    if (view == nullptr || view->shape != shape) {
      Fail(ErrorKind::kUsage, "{}: tensor \"{}\": this model wants {}, found {}", path, name, ShapeText(shape),
           view == nullptr ? "none" : ShapeText(view->shape));
    }
  }
  return peft;
}

ParamStore Values(const Peft& peft, const ModelSpec& model) {
  ParamStore adapters(model, peft.layout, DType::kF32);
  for (const ParamInfo& info : peft.layout.params()) {
    const TensorView* view = peft.source.Find(std::string(kPrefix) + info.name);
    ConvertToF32(view->dtype, view->bytes.data(), info.size(), adapters.At(info).Row<float>(0));
  }
  return adapters;
}

}  // namespace

LoraSpec ReadPeftSpec(const fs::path& folder, const ParamLayout& all) { return Open(folder, all).lora; }

ParamStore ReadPeft(const fs::path& folder, const ModelSpec& model) {
  return Values(Open(folder, ParamLayout(model)), model);
}

void MergePeft(const fs::path& folder, Backend* backend, ParamStore* params) {
  HAWSER_CHECK(params->dtype() == DType::kF32);
  const Peft peft = Open(folder, params->layout());
  const ParamStore adapters = Values(peft, params->spec());
  Lora(backend, peft.lora, &adapters).Merge(*params, params);
}

void SavePeft(const ParamStore& adapters, const LoraSpec& lora, const std::string& base_model, const fs::path& folder) {
  MakeDirectories(folder);
  std::vector<TensorToWrite> tensors;
  std::set<std::string> modules;
  for (const ParamInfo& info : adapters.layout().params()) {
    const auto* data = static_cast<const std::byte*>(adapters.At(info).data);
    const std::span bytes(data, static_cast<size_t>(info.size()) * sizeof(float));
    tensors.push_back({std::string(kPrefix) + info.name, {DType::kF32, {info.rows, info.cols}, bytes}, DType::kF32});
    modules.insert(info.name.substr(0, info.name.rfind(".lora_")));
  }
  WriteSafetensors(folder / kWeights, std::move(tensors));
  nlohmann::json alpha = lora.alpha;
  if (lora.alpha == std::floor(lora.alpha)) alpha = std::llround(lora.alpha);  // as other writers have it
  const nlohmann::json config = {{"peft_type", "LORA"},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", base_model},
                                 {"r", lora.rank},
                                 {"lora_alpha", alpha},
                                 {"lora_dropout", 0.0},
                                 {"target_modules", modules},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"use_rslora", false},
                                 {"modules_to_save", nullptr},
                                 {"inference_mode", true}};
  WriteFileAtomically(folder / kConfig, config.dump(2) + "\n");
}

}  // namespace hawser
