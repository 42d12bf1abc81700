#include "hawser/cli/options.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <type_traits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

template <class T>
struct Element {
  using Type = T;
};
template <class T>
struct Element<std::vector<T>> {
  using Type = T;
};

/// "16k" becomes "16384" before CLI11 reads it as a T. CLI11 itself would take -1 for the largest unsigned number.
template <class T>
std::string ReadSize(std::string& text) {
  if constexpr (std::is_unsigned_v<T>) {
    if (ParseNumber<T>(text)) return "";
  }
  const auto size = ParseSize(text);
  if (size && !std::in_range<T>(*size)) {
    constexpr auto kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
    return fmt::format("wanted a whole number from {} to {}, found \"{}\"", kLeast, kMost, text);
  }
  if (!size) {
    return fmt::format("wanted a whole number{}, found \"{}\"",
                       std::is_unsigned_v<T> ? " from 0 to 2^64 - 1" : ", such as 4096, 16k or 1M", text);
  }
  text = fmt::format("{}", *size);
  return "";
}

/// CLI11 would read nothing as 0, and take what is no number for one that lies in every range.
std::string CheckReal(const std::string& text) {
  const std::optional<double> number = ParseNumber<double>(text);
  if (number && std::isfinite(*number)) return "";
  return fmt::format("wanted a number, found \"{}\"", text);
}

/// The names of the options of `app` and of what it lies in.
/// Whose options `app` takes besides its own, or null.
const CLI::App* Above(const CLI::App* app) { return app->get_fallthrough() ? app->get_parent() : nullptr; }

std::vector<std::string> OptionNames(const CLI::App* app) {
  std::vector<std::string> names;
  for (; app != nullptr; app = Above(app)) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        if (std::ranges::find(names, "--" + name) == names.end()) names.push_back("--" + name);
      }
    }
  }
  return names;
}

bool Takes(const CLI::App* app, const std::string& option) {
  for (; app != nullptr; app = Above(app)) {
    if (app->get_option_no_throw(option) != nullptr) return true;
  }
  return false;
}

const CLI::App* FindPart(const CLI::App* app, const std::string& name) {
  for (const CLI::App* part : app->get_subcommands({})) {
    if (part->get_name() == name) return part;
  }
  return nullptr;
}

std::string Suggest(std::string_view name, const std::vector<std::string>& known) {
  return SuggestName(name, std::vector<std::string_view>(known.begin(), known.end()));
}

std::string PathOf(const CLI::App* app) {
  const CLI::App* parent = app->get_parent();
  return parent == nullptr ? app->get_name() : PathOf(parent) + " " + app->get_name();
}

/// What other programs call our options.
constexpr std::pair<std::string_view, std::string_view> kElsewhere[] = {{"--batch-size", "--batch-tokens"},
                                                                        {"--ctx", "--context"},
                                                                        {"--ctx-size", "--context"},
                                                                        {"--dataset", "--data"},
                                                                        {"--file", "--prompt-file"},
                                                                        {"--learning-rate", "--lr"},
                                                                        {"--max-length", "--max-new"},
                                                                        {"--max-new-tokens", "--max-new"},
                                                                        {"--max-tokens", "--max-new"},
                                                                        {"--n-predict", "--max-new"},
                                                                        {"--num-predict", "--max-new"},
                                                                        {"--output", "--out"},
                                                                        {"--precision", "--dtype"},
                                                                        {"--seq-len", "--context"},
                                                                        {"-c", "--context"},
                                                                        {"-d", "--data"},
                                                                        {"-f", "--prompt-file"},
                                                                        {"-k", "--top-k"},
                                                                        {"-o", "--out"},
                                                                        {"-q", "--quiet"},
                                                                        {"-s", "--seed"},
                                                                        {"-t", "--threads"}};

/// The end of an error about the unknown option `name`: what it is called here, what it begins, or what is near.
std::string SuggestOption(const CLI::App* app, const std::string& name) {
  const auto guess = [](std::string_view option) { return fmt::format("; did you mean '{}'?", option); };
  for (const auto& [theirs, ours] : kElsewhere) {
    if (name == theirs && Takes(app, std::string(ours))) return guess(ours);
  }
  const std::vector<std::string> names = OptionNames(app);
  for (const std::string& option : names) {
    if (name.size() > 3 && option.starts_with(name)) return guess(option);
  }
  for (const CLI::App* part : app->get_subcommands({})) {
    if (Takes(part, name)) return fmt::format("; options stand behind the command: {} COMMAND {}", PathOf(app), name);
  }
  return Suggest(name, names);
}

