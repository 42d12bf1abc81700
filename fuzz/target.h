// fuzz/target.h - what is fuzzed: a reader of a file or a parser of a text, with inputs to begin with, words to put in,
// and changes that keep the structure. One program runs any of them under libFuzzer; the suite runs all of them
// shortly.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/rng.h"

namespace hawser::fuzz {

/// A changed input. What it gives is a function of both arguments.
using Mutator = std::function<std::string(std::string_view input, Rng& rng)>;

struct Target {
  std::string name;
  std::function<std::vector<std::string>()> seeds;  // valid inputs
  std::function<void(std::string_view input)> run;  // throws an Error for an input that it refuses
  Mutator mutate;
  std::vector<std::string> words = {};  // beside those that `mutate` knows
  size_t most = 4096;                   // bytes of an input that `mutate` makes
};

/// In the order of docs/RELIABILITY.md.
const std::vector<Target>& Targets();

/// Runs one input. What is no finding: a return, or an Error about the input on one printable line. Anything else ends
/// the process: an internal error, another exception, a message that a terminal would obey.
void RunOne(const Target& target, std::string_view input);

/// Ends the process with `what`, as a finding: a property of the project that does not hold.
[[noreturn]] void Finding(std::string_view what);

/// `contents` in a file of this process of that name. The file is overwritten by the next call with the name.
std::string InFile(std::string_view name, std::string_view contents);

// The parts of Targets().
std::vector<Target> FormTargets();       // forms.cc: texts of patterns, schemes, caches, recipes
std::vector<Target> JsonTargets();       // json_files.cc: files in JSON, or lines of it
std::vector<Target> BinaryTargets();     // binary_files.cc: tensors, shards, states
std::vector<Target> PrefixTargets();     // prefixes.cc: prefixes that were indexed
std::vector<Target> TokenizerTargets();  // tokenizers.cc
std::vector<Target> RequestTargets();    // requests.cc: what clients of the server send
std::vector<Target> GrammarTargets();    // grammars.cc: what they want answers to be
std::vector<Target> AnswerTargets();     // answers.cc: what the server writes to them

}  // namespace hawser::fuzz
