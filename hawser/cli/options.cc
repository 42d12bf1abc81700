#include "hawser/cli/options.h"

#include <CLI/CLI.hpp>

#include <filesystem>
#include <type_traits>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {

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
  option_->check(CLI::ExistingFile);
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

CommandOption& CommandOption::Excludes(CommandOption other) {
  option_->excludes(other.option_);
  return *this;
}

template <class T>
CommandOption Command::Add(const std::string& name, T& value, const std::string& help) {
  if constexpr (std::is_same_v<T, bool>) {
    return CommandOption(app_->add_flag(name, value, help));
  } else {
    return CommandOption(app_->add_option(name, value, help));
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
  app_->require_subcommand(1);
  return Command(app_->add_subcommand(name, summary)->fallthrough());
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

bool Program::Parse(int argc, char** argv, int* exit_code) {
  try {
    app_->parse(argc, argv);
    return true;
  } catch (const CLI::ParseError& error) {
    *exit_code = app_->exit(error) == 0 ? 0 : ExitCode(ErrorKind::kUsage);
    return false;
  }
}

bool Command::parsed() const { return app_->parsed(); }

bool Command::Has(const std::string& name) const {
  for (const CLI::App* app = app_; app != nullptr; app = app->get_parent()) {
    if (const CLI::Option* option = app->get_option_no_throw(name)) return option->count() > 0;
  }
  return false;
}

}  // namespace hawser