/// The subcommand that the words after `argv[at]` lead to; `at` becomes the first word that names none.
const CLI::App* FindCommand(const CLI::App* app, const std::vector<std::string>& words, size_t* at) {
  for (; *at < words.size() && !words[*at].starts_with("-"); ++*at) {
    const CLI::App* next = FindPart(app, words[*at]);
    if (next == nullptr) break;
    app = next;
  }
  return app;
}

const CLI::Option* FindOption(const CLI::App* app, const std::string& name) {
  for (; app != nullptr; app = Above(app)) {
    if (const CLI::Option* option = app->get_option_no_throw(name)) return option;
  }
  return nullptr;
}

/// Refuses lists with nothing between two commas, which CLI11 leaves out.
void CheckLists(const CLI::App* program, const std::vector<std::string>& words) {
  size_t at = 0;
  const CLI::App* app = FindCommand(program, words, &at);
  const CLI::Option* list = nullptr;
  for (; at < words.size() && words[at] != "--"; ++at) {
    std::string_view value = words[at];
    if (value.starts_with("--")) {
      const size_t equals = std::min(value.find('='), value.size());
      list = FindOption(app, std::string(value.substr(0, equals)));
      value.remove_prefix(std::min(equals + 1, value.size()));
      if (equals == words[at].size()) continue;
    }
    if (list == nullptr || list->get_delimiter() == '\0') continue;
    const std::vector<std::string_view> items = SplitAt(value, list->get_delimiter());
    if (items.size() > 1 && std::ranges::find(items, "") != items.end()) {
      Fail(ErrorKind::kUsage, "{}: nothing stands between two '{}' or at an end of \"{}\"", list->get_name(),
           list->get_delimiter(), value);
    }
  }
}

constexpr const char* kPath = "path";  // marks of options, as names of checks
constexpr const char* kWrites = "writes";
constexpr const char* kReplaced = "replaced";

void Mark(CLI::Option* option, const char* name) {
  option->check([](const std::string&) { return std::string(); }, "", name);
}

/// Marks a path, and refuses one without a name: mostly a variable of a script that is not set.
void MarkPath(CLI::Option* option) {
  const auto check = [](const std::string& path) {
    return path.empty() ? "wanted the name of a file or folder, found \"\"" : std::string();
  };
  option->check(check, "", kPath);
}

bool Marked(CLI::Option* option, const char* name) {
  try {
    option->get_validator(name);
    return true;
  } catch (const CLI::OptionNotFound&) {
    return false;
  }
}

/// Refuses to write a file that is read too.
void CheckOutputs(CLI::App* app) {
  std::vector<CLI::Option*> read, written;
  for (; app != nullptr; app = app->get_parent()) {
    for (CLI::Option* option : app->get_options()) {
      if (option->count() == 0 || !Marked(option, kPath)) continue;
      if (Marked(option, kWrites)) {
        written.push_back(option);
      } else if (!Marked(option, kReplaced)) {
        read.push_back(option);
      }
    }
  }
  for (const CLI::Option* out : written) {
    const std::string& file = out->results().front();
    for (const CLI::Option* in : read) {
      for (const std::string& path : in->results()) {
        std::error_code no;
        if (!std::filesystem::equivalent(file, path, no)) continue;
        Fail(ErrorKind::kUsage, "{} would write over {}, which {} reads; give it another name", out->get_name(), path,
             in->get_name());
      }
    }
  }
}

