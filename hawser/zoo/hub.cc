#include "hawser/zoo/hub.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/lock.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/io/digest.h"
#include "hawser/io/http.h"
#include "hawser/io/json.h"
#include "hawser/zoo/hf_files.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHub = "https://huggingface.co";
constexpr int kTries = 6;  // without a byte of progress
constexpr std::chrono::milliseconds kFirstWait{500};
constexpr int64_t kLongestWait = 600;      // seconds that a server may ask for
constexpr size_t kMostListing = 64 << 20;  // bytes

constexpr std::string_view kModelFiles[] = {kConfig,
                                            kGenerationConfig,
                                            kSideFile,
                                            "tokenizer*",
                                            "special_tokens_map.json",
                                            "added_tokens.json",
                                            "vocab.json",
                                            "merges.txt",
                                            "chat_template*",
                                            "additional_chat_templates/*",
                                            "LICENSE*",
                                            "NOTICE*",
                                            "README.md"};

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}
bool IsOn(const char* name) {
  const std::string value = Variable(name);
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE" || value == "true";
}

fs::path HubHome() {
  if (const std::string home = Variable("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = Variable("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "huggingface";
  if (const std::string home = Variable("HOME"); !home.empty()) return fs::path(home) / ".cache" / "huggingface";
  Fail(ErrorKind::kUsage, "no place for models: set HF_HOME or HOME to a folder");
}
fs::path HubCache() {
  const std::string cache = Variable("HF_HUB_CACHE");
  return cache.empty() ? HubHome() / "hub" : fs::path(cache);
}

std::string Token() {
  std::string token = Variable("HF_TOKEN");
  if (token.empty()) {
    const std::string named = Variable("HF_TOKEN_PATH");
    const fs::path file = named.empty() ? HubHome() / "token" : fs::path(named);
    std::error_code code;
    if (fs::is_regular_file(file, code)) token = ReadFile(file);
  }
  const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  std::erase_if(token, blank);
  return token;
}

/// Letters, digits, and what does no harm in names of files.
bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 200 && name != "." && name != ".." && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

/// A path below a folder, by components of printable ASCII or UTF-8. Errors: kFormat.
void CheckInside(const std::string& name) {
  bool bad = name.empty() || name.size() > 1000 || name.front() == '/' || name.back() == '/';
  for (const unsigned char c : name) bad = bad || c < ' ' || c == '\\' || c == 127;
  for (const fs::path& part : fs::path(name)) bad = bad || part == ".." || part == "." || part.empty();
  if (bad || name.find("//") != name.npos) {
    Fail(ErrorKind::kFormat, "the server names a file \"{}\", which is no path inside a folder", name);
  }
}

/// A path in a URL.
std::string Escaped(std::string_view text) {
  std::string out;
  for (const unsigned char c : text) {
    const bool plain = std::isalnum(c) != 0 || c == '/' || c == '-' || c == '.' || c == '_' || c == '~';
    out += plain ? std::string(1, static_cast<char>(c)) : fmt::format("%{:02X}", c);
  }
  return out;
}

/// W/"abc" and "abc" are abc.
std::string EtagOf(std::string text) {
  if (text.starts_with("W/")) text.erase(0, 2);
  std::erase(text, '"');
  return text;
}

/// Waits between tries; gives up in the end.
class Patience {
 public:
  void Progress() { failed_ = 0; }
  /// Errors: kIo telling `why`.
  void Wait(const std::string& url, const std::string& why, int64_t asked) {
    ++failed_;
    if (failed_ >= kTries) Fail(ErrorKind::kIo, "{}: {}, after {} tries; run it again to go on", url, why, failed_);
    if (asked > kLongestWait) {
      Fail(ErrorKind::kIo, "{}: {}; the server wants to be left alone for {} seconds", url, why, asked);
    }
    const auto wait = asked > 0 ? std::chrono::milliseconds(1000 * asked) : kFirstWait * (1 << (failed_ - 1));
    LogLine(fmt::format("{}: {}; next try in {:.1f} s", url, why, static_cast<double>(wait.count()) / 1000));
    std::this_thread::sleep_for(wait);
  }

 private:
  int failed_ = 0;
};

bool IsPassing(int status) { return status == 408 || status == 425 || status == 429 || status >= 500; }

class Puller {
 public:
  explicit Puller(const HubModel& model) : model_(model) {
    if (!IsPlainName(model.revision)) {
      Fail(ErrorKind::kUsage, "\"{}\" is no branch, tag or commit that can be pulled", model.revision);
    }
    endpoint_ = Variable("HF_ENDPOINT").empty() ? kHub : Variable("HF_ENDPOINT");
    while (endpoint_.ends_with('/')) endpoint_.pop_back();
    if (const std::string token = Token(); !token.empty()) headers_.push_back("Authorization: Bearer " + token);
    std::string folder = "models--" + model.name;
    if (const size_t slash = folder.find('/'); slash != folder.npos) folder.replace(slash, 1, "--");
    root_ = HubCache() / folder;
  }

  const fs::path& root() const { return root_; }

  HubPull Pull() {
    if (IsOn("HF_HUB_OFFLINE")) Fail(ErrorKind::kIo, "{}: HF_HUB_OFFLINE is set, so nothing is fetched", model_.name);
    const std::vector<std::string> names = Choose(List());
    MakeDirectories(root_ / "blobs");
    const FolderLock lock(root_);
    HubPull pull{.commit = commit_, .folder = root_ / "snapshots" / commit_};
    for (const std::string& name : names) pull.files.push_back(Fetch(name, pull.folder));
    MakeDirectories((root_ / "refs" / model_.revision).parent_path());
    WriteFileAtomically(root_ / "refs" / model_.revision, commit_);
    return pull;
  }

 private:
  struct Facts {
    std::string etag;
    int64_t bytes = -1;  // -1: not told
  };

  /// The body of a small document, or nothing for 404.
  std::optional<std::string> Document(const std::string& url) {
    for (Patience patience;;) {
      std::string body;
      const HttpResponse response = Http({.url = url, .headers = headers_}, [&](const auto&, std::string_view piece) {
        body += piece;
        return body.size() <= kMostListing;
      });
      if (!response.failure.empty()) {
        patience.Wait(url, response.failure, 0);
      } else if (IsPassing(response.status)) {
        patience.Wait(url, fmt::format("the server answers {}", response.status), response.retry_after);
      } else if (response.status == 404) {
        return std::nullopt;
      } else {
        CheckStatus(url, response.status);
        return body;
      }
    }
  }

  void CheckStatus(const std::string& url, int status) const {
    if (status == 200) return;
    const char* hint = status != 401 && status != 403 ? ""
                       : headers_.empty()             ? "; private and gated models want a token in HF_TOKEN"
                                                      : "; the token has no access to this model";
    Fail(ErrorKind::kIo, "{}: the server answers {}{}", url, status, hint);
  }

  /// The files of the model; sets the commit.
  std::vector<std::string> List() {
    const std::string base = fmt::format("{}/api/models/{}", endpoint_, Escaped(model_.name));
    std::optional<std::string> body = Document(base + "/revision/" + Escaped(model_.revision));
    if (!body && model_.revision == "main") body = Document(base);
    if (!body) {
      Fail(ErrorKind::kIo, "{} has no model {} with a revision {}{}", endpoint_, model_.name, model_.revision,
           headers_.empty() ? "; private ones want a token in HF_TOKEN" : "");
    }
    return WithFrame(base, [&] {
      const nlohmann::json listing = ParseJson(*body);
      const nlohmann::json none;
      const auto member = [&](const nlohmann::json& of, const char* key) -> const nlohmann::json& {
        return of.is_object() && of.contains(key) ? of[key] : none;
      };
      const nlohmann::json &sha = member(listing, "sha"), &siblings = member(listing, "siblings");
      commit_ = sha.is_string() ? sha.get<std::string>() : "";
      if (!IsPlainName(commit_)) Fail(ErrorKind::kFormat, "the server names no commit (\"sha\"): {}", ShownJson(sha));
      std::vector<std::string> names;
      for (const nlohmann::json& sibling : siblings.is_array() ? siblings : nlohmann::json::array()) {
        const nlohmann::json& name = member(sibling, "rfilename");
        if (!name.is_string()) Fail(ErrorKind::kFormat, "a file without \"rfilename\": {}", ShownJson(sibling));
        CheckInside(name.get<std::string>());
        names.push_back(name.get<std::string>());
      }
      return names;
    });
  }

  std::vector<std::string> Choose(const std::vector<std::string>& names) const {
    const auto matching = [&](auto... globs) {
      std::vector<std::string> found;
      for (const std::string& name : names) {
        if ((GlobMatch(globs, name) || ...)) found.push_back(name);
      }
      return found;
    };
    if (!model_.file.empty()) {
      std::vector<std::string> found = matching(std::string_view(model_.file));
      if (found.empty()) {
        Fail(ErrorKind::kUsage, "no file of {} matches \"{}\"; it has {}", model_.name, model_.file,
             fmt::join(names, ", "));
      }
      return found;
    }
    std::vector<std::string> weights;
    for (std::string& name : matching("model*.safetensors", "model.safetensors.index.json")) {
      if (name.find('/') == name.npos) weights.push_back(std::move(name));
    }
    if (!weights.empty()) {
      std::vector<std::string> found;
      for (const std::string_view glob : kModelFiles) {
        for (std::string& name : matching(glob)) {
          const bool deeper = std::ranges::count(name, '/') > std::ranges::count(glob, '/');
          if (!deeper && std::ranges::find(found, name) == found.end()) found.push_back(std::move(name));
        }
      }
      found.insert(found.end(), weights.begin(), weights.end());
      return found;
    }
    const std::vector<std::string> gguf = matching("*.gguf");
    if (gguf.size() == 1) return gguf;
    if (gguf.empty()) {
      Fail(ErrorKind::kUnsupported, "{} has neither .safetensors nor .gguf files; it has {}", model_.name,
           fmt::join(names, ", "));
    }
    Fail(ErrorKind::kUsage, "{} has several GGUF files; choose with --file: {}", model_.name, fmt::join(gguf, ", "));
  }

  /// What the server says of a file before it is fetched. Redirects to where big files lie are not followed, only those
  /// to another name of the model.
  Facts Ask(std::string url) {
    int moves = 0;
    for (Patience patience;;) {
      const HttpResponse response = Http({.url = url, .headers = headers_, .head = true, .follow = false},
                                         [](const auto&, std::string_view) { return true; });
      if (!response.failure.empty()) {
        patience.Wait(url, response.failure, 0);
        continue;
      }
      if (IsPassing(response.status) && response.status != 501) {
        patience.Wait(url, fmt::format("the server answers {}", response.status), response.retry_after);
        continue;
      }
      const bool knows_no_head = response.status == 405 || response.status == 501;
      const bool moved = response.status >= 300 && response.status < 400;
      if (!knows_no_head && !moved) CheckStatus(url, response.status);
      Facts facts;
      facts.etag = EtagOf(response.Header("x-linked-etag"));
      if (facts.etag.empty() && response.status == 200) facts.etag = EtagOf(response.Header("etag"));
      std::string size = response.Header("x-linked-size");
      if (size.empty() && response.status == 200) size = response.Header("content-length");
      facts.bytes = ParseNumber<int64_t>(size).value_or(-1);
      const std::string& place = response.Header("location");
      if (moved && facts.etag.empty() && place.starts_with("/") && ++moves <= 5) {  // a model of another name now
        url = endpoint_ + place;
        continue;
      }
      if (!facts.etag.empty() && !IsPlainName(facts.etag)) {
        Fail(ErrorKind::kFormat, "{}: the server names the contents \"{}\"", url, facts.etag);
      }
      return facts;
    }
  }

  HubFile Fetch(const std::string& name, const fs::path& snapshot) {
    const std::string url =
        fmt::format("{}/{}/resolve/{}/{}", endpoint_, Escaped(model_.name), Escaped(commit_), Escaped(name));
    const Facts facts = Ask(url);
    HubFile file{.name = name};
    // Without a name for its contents a file is called by its place; it cannot be told whether a part of it still
    // holds.
    const std::string called = !facts.etag.empty() ? facts.etag : commit_ + "-" + EscapedName(name);
    const fs::path blob = root_ / "blobs" / called;
    std::error_code code;
    const bool there = fs::is_regular_file(blob, code) &&
                       (facts.bytes < 0 || static_cast<int64_t>(fs::file_size(blob, code)) == facts.bytes);
    if (!there) {
      const fs::path part = blob.string() + ".incomplete";
      if (facts.etag.empty()) RemoveFile(part);
      Download(url, facts, name, part);
      RenamePath(part, blob);
      file.fetched = true;
    }
    file.bytes = static_cast<int64_t>(fs::file_size(blob));
    Link(blob, snapshot / name);
    return file;
  }

  static std::string EscapedName(std::string name) {
    std::ranges::replace_if(
        name,
        [](char c) {
          return !IsPlainName({&c, 1});
        },
        '_');
    return name;
  }

  /// Fills `part`, from where an earlier run left it. What turns out to be wrong is fetched once more from its start.
  void Download(const std::string& url, const Facts& facts, const std::string& name, const fs::path& part) {
    for (int attempt = 0;; ++attempt) {
      Transfer(url, facts, name, part);
      const std::string wrong = Mistake(facts, part);
      if (wrong.empty()) return;
      RemoveFile(part);
      if (attempt == 1) Fail(ErrorKind::kFormat, "{}: {}; nothing of it was kept", url, wrong);
      LogLine(fmt::format("{}: {}; it is fetched once more", url, wrong));
    }
  }

  static int64_t SizeOfFile(const fs::path& path) {
    std::error_code code;
    const auto bytes = fs::file_size(path, code);
    return code ? 0 : static_cast<int64_t>(bytes);
  }

  void Transfer(const std::string& url, const Facts& facts, const std::string& name, const fs::path& part) {
    ProgressBar bar(name, std::max<int64_t>(facts.bytes, 0), SizeOfFile(part));
    int64_t furthest = SizeOfFile(part);
    for (Patience patience;;) {
      int64_t at = SizeOfFile(part);
      if (facts.bytes >= 0 && at > facts.bytes) {
        RemoveFile(part);
        at = 0;
      }
      if (at > 0 && at == facts.bytes) return bar.Finish();
      bool begun = false;
      std::optional<AppendFile> file;
      const HttpResponse response =
          Http({.url = url, .headers = headers_, .begin = at}, [&](const HttpResponse& from, std::string_view piece) {
            if (from.status != 200 && from.status != 206) return false;
            if (!begun) {
              const bool goes_on =
                  from.status == 206 && from.Header("content-range").starts_with(fmt::format("bytes {}-", at));
              if (!goes_on && at > 0) {
                TruncateFile(part, 0);
                at = 0;
              }
              if (from.status == 206 && !goes_on)
                return false;  // another part than was asked for: again, from the start
              file.emplace(part);
              begun = true;
            }
            file->Append(piece);
            at += static_cast<int64_t>(piece.size());
            if (at > furthest) patience.Progress();  // not where it only comes again
            furthest = std::max(furthest, at);
            if (facts.bytes > 0) bar.Update(std::min(at, facts.bytes));
            return facts.bytes < 0 || at <= facts.bytes;
          });
      file.reset();
      if (facts.bytes >= 0 && at > facts.bytes) return bar.Finish();  // told by Mistake
      if (response.status == 416) {
        RemoveFile(part);
        patience.Wait(url, "the server has no such part of the file", 0);
      } else if (IsPassing(response.status)) {
        patience.Wait(url, fmt::format("the server answers {}", response.status), response.retry_after);
      } else if (response.failure.empty() && response.status == 206 && !begun) {
        patience.Wait(url, "the server sends another part than was asked for", 0);
      } else if (!response.failure.empty()) {
        patience.Wait(url, response.failure, 0);
      } else {
        if (response.status != 206) CheckStatus(url, response.status);
        if (!begun && at == 0) AppendFile empty(part);  // a file of no bytes
        return bar.Finish();
      }
    }
  }

  /// What is wrong with a fetched file; empty: nothing.
  static std::string Mistake(const Facts& facts, const fs::path& part) {
    const int64_t bytes = SizeOfFile(part);
    if (facts.bytes >= 0 && bytes != facts.bytes) {
      return fmt::format("{} bytes came where {} were promised", bytes, facts.bytes);
    }
    const bool is_hex = facts.etag.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_hex || (facts.etag.size() != 64 && facts.etag.size() != 40)) return "";
    const bool is_git = facts.etag.size() == 40;  // a blob of git has its size in front
    Digest digest(is_git ? Digest::Kind::kSha1 : Digest::Kind::kSha256);
    if (is_git) digest.Add(fmt::format("blob {}", bytes) + '\0');
    ReadPieces(part, [&](std::span<const std::byte> piece) {
      digest.Add({reinterpret_cast<const char*>(piece.data()), piece.size()});
    });
    const std::string found = digest.Hex();
    return found == facts.etag ? "" : fmt::format("the hash of what came is {}, not {}", found, facts.etag);
  }

  /// A link by a relative path, so that the cache may be moved; a copy where the file system has no links.
  static void Link(const fs::path& blob, const fs::path& at) {
    MakeDirectories(at.parent_path());
    std::error_code code;
    const fs::path target = fs::relative(blob, at.parent_path(), code);
    if (fs::is_symlink(at, code) && fs::read_symlink(at, code) == target) return;
    RemoveFile(at);
    fs::create_symlink(target, at, code);
    if (code) fs::copy(blob, at, code);
    if (code) FailIo(at, "cannot link", code.value());
  }

  HubModel model_;
  std::string endpoint_, commit_;
  std::vector<std::string> headers_;
  fs::path root_;
};

/// What a snapshot has for LoadModel: itself with all of its weights, or the one GGUF file; nothing where it is not
/// whole.
std::optional<fs::path> WholeModel(const fs::path& snapshot, const std::string& file) {
  std::error_code code;
  const auto has = [&](const std::string& name) { return fs::is_regular_file(snapshot / name, code); };
  if (!file.empty()) return has(file) ? std::optional(snapshot / file) : std::nullopt;
  if (has(kConfig) && has(kWeights)) return snapshot;
  if (has(kConfig) && has(kIndex)) {
    const nlohmann::json index = WithFrame(kIndex, [&] { return ParseJson(ReadFile(snapshot / kIndex)); });
    const nlohmann::json map = index.is_object() ? index.value("weight_map", nlohmann::json()) : nlohmann::json();
    const bool whole = map.is_object() && std::ranges::all_of(map, [&](const nlohmann::json& shard) {
                         return shard.is_string() && has(shard.get<std::string>());
                       });
    return whole ? std::optional(snapshot) : std::nullopt;
  }
  std::vector<fs::path> found;
  for (const fs::path& entry : EntriesOf(snapshot)) {
    if (entry.extension() == ".gguf" && fs::is_regular_file(entry, code)) found.push_back(entry);
  }
  return found.size() == 1 ? std::optional(found.front()) : std::nullopt;
}

}  // namespace

