#include "fuzz/target.h"

#include <sys/types.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"

namespace hawser::fuzz {

namespace fs = std::filesystem;

const std::vector<Target>& Targets() {
  static const std::vector<Target> targets = [] {
    std::vector<Target> all;
    for (auto part : {JsonTargets(), BinaryTargets(), PrefixTargets(), TokenizerTargets(), FormTargets(),
                      RequestTargets(), GrammarTargets(), AnswerTargets()}) {
      all.insert(all.end(), std::make_move_iterator(part.begin()), std::make_move_iterator(part.end()));
    }
    return all;
  }();
  return targets;
}

void Finding(std::string_view what) {
  std::fprintf(stderr, "finding: %s\n", PrintableLine(what).c_str());
  std::abort();
}

void RunOne(const Target& target, std::string_view input) {
  try {
    target.run(input);
  } catch (const Error& error) {
    const std::string_view message = error.what();
    if (error.kind() == ErrorKind::kInternal) Finding(message);
    if (message != PrintableLine(message) || message.empty()) Finding("a message that is no printable line");
  }
}

namespace {

/// Of this process, removed when it ends.
const fs::path& Folder() {
  static const fs::path& folder = *new fs::path([] {
    std::error_code code;
    const fs::path memory = fs::is_directory("/dev/shm", code) ? fs::path("/dev/shm") : fs::temp_directory_path();
    return memory / fmt::format("hawser_fuzz.{}", getpid());
  }());
  [[maybe_unused]] static const int removal = std::atexit([] {
    std::error_code ignored;
    fs::remove_all(Folder(), ignored);
  });
  return folder;
}

}  // namespace

std::string InFile(std::string_view name, std::string_view contents) {
  const fs::path path = Folder() / name;
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(contents.data(), static_cast<std::streamsize>(contents.size()));
  return path.string();
}

}  // namespace hawser::fuzz