/// Says what is wrong with a command line that CLI11 does not take.
[[noreturn]] void FailParse(const CLI::App* program, const std::vector<std::string>& words, const std::string& reason) {
  size_t at = 0;
  const CLI::App* app = FindCommand(program, words, &at);
  std::vector<std::string> parts;
  if (app->get_require_subcommand_min() > 0) {
    for (const CLI::App* part : app->get_subcommands({})) parts.push_back(part->get_name());
  }
  const std::string path = PathOf(app);
  const std::string prefix = app == program ? "" : path.substr(program->get_name().size() + 1) + ": ";
  if (!parts.empty()) {
    for (; at < words.size() && words[at].starts_with("-"); ++at) {
      if (!Takes(app, words[at].substr(0, words[at].find('=')))) break;
    }
    if (at == words.size()) {
      Fail(ErrorKind::kUsage, "which command? {} {{{}}}; {} --help tells more", path, fmt::join(parts, ", "), path);
    }
    const std::string& word = words[at];
    if (!word.starts_with("-")) {
      const std::string option = "--" + word;  // hawser version
      Fail(ErrorKind::kUsage, "unknown command '{}'{}", word,
           Takes(app, option) ? fmt::format("; did you mean '{}'?", option) : Suggest(word, parts));
    }
  }
  for (; at < words.size() && words[at] != "--"; ++at) {
    const std::string name = words[at].substr(0, words[at].find('='));
    const bool is_number = name.size() > 1 && std::string_view("0123456789.").find(name[1]) != std::string_view::npos;
    if (name.size() < 2 || name[0] != '-' || is_number || Takes(app, name)) continue;
    if (name[1] != '-' && Takes(app, name.substr(0, 2))) continue;  // -n32
    Fail(ErrorKind::kUsage, "{}unknown option '{}'{}", prefix, name, SuggestOption(app, name));
  }
  constexpr std::string_view kTwice = "At Most 1 required but received ";
  if (const size_t twice = reason.find(kTwice); twice != std::string::npos) {
    Fail(ErrorKind::kUsage, "{}{}wanted once, found {} times", prefix, reason.substr(0, twice),
         reason.substr(twice + kTwice.size()));
  }
  const bool extra = reason.find("not expected") != std::string::npos;
  Fail(ErrorKind::kUsage, "{}{}{}; {} --help tells more", prefix, reason,
       extra ? " (a text with blanks stands in quotes)" : "", path);
}

}  // namespace

CommandOption& CommandOption::Required() {
  option_->required();
  return *this;
}

