#include "hawser/data/corpus.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/parallel.h"
#include "hawser/io/json.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string FolderName(const fs::path& file) {
  std::error_code code;
  const fs::path absolute = fs::absolute(file, code).lexically_normal();
  return (code ? file : absolute).parent_path().filename().string();
}

constexpr size_t kBatchBytes = size_t{64} << 20;  // of text tokenised at once

/// A document of a text file: text, or ids where the file is tokenised.
struct RawDocument {
  TextDocument text;
  bool tokenised = false;
  std::vector<int32_t> ids;
  std::vector<float> weights;  // of ids; empty: 1 each
};
using TakeRaw = std::function<void(RawDocument)>;

std::vector<int32_t> ParseIds(const nlohmann::json& list) {
  if (!list.is_array()) Fail(ErrorKind::kFormat, "\"input_ids\" is not a list");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const nlohmann::json& id : list) {
    const bool whole = id.is_number_unsigned() || (id.is_number_integer() && id.get<int64_t>() >= 0);
    if (!whole || id.get<uint64_t>() > INT32_MAX) {
      Fail(ErrorKind::kFormat, "\"input_ids\"[{}] is {}, no token id", ids.size(), ShownJson(id));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<float> ParseWeights(const nlohmann::json* list, size_t ids) {
  if (list == nullptr) return {};
  if (!list->is_array() || list->size() != ids) {
    Fail(ErrorKind::kFormat, "\"weights\": expected a list of {} numbers, one for each of \"input_ids\", found {}", ids,
         list->is_array() ? fmt::format("{}", list->size()) : list->type_name());
  }
  std::vector<float> weights;
  weights.reserve(ids);
  for (const nlohmann::json& weight : *list) {
    const double value = weight.is_number() ? weight.get<double>() : -1.0;
    if (!(value >= 0) || !std::isfinite(static_cast<float>(value))) {
      Fail(ErrorKind::kFormat, "\"weights\"[{}] is {}; wanted a number from 0 up", weights.size(), weight.dump());
    }
    weights.push_back(static_cast<float>(value));
  }
  return weights;
}

/// Errors: kFormat where an object says its text in two ways.
void RefuseBeside(const JsonObject& object, const char* form, std::initializer_list<const char*> others) {
  for (const char* other : others) {
    if (object.Find(other) == nullptr) continue;
    Fail(
        ErrorKind::kFormat,
        "both \"{}\" and \"{}\"; a document is one of \"text\", \"prompt\" with \"completion\", and \"input_ids\" with "
        "or without \"weights\"",
        form, other);
  }
}

void TakeTokenised(const JsonObject& object, const fs::path& file, const TakeRaw& take) {
  RefuseBeside(object, "input_ids", {"text", "prompt", "completion"});
  const std::vector<int32_t> ids = ParseIds(*object.Find("input_ids"));
  const std::vector<float> weights = ParseWeights(object.Find("weights"), ids.size());
  const auto emit = [&](std::string source, int64_t begin, int64_t end) {
    RawDocument document{.text = {.source = std::move(source), .path = file.string()}, .tokenised = true};
    document.ids.assign(ids.begin() + begin, ids.begin() + end);
    if (!weights.empty()) document.weights.assign(weights.begin() + begin, weights.begin() + end);
    take(std::move(document));
  };
  const auto size = static_cast<int64_t>(ids.size());
  const nlohmann::json* cuts = object.Find("source");
  if (cuts == nullptr || !cuts->is_array()) return emit(object.StringOr("source", FolderName(file)), 0, size);
  int64_t begin = 0;
  for (size_t i = 0; i < cuts->size(); ++i) {
    const JsonObject cut((*cuts)[i], fmt::format("source[{}]", i));
    const int64_t start = cut.IntOr("start", begin, 0, size), end = cut.Int("end", 0, size);
    if (start != begin || end < start) {
      Fail(ErrorKind::kFormat, "source[{}] is [{}, {}), but documents before it end at {}", i, start, end, begin);
    }
    emit(cut.StringOr("source", FolderName(file)), start, end);
    begin = end;
  }
  if (begin != size) Fail(ErrorKind::kFormat, "tokens [{}, {}) belong to no document of \"source\"", begin, size);
}

void TakeLine(std::string_view line, const fs::path& file, const TakeRaw& take) {
  const nlohmann::json value = ParseJson(line);
  const JsonObject object(value, "document");
  if (object.Find("input_ids") != nullptr) return TakeTokenised(object, file, take);
  TextDocument document{.source = object.StringOr("source", FolderName(file)), .path = file.string()};
  if (object.Find("completion") != nullptr || object.Find("prompt") != nullptr) {
    RefuseBeside(object, "completion", {"text", "weights"});
    document.text = object.StringOr("prompt", "");
    document.prompt_bytes = static_cast<int64_t>(document.text.size());
    document.text += object.String("completion");
  } else {
    RefuseBeside(object, "text", {"weights"});
    document.text = object.String("text");
  }
  take({.text = std::move(document)});
}

/// Documents of a .txt or .jsonl file.
void ReadTextFile(const fs::path& file, const TakeRaw& take) {
  const MappedFile map(file);
  std::string_view contents(reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size());
  if (const int64_t at = InvalidUtf8At(contents); at >= 0) {
    Fail(ErrorKind::kFormat, "{}: not UTF-8 text: byte {} is 0x{:02x}; convert it with iconv", file.string(), at,
         static_cast<unsigned char>(contents[at]));
  }
  if (contents.starts_with(kByteOrderMark)) contents.remove_prefix(kByteOrderMark.size());
  if (contents.empty()) Fail(ErrorKind::kFormat, "{}: the file is empty", file.string());
  if (file.extension() != ".jsonl") {
    return take({.text = {.source = FolderName(file), .path = file.string(), .text = std::string(contents)}});
  }
  int64_t number = 0;
  for (size_t begin = 0; begin < contents.size();) {
    const size_t end = std::min(contents.find('\n', begin), contents.size());
    const std::string_view line = contents.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    WithFrame(fmt::format("{}: line {}", file.string(), number), [&] { TakeLine(line, file, take); });
  }
}

[[noreturn]] void FailNothing(const std::vector<fs::path>& files) {
  Fail(ErrorKind::kFormat, "no documents with text in {}{}",
       files.empty() ? std::string("an empty list of files") : files.front().string(),
       files.size() > 1 ? " and the other files" : "");
}

TokenShard OpenShard(const fs::path& file, const Tokenizer& tokenizer) {
  TokenShard shard(file);
  if (shard.vocab() > tokenizer.vocab_size() ||
      (shard.fingerprint() != 0 && shard.fingerprint() != TokenizerFingerprint(tokenizer))) {
    Fail(ErrorKind::kUsage, "{}: was written with another tokenizer, of {} ids; this one has {}", file.string(),
         shard.vocab(), tokenizer.vocab_size());
  }
  return shard;
}

}  // namespace

int64_t InvalidUtf8At(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = CodePointAt(text, at).length;
    if (length == 0) return static_cast<int64_t>(at);
    at += length;
  }
  return -1;
}

