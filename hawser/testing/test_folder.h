// testing/test_folder.h - files of tests: a folder for each process, so that several may test at once, which is gone
// when the process ends.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace hawser {

/// A new empty folder of its own name inside `root`; the process that made it removes it.
class UniqueFolder {
 public:
  explicit UniqueFolder(const std::filesystem::path& root) {
    std::string name = (root / "hawser_test_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder for tests in " + root.string());
    path_ = name;
  }
  ~UniqueFolder() {
    std::error_code ignored;
    if (getpid() == owner_) std::filesystem::remove_all(path_, ignored);
  }
  UniqueFolder(const UniqueFolder&) = delete;
  UniqueFolder& operator=(const UniqueFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  pid_t owner_ = getpid();
  std::filesystem::path path_;
};

/// Where folders of tests go: TEST_TMPDIR, or the system's place for temporary files.
inline std::filesystem::path TestRoot() {
  const char* root = std::getenv("TEST_TMPDIR");
  return root != nullptr ? std::filesystem::path(root) : std::filesystem::temp_directory_path();
}

/// A path of this process that nothing lies at; `name` is the test's own.
inline std::filesystem::path FreshPath(const std::string& name) {
  static const UniqueFolder folder(TestRoot());
  const std::filesystem::path path = folder.path() / name;
  std::filesystem::remove_all(path);
  return path;
}

/// The same as an empty folder.
inline std::filesystem::path FreshFolder(const std::string& name) {
  const std::filesystem::path path = FreshPath(name);
  std::filesystem::create_directories(path);
  return path;
}

}  // namespace hawser
