// cli/options.h - the options of a command: a thin face of CLI11, whose headers only options.cc compiles.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace hawser {

/// An option just declared; each call narrows it and returns it.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}

  CommandOption& Required();
  CommandOption& Range(int64_t least, int64_t most);
  CommandOption& RangeReal(double least, double most);
  CommandOption& OneOf(const std::vector<std::string>& values);
  CommandOption& ExistingFile();  // one that can be read, else kIo
  /// A file, refused before any work where it cannot be written, or is one that another option or argument of type path
  /// reads.
  CommandOption& Writes();
  /// A folder; refused where its name ends as those of files do, which is what was meant then.
  CommandOption& WritesFolder();
  CommandOption& Reads();                    // a path in an option of type text
  CommandOption& MayBeReplaced();            // a path whose file an option that Writes may name too
  CommandOption& ShowDefault();              // the value at this moment, in --help
  CommandOption& Delimiter(char delimiter);  // of a list in one argument
  CommandOption& OneArgument();              // a list takes one argument each time the option is given
  CommandOption& OptionalArgument();         // may be given without its argument, which is then empty
  CommandOption& Excludes(CommandOption other);

 private:
  CLI::Option* option_;
};

std::string EndingOf(const std::filesystem::path& path);  // ".gguf" of "M.GGUF"
/// Whether this is a file to whoever named it: it ends in .bin, .json, ..., and is no folder that is there.
bool NamedAsFile(const std::filesystem::path& path);

/// A command or subcommand; a handle that may be copied and outlives parsing.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}

  /// `name`: "--name", "-n,--name" or, for a positional, "NAME". T: bool is a flag; std::string, std::filesystem::path,
  /// int32_t, int64_t, uint64_t, float, double, and vectors of strings, paths and int32_t. Whole numbers may be written
  /// as sizes (ParseSize). `value` outlives the command.
  template <class T>
  CommandOption Add(const std::string& name, T& value, const std::string& help);
  /// Calls `call` with the argument once all is parsed: options in the order in which they were declared here.
  CommandOption AddCall(const std::string& name, std::function<void(const std::string&)> call, const std::string& help);

  /// A subcommand that takes the options of its parents too. One of the subcommands has to be given.
  Command AddCommand(const std::string& name, const std::string& summary);
  /// A subcommand that may be left out, with options of its own alone: it is meant where its name is the first word
  /// behind this command, and anywhere else the word is an argument as any.
  Command AddFirstCommand(const std::string& name, const std::string& summary);

  bool parsed() const;
  bool Declares(const std::string& name) const;   // an option of this command itself
  std::vector<std::string> SiblingNames() const;  // of the commands of the program
  /// The --help of a command of the program by its words ("inspect data"), of the program itself for none; nothing
  /// where there is no such command.
  std::optional<std::string> HelpOf(const std::vector<std::string>& words) const;
  bool Has(const std::string& name) const;  // given on the command line, here or as an option of a parent

 private:
  CLI::App* app_;
};

/// The binary: its name and its commands.
class Program {
 public:
  Program(const std::string& name, const std::string& summary, const std::string& version);
  ~Program();

  Command AddCommand(const std::string& name, const std::string& summary);

  /// Fills the values of the options. False after --help and --version, whose text is then in `text`. Errors: kUsage
  /// for a wrong argument, with the nearest names for a misspelt command or option.
  bool Parse(int argc, char** argv, std::string* text);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace hawser
