// The program that libFuzzer drives: hawser_fuzz --target=NAME [options of libFuzzer] CORPUS...
//   hawser_fuzz --list                  the names of all targets
//   hawser_fuzz --make-corpus=FOLDER    FOLDER/NAME/N, a corpus for each target, and FOLDER/NAME.dict
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "fuzz/target.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using hawser::fuzz::Target;

const Target* g_target = nullptr;

const Target* Find(std::string_view name) {
  for (const Target& target : hawser::fuzz::Targets()) {
    if (target.name == name) return &target;
  }
  std::fprintf(stderr, "no target '%.*s'; --list shows them\n", static_cast<int>(name.size()), name.data());
  std::exit(2);
}

/// The words of a text: runs of letters, digits, _ and -.
void AddWords(std::string_view text, std::set<std::string>* words) {
  constexpr size_t kLongest = 32;
  std::string word;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-') {
      word += c;
      continue;
    }
    if (word.size() > 1 && word.size() <= kLongest) words->insert(word);
    word.clear();
  }
}

/// "value" with everything but letters and digits as \xNN, which is what a dictionary takes.
std::string DictionaryLine(std::string_view word) {
  std::string line = "\"";
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    char escaped[8];
    std::snprintf(escaped, sizeof(escaped), std::isalnum(byte) != 0 ? "%c" : "\\x%02x", byte);
    line += escaped;
  }
  return line + "\"\n";
}

void MakeCorpus(const std::filesystem::path& folder) {
  for (const Target& target : hawser::fuzz::Targets()) {
    hawser::MakeDirectories(folder / target.name);
    int number = 0;
    std::set<std::string> words(target.words.begin(), target.words.end());
    for (const std::string& seed : target.seeds()) {
      hawser::WriteFileAtomically(folder / target.name / std::to_string(number++), seed);
      AddWords(seed, &words);
    }
    std::string dictionary;
    for (const std::string& word : words) {
      if (!word.empty()) dictionary += DictionaryLine(word);
    }
    hawser::WriteFileAtomically(folder / (target.name + ".dict"), dictionary);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  hawser::SetQuiet(true);
  hawser::SetThreads(1);
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    constexpr std::string_view kTarget = "--target=", kCorpus = "--make-corpus=";
    if (argument == "--list") {
      for (const Target& target : hawser::fuzz::Targets()) std::printf("%s\n", target.name.c_str());
      std::exit(0);
    }
    if (argument.starts_with(kCorpus)) {
      MakeCorpus(argument.substr(kCorpus.size()));
      std::exit(0);
    }
    if (argument.starts_with(kTarget)) g_target = Find(argument.substr(kTarget.size()));
  }
  if (g_target == nullptr) Find("");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hawser::fuzz::RunOne(*g_target, {reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  max_size = std::min(max_size, std::max(size, g_target->most));
  hawser::Rng rng{.seed = seed};
  for (int tries = seed % 4 == 0 ? 0 : 4; tries > 0; --tries) {  // what is too long would lose its structure when cut
    const std::string changed = g_target->mutate({reinterpret_cast<const char*>(data), size}, rng);
    if (changed.size() > max_size) continue;
    std::copy_n(changed.data(), changed.size(), reinterpret_cast<char*>(data));
    return changed.size();
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