std::vector<fs::path> ListDataFiles(const std::vector<fs::path>& paths) {
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    std::error_code code;
    const fs::file_status status = fs::status(path, code);
    if (!fs::exists(status)) {
      Fail(ErrorKind::kIo, "{}: no such file or folder", path.empty() ? "''" : path.string());
    }
    if (!fs::is_directory(status)) {
      if (path.extension() == ".tokens") CheckFinished(ParentFolder(path));
      files.push_back(path);
      continue;
    }
    std::vector<fs::path> found;
    CheckFinished(path);
    try {
      for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path)) {
        if (entry.is_directory()) CheckFinished(entry.path());
        const fs::path extension = entry.path().extension();
        const bool data = extension == ".txt" || extension == ".jsonl" || extension == ".tokens";
        if (data && !entry.is_directory()) found.push_back(entry.path());  // reading refuses what is no regular file
      }
    } catch (const fs::filesystem_error& error) {
      Fail(ErrorKind::kIo, "{}: cannot read folder: {}", path.string(), error.code().message());
    }
    if (found.empty()) Fail(ErrorKind::kFormat, "{}: no .txt, .jsonl or .tokens file in this folder", path.string());
    std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

std::vector<TextDocument> ReadDocuments(const std::vector<fs::path>& files) {
  std::vector<TextDocument> documents;
  bool any_text = false;
  for (const fs::path& file : files) {
    if (file.extension() == ".tokens") Fail(ErrorKind::kFormat, "{}: holds token ids; text is wanted", file.string());
    ReadTextFile(file, [&](RawDocument document) {
      if (document.tokenised) Fail(ErrorKind::kFormat, "holds token ids; text is wanted");
      any_text = any_text || !document.text.text.empty();
      documents.push_back(std::move(document.text));
    });
  }
  if (!any_text) FailNothing(files);
  return documents;
}

FileSplit HoldOutFiles(std::vector<fs::path> files, int64_t held_out) {
  const auto count = static_cast<int64_t>(files.size());
  if (held_out < 0 || held_out >= count) {
    Fail(ErrorKind::kUsage, "cannot hold out {} of {} data files: at least one must be left to train on", held_out,
         count);
  }
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  const auto cut = files.end() - held_out;
  return {.train = {files.begin(), cut}, .validation = {cut, files.end()}};
}

