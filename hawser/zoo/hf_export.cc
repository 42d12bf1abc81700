#include "hawser/zoo/hf_export.h"

#include <algorithm>
#include <cctype>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/io/json.h"
#include "hawser/io/ordered_json.h"
#include "hawser/io/safetensors.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/file_tensors.h"
#include "hawser/zoo/hf_config.h"
#include "hawser/zoo/hf_files.h"
#include "hawser/zoo/hf_keys.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr const char* kCard = "README.md";
constexpr const char* kTemplates = "additional_chat_templates";

/// Files of a tokenizer and its chat templates, as globs.
constexpr std::string_view kTokenizerFiles[] = {
    "tokenizer.json",    "tokenizer.model*", kTokenizerConfig, "special_tokens_map.json",
    "added_tokens.json", "vocab.json",       "merges.txt",     "vocab.txt",
    "spiece.model",      "tekken.json",      "chat_template*", "tokenization_*.py"};

/// What must travel with copies, as globs in lower case.
constexpr std::string_view kLegalFiles[] = {"license*",    "licence*",        "copying*",    "notice*",
                                            "use_policy*", "acceptable_use*", "attribution*"};

bool MatchesAny(std::span<const std::string_view> globs, const std::string& name) {
  return std::ranges::any_of(globs, [&](std::string_view glob) { return GlobMatch(glob, name); });
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Names of the regular files in a folder, in order.
std::vector<std::string> FilesIn(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    if (entry.is_regular_file(code)) names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

/// The members of a JSON file in their order. Errors: kFormat naming the file.
Json ReadObject(const fs::path& path) {
  const std::string text = ReadFile(path);
  return WithFrame(path.string(), [&] {
    JsonObject(ParseJson(text), "the file");  // depth, bytes and names are checked there
    return Json::parse(text);
  });
}

/// What is carried over from a source, read before anything is written: the folder may be the same.
struct Carried {
  Json config = Json::object(), generation = Json::object();
  bool has_tokenizer = false;
  std::map<std::string, std::string> files;  // by their path in the folder
};

void ReadTokenizer(const HfSource& source, int64_t context, Carried* carried) {
  for (const std::string& name : FilesIn(source.tokenizer)) {
    if (MatchesAny(kTokenizerFiles, name)) carried->files[name] = ReadFile(source.tokenizer / name);
  }
  for (const std::string& name : FilesIn(source.tokenizer / kTemplates)) {
    carried->files[std::string(kTemplates) + "/" + name] = ReadFile(source.tokenizer / kTemplates / name);
  }
  carried->has_tokenizer = true;
  const auto config = carried->files.find(kTokenizerConfig);
  if (config == carried->files.end() || context <= source.context) return;
  Json json = ReadObject(source.tokenizer / kTokenizerConfig);
  const auto most = json.find("model_max_length");
  if (most == json.end() || !most->is_number() || *most >= context) return;
  *most = context;
  config->second = IndentedJson(json);
}

/// The card with a line about what was done, at its end: its front matter stays as it is.
std::string WithNote(std::string card, const std::string& note) {
  if (note.empty()) return card;
  while (card.ends_with('\n') || card.ends_with('\r')) card.pop_back();
  return card + "\n\n" + note + "\n";
}

Carried Read(const HfSource& source, const Tokenizer* tokenizer, int64_t context) {
  Carried carried;
  if (!source.model.empty() && IsFile(source.model / kConfig)) {
    carried.config = ReadObject(source.model / kConfig);
    if (IsFile(source.model / kGenerationConfig)) carried.generation = ReadObject(source.model / kGenerationConfig);
    for (const std::string& name : FilesIn(source.model)) {
      if (MatchesAny(kLegalFiles, Lower(name))) carried.files[name] = ReadFile(source.model / name);
    }
    if (IsFile(source.model / kCard)) {
      carried.files[kCard] = WithNote(ReadFile(source.model / kCard), source.note);
    }
  } else if (!source.model.empty()) {
    LogLine(fmt::format("{}: no longer there; its card, licences and defaults of sampling are not carried over",
                        source.model.string()));
  }
  if (tokenizer == nullptr || source.tokenizer.empty()) return carried;
  if (IsFolder(source.tokenizer)) {
    ReadTokenizer(source, context, &carried);
  } else {
    LogLine(fmt::format("{}: no longer there; the tokenizer is written anew, without chat template",
                        source.tokenizer.string()));
  }
  return carried;
}

/// The configuration, then the members of the source that change nothing here.
std::string MergedConfig(const ModelSpec& spec, DType dtype, const Json& source) {
  Json config = Json::parse(HfConfigText(spec, dtype));
  const std::vector<std::string> known = HfKeysOf(spec);
  // Readers take an id of the family's own vocabulary for one that is not given, and refuse it in a smaller one.
  if (source.empty()) config["pad_token_id"] = nullptr;
  for (const auto& [key, value] : source.items()) {
    if (IsCarriedHfKey(key, value, known)) config[key] = value;
  }
  return IndentedJson(config);
}

std::string MergedGeneration(const std::string& ours, const HfSource& source, const Json& from, int64_t context) {
  const Json own = Json::parse(ours);
  if (from.empty()) return IndentedJson(own);
  Json config = from;
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    if (own.contains(key)) config[key] = own[key];
  }
  // A limit on prompt and answer that was the context follows it.
  const auto most = config.find("max_length");
  if (most != config.end() && *most == source.context && context > source.context) *most = context;
  return IndentedJson(config);
}

/// Tensors as the family's files have them; fused ones are put together first.
void WriteTensors(const ParamStore& params, DType dtype, const fs::path& path) {
  std::vector<TensorToWrite> tensors;
  std::deque<std::vector<std::byte>> fused;
  const size_t size = SizeOf(params.dtype());
  for (const FileTensor& tensor : FileTensors(params.spec())) {
    const auto bytes_of = [&](const TensorPiece& piece) {
      const auto* data = static_cast<const std::byte*>(params.At(params.layout().params()[piece.param]).data);
      return std::span(data + static_cast<size_t>(piece.param_begin) * size, static_cast<size_t>(piece.size) * size);
    };
    std::span<const std::byte> bytes = bytes_of(tensor.pieces.front());
    if (tensor.pieces.size() > 1) {
      std::vector<std::byte>& joined = fused.emplace_back();
      for (const TensorPiece& piece : tensor.pieces) {
        const std::span part = bytes_of(piece);
        joined.insert(joined.end(), part.begin(), part.end());
      }
      bytes = joined;
    }
    tensors.push_back({tensor.names.front(), {params.dtype(), tensor.shape, bytes}, dtype});
  }
  WriteSafetensors(path, std::move(tensors));
}

/// Whether a file or folder of this name belongs to a model, and so goes with it.
bool IsModelEntry(const std::string& name) {
  static constexpr std::string_view kOwn[] = {
      kConfig, kGenerationConfig, kSideFile, "*.safetensors", "*.safetensors.index.json", kCard, kTemplates};
  return MatchesAny(kOwn, name) || MatchesAny(kTokenizerFiles, name) || MatchesAny(kLegalFiles, Lower(name));
}

}  // namespace