CommandOption& CommandOption::Range(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

CommandOption& CommandOption::RangeReal(double least, double most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

CommandOption& CommandOption::OneOf(const std::vector<std::string>& values) {
  option_->check(CLI::IsMember(values));
  return *this;
}

CommandOption& CommandOption::ExistingFile() {
  const auto check = [](const std::string& path) {
    MappedFile file(path);
    return std::string();
  };
  option_->check(check, "", "");
  return *this;
}

CommandOption& CommandOption::Writes() {
  const auto check = [](const std::string& path) {
    CheckTarget(path);
    return std::string();
  };
  option_->check(check, "", kWrites);
  return *this;
}

std::string EndingOf(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  return ending;
}

bool NamedAsFile(const std::filesystem::path& path) {
  static const std::set<std::string, std::less<>> kEndings = {
      ".bin",  ".ckpt",        ".csv",     ".ggml", ".gguf",   ".gz",   ".h5",  ".html", ".idx",
      ".json", ".jsonl",       ".msgpack", ".npz",  ".onnx",   ".pdf",  ".pkl", ".png",  ".pt",
      ".pth",  ".safetensors", ".svg",     ".tar",  ".tokens", ".toml", ".txt", ".zip"};
  std::error_code code;
  return kEndings.contains(EndingOf(path)) && !std::filesystem::is_directory(path, code);
}

CommandOption& CommandOption::WritesFolder() {
  const auto check = [](const std::string& path) {
    return NamedAsFile(path) ? "wanted the name of a folder, found " + path + ", which is named as a file"
                             : std::string();
  };
  option_->check(check, "", "");
  return *this;
}

CommandOption& CommandOption::Reads() {
  MarkPath(option_);
  return *this;
}

CommandOption& CommandOption::MayBeReplaced() {
  Mark(option_, kReplaced);
  return *this;
}

CommandOption& CommandOption::ShowDefault() {
  option_->capture_default_str();
  return *this;
}

CommandOption& CommandOption::Delimiter(char delimiter) {
  option_->delimiter(delimiter);
  return *this;
}

CommandOption& CommandOption::OneArgument() {
  option_->allow_extra_args(false);
  return *this;
}

CommandOption& CommandOption::OptionalArgument() {
  option_->expected(0, 1);
  return *this;
}

CommandOption& CommandOption::Excludes(CommandOption other) {
  option_->excludes(other.option_);
  return *this;
}

template <class T>
CommandOption Command::Add(const std::string& name, T& value, const std::string& help) {
  if constexpr (std::is_same_v<T, bool>) {
    return CommandOption(app_->add_flag(name, value, help));
  } else {
    CLI::Option* option = app_->add_option(name, value, help);
    using E = typename Element<T>::Type;
    if constexpr (std::is_integral_v<E>) option->transform(CLI::Validator(ReadSize<E>, ""));
    if constexpr (std::is_floating_point_v<E>) option->check(CheckReal, "", "");
    if constexpr (std::is_same_v<E, std::filesystem::path>) MarkPath(option);
    return CommandOption(option);
  }
}

using Path = std::filesystem::path;
template CommandOption Command::Add(const std::string&, bool&, const std::string&);
template CommandOption Command::Add(const std::string&, std::string&, const std::string&);
template CommandOption Command::Add(const std::string&, Path&, const std::string&);
template CommandOption Command::Add(const std::string&, int32_t&, const std::string&);
template CommandOption Command::Add(const std::string&, int64_t&, const std::string&);
template CommandOption Command::Add(const std::string&, uint64_t&, const std::string&);
template CommandOption Command::Add(const std::string&, float&, const std::string&);
template CommandOption Command::Add(const std::string&, double&, const std::string&);
template CommandOption Command::Add(const std::string&, std::vector<std::string>&, const std::string&);
template CommandOption Command::Add(const std::string&, std::vector<Path>&, const std::string&);
template CommandOption Command::Add(const std::string&, std::vector<int32_t>&, const std::string&);

CommandOption Command::AddCall(const std::string& name, std::function<void(const std::string&)> call,
                               const std::string& help) {
  return CommandOption(app_->add_option_function<std::string>(name, std::move(call), help));
}

Command Command::AddCommand(const std::string& name, const std::string& summary) {
  CLI::App* part = app_->add_subcommand(name, summary)->fallthrough();
  part->footer([app = app_] {
    std::vector<std::string> names = OptionNames(app);
    std::erase_if(names, [](const std::string& option) { return option == "--help" || option == "--version"; });
    return fmt::format("\nAlso takes what {} takes: {}", PathOf(app), fmt::join(names, ", "));
  });
  app_->require_subcommand(1);
  return Command(part);
}

Command Command::AddFirstCommand(const std::string& name, const std::string& summary) {
  return Command(app_->add_subcommand(name, summary));
}

Program::Program(const std::string& name, const std::string& summary, const std::string& version)
    : app_(std::make_unique<CLI::App>(summary, name)) {
  app_->require_subcommand(1);
  app_->set_version_flag("--version", version);
}

Program::~Program() = default;

Command Program::AddCommand(const std::string& name, const std::string& summary) {
  return Command(app_->add_subcommand(name, summary));
}

bool Program::Parse(int argc, char** argv, std::string* text) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  for (CLI::App* command : app_->get_subcommands({})) {
    if (words.size() < 2 || command->get_name() != words[0] || command->get_require_subcommand_min() > 0) continue;
    for (CLI::App* part : command->get_subcommands({})) part->disabled(part->get_name() != words[1]);
  }
  CheckLists(app_.get(), words);
  try {
    app_->parse(argc, argv);
    CLI::App* command = app_.get();
    while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
    CheckOutputs(command);
    return true;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) FailParse(app_.get(), words, error.what());
    std::ostringstream out;
    app_->exit(error, out, out);
    *text = out.str();
    return false;
  }
}

std::vector<std::string> Command::SiblingNames() const {
  std::vector<std::string> names;
  for (const CLI::App* app : app_->get_parent()->get_subcommands({})) names.push_back(app->get_name());
  return names;
}

std::optional<std::string> Command::HelpOf(const std::vector<std::string>& words) const {
  const CLI::App* app = app_;
  while (app->get_parent() != nullptr) app = app->get_parent();
  for (const std::string& word : words) {
    app = FindPart(app, word);
    if (app == nullptr) return std::nullopt;
  }
  // CLI11 puts what stands before a name in front of it.
  return app->help(app->get_parent() == nullptr ? "" : PathOf(app->get_parent()));
}

bool Command::Declares(const std::string& name) const { return app_->get_option_no_throw(name) != nullptr; }

bool Command::parsed() const { return app_->parsed(); }

bool Command::Has(const std::string& name) const {
  for (const CLI::App* app = app_; app != nullptr; app = Above(app)) {
    if (const CLI::Option* option = app->get_option_no_throw(name)) return option->count() > 0;
  }
  return false;
}

}  // namespace hawser