namespace {

std::vector<float> CompletionWeights(const TextDocument& text, const std::vector<int32_t>& ids,
                                     const Tokenizer& tokenizer) {
  const std::string_view prompt = std::string_view(text.text).substr(0, static_cast<size_t>(text.prompt_bytes));
  const std::vector<int32_t> alone = tokenizer.Encode(prompt);
  const auto changed = std::mismatch(ids.begin(), ids.end(), alone.begin(), alone.end()).first;
  std::vector<float> weights(ids.size(), 1.0f);
  std::fill_n(weights.begin(), changed - ids.begin(), 0.0f);
  return weights;
}

}  // namespace

std::vector<Document> TokenizeDocuments(const std::vector<TextDocument>& texts, const Tokenizer& tokenizer) {
  std::vector<Document> documents(texts.size());
  std::vector<std::exception_ptr> errors(texts.size());
  ParallelFor(static_cast<int64_t>(texts.size()), [&](int64_t i) {
    try {
      documents[i] = {.id = i, .tokens = tokenizer.Encode(texts[i].text)};
      if (texts[i].prompt_bytes > 0) documents[i].weights = CompletionWeights(texts[i], documents[i].tokens, tokenizer);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (size_t i = 0; i < texts.size(); ++i) {
    if (errors[i]) WithFrame(texts[i].path, [&] { std::rethrow_exception(errors[i]); });
  }
  return documents;
}

namespace {

using TakeIds = std::function<void(TokenisedDocument)>;

/// Text waits until there is enough of it to tokenise in parallel.
class TokenizerQueue {
 public:
  TokenizerQueue(const Tokenizer& tokenizer, const TakeIds& take) : tokenizer_(tokenizer), take_(take) {}

  void Add(RawDocument document) {
    if (document.tokenised) {
      Flush();
      return TakeRawIds(std::move(document));
    }
    bytes_ += document.text.text.size();
    texts_.push_back(std::move(document.text));
    if (bytes_ >= kBatchBytes) Flush();
  }
  void Flush() {
    std::vector<Document> documents = TokenizeDocuments(texts_, tokenizer_);
    for (size_t i = 0; i < texts_.size(); ++i) {
      take_({std::move(texts_[i].source), std::move(documents[i].tokens), std::move(documents[i].weights)});
    }
    texts_.clear();
    bytes_ = 0;
  }

 private:
  void TakeRawIds(RawDocument document) {
    std::vector<int32_t>& ids = document.ids;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= tokenizer_.vocab_size()) {
        Fail(ErrorKind::kFormat, "token id {} is outside the vocabulary of {}; was another tokenizer used?", ids[i],
             tokenizer_.vocab_size());
      }
    }
    const std::vector<int32_t>& prefix = tokenizer_.prefix();
    if (!prefix.empty() && !ids.empty() && ids[0] == prefix[0]) {
      ids.erase(ids.begin());
      if (!document.weights.empty()) document.weights.erase(document.weights.begin());
    }
    take_({std::move(document.text.source), std::move(ids), std::move(document.weights)});
  }

  const Tokenizer& tokenizer_;
  const TakeIds& take_;
  std::vector<TextDocument> texts_;
  size_t bytes_ = 0;
};

/// Documents of all files, shards apart.
void ReadFiles(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const TakeIds& take_ids,
               const std::function<void(TokenShard)>& take_shard) {
  bool any_tokens = false;
  const TakeIds counted = [&](TokenisedDocument document) {
    any_tokens = any_tokens || !document.ids.empty();
    take_ids(std::move(document));
  };
  TokenizerQueue queue(tokenizer, counted);
  for (const fs::path& file : files) {
    if (file.extension() != ".tokens") {
      ReadTextFile(file, [&](RawDocument document) { queue.Add(std::move(document)); });
      continue;
    }
    queue.Flush();
    TokenShard shard = OpenShard(file, tokenizer);
    any_tokens = any_tokens || shard.tokens() > 0;
    take_shard(std::move(shard));
  }
  queue.Flush();
  if (!any_tokens) FailNothing(files);
}

}  // namespace

void TokenizeFiles(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const TakeIds& take) {
  ReadFiles(files, tokenizer, take, [&](const TokenShard& shard) {
    for (int64_t d = 0; d < shard.size(); ++d) {
      take({shard.sources()[shard.source(d)], shard.Read(d), shard.Weights(d)});
    }
  });
}

void AddDocuments(const std::vector<fs::path>& files, const Tokenizer& tokenizer, DocumentSet* set) {
  ReadFiles(
      files, tokenizer,
      [&](TokenisedDocument document) {
        set->Add(document.source, std::move(document.ids), std::move(document.weights));
      },
      [&](TokenShard shard) { set->Add(std::move(shard)); });
}

DocumentSet LoadDocuments(const std::vector<fs::path>& files, const Tokenizer& tokenizer) {
  DocumentSet set;
  AddDocuments(files, tokenizer, &set);
  return set;
}

}  // namespace hawser