HfSource SourceOf(const fs::path& model, const fs::path& tokenizer) {
  HfSource source;
  const auto has_tokenizer = [](const fs::path& folder) {
    return IsFile(folder / "tokenizer.json") || IsFile(folder / "tokenizer.model");
  };
  if (!model.empty()) {
    const fs::path path = ResolveModel(model);
    source.context = LoadSpec(path).context;
    if (IsFolder(path)) source.model = fs::absolute(path);
  }
  const fs::path path = tokenizer.empty() ? tokenizer : ResolveModel(tokenizer);
  const fs::path named = path.filename() == "tokenizer.json" ? path.parent_path() : path;
  const fs::path& folder = tokenizer.empty() ? source.model : named;
  if (!folder.empty() && has_tokenizer(folder)) source.tokenizer = fs::absolute(folder);
  return source;
}

void ExportHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype, const HfSource& source,
                       const fs::path& folder) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
    Fail(ErrorKind::kUsage, "cannot store weights as {}; use f32, bf16 or f16", Name(dtype));
  }
  const ModelSpec& spec = params.spec();
  Validate(spec);
  const Carried carried = Read(source, tokenizer, spec.context);
  const std::string config = MergedConfig(spec, dtype, carried.config);
  const std::string side = SideFileText(spec, config);

  MakeDirectories(folder);
  for (const char* stale : {kConfig, kIndex, kSideFile}) RemoveFile(folder / stale);
  WriteTensors(params, dtype, folder / kWeights);
  if (tokenizer != nullptr && !carried.has_tokenizer) tokenizer->Save(folder);
  for (const auto& [name, contents] : carried.files) {
    MakeDirectories((folder / name).parent_path());
    WriteFileAtomically(folder / name, contents);
  }
  WriteFileAtomically(folder / kGenerationConfig,
                      MergedGeneration(GenerationConfigText(spec), source, carried.generation, spec.context));
  if (!side.empty()) WriteFileAtomically(folder / kSideFile, side);
  WriteFileAtomically(folder / kConfig, config);
}

void ReplaceHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype, const HfSource& source,
                        const fs::path& folder) {
  const auto write = [&](const fs::path& to) { ExportHuggingFace(params, tokenizer, dtype, source, to); };
  if (!IsFile(folder / kConfig)) return write(folder);  // whole once it has one
  ReplaceFolder(folder, IsModelEntry, write);
}

void SaveHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype, const fs::path& folder) {
  ExportHuggingFace(params, tokenizer, dtype, {}, folder);
}

}  // namespace hawser