HubModel ParseHubModel(std::string_view text) {
  HubModel model;
  std::string_view rest = IsHubName(text) ? text.substr(3) : text;
  while (rest.ends_with('/')) rest.remove_suffix(1);
  const size_t first = std::min(rest.find('/'), rest.size());
  const size_t second = std::min(rest.find('/', first + 1), rest.size());
  if (second < rest.size()) model.file = rest.substr(second + 1);
  std::string_view name = rest.substr(0, second);
  if (const size_t at = name.find('@'); at != name.npos) {
    model.revision = name.substr(at + 1);
    name = name.substr(0, at);
  }
  model.name = name;
  const bool two = first < rest.size();
  const bool good =
      two && IsPlainName(name.substr(0, first)) && IsPlainName(name.substr(first + 1)) && IsPlainName(model.revision);
  if (!good) {
    Fail(ErrorKind::kUsage, "\"{}\" names no model of a Hub; wanted is ORG/NAME, ORG/NAME@REVISION or ORG/NAME/FILE",
         text);
  }
  if (!model.file.empty()) CheckInside(model.file);
  return model;
}

HubPull PullModel(const HubModel& model) { return Puller(model).Pull(); }

fs::path ResolveHubModel(std::string_view text) {
  const HubModel model = ParseHubModel(text);
  Puller puller(model);
  std::error_code code;
  std::string commit = model.revision;
  if (const fs::path ref = puller.root() / "refs" / model.revision; fs::is_regular_file(ref, code)) {
    commit = ReadFile(ref);
  }
  if (IsPlainName(commit)) {
    if (const auto whole = WholeModel(puller.root() / "snapshots" / commit, model.file)) return *whole;
  }
  const HubPull pull = puller.Pull();
  if (const auto whole = WholeModel(pull.folder, model.file)) return *whole;
  Fail(ErrorKind::kFormat, "{}: what was fetched is no whole model: config.json with its weights, or one GGUF file",
       pull.folder.string());
}

}  // namespace hawser
