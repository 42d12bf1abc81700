// Limits of processors and memory, read from folders that look like a kernel's.
#include "hawser/base/limits.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "hawser/base/buffer.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/size.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class Limits : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = FreshFolder("limits");
    Write("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable: 3000 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const fs::path& path, std::string_view text) {
    fs::create_directories((root_ / path).parent_path());
    WriteFileAtomically(root_ / path, text);
  }
  MachineFiles Machine() const { return MachineFiles(root_); }
  int Threads(int processors, const char* omp = nullptr, const char* limit = nullptr) const {
    return DefaultThreads(Machine(), processors, omp, limit);
  }

  void UseV2(std::string_view group, std::string_view mounted_root = "/") {
    Write("proc/self/cgroup", fmt::format("0::{}\n", group));
    Write("proc/self/mountinfo",
          fmt::format("29 23 0:26 / /proc rw - proc proc rw\n"
                      "30 23 0:27 {} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
                      mounted_root));
  }

  fs::path root_;
};

TEST_F(Limits, WithoutGroupsTheSystemDecides) {
  EXPECT_EQ(Machine().CpuQuota(), std::nullopt);
  EXPECT_EQ(Machine().FreeBytes(), 3000 * 1024);
  EXPECT_EQ(Threads(6), 6);
  EXPECT_EQ(Threads(0), 1);
  fs::remove_all(root_ / "proc");
  EXPECT_EQ(Machine().FreeBytes(), std::nullopt);
}

TEST_F(Limits, TheFewestThreadsThatAnyoneAllows) {
  EXPECT_EQ(Threads(6, "4"), 4);
  EXPECT_EQ(Threads(6, "4,2"), 4);
  EXPECT_EQ(Threads(6, " 3 "), 3);
  EXPECT_EQ(Threads(6, "40"), 6);
  EXPECT_EQ(Threads(6, "4", "3"), 3);
  for (const char* wrong : {"", "0", "-1", "many", "99999999999999999999"}) EXPECT_EQ(Threads(6, wrong), 6) << wrong;
  UseV2("/box");
  Write("sys/fs/cgroup/box/cpu.max", "150000 100000\n");
  EXPECT_EQ(Threads(6), 2);
  EXPECT_EQ(Threads(6, "1"), 1);
  EXPECT_EQ(Threads(1), 1);
  Write("sys/fs/cgroup/box/cpu.max", "1000 100000\n");
  EXPECT_EQ(Threads(6), 1);
  Write("sys/fs/cgroup/box/cpu.max", "max 100000\n");
  EXPECT_EQ(Threads(6), 6);
}

TEST_F(Limits, EveryGroupAboveCounts) {
  UseV2("/a/b/c");
  Write("sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n");
  Write("sys/fs/cgroup/a/cpu.max", "300000 100000\n");
  EXPECT_EQ(Threads(16), 3);
  Write("sys/fs/cgroup/a/b/c/memory.max", "max\n");
  Write("sys/fs/cgroup/a/b/memory.max", "1000000\n");
  Write("sys/fs/cgroup/a/b/memory.current", "900000\n");
  Write("sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 50000\n");
  EXPECT_EQ(Machine().FreeBytes(), 150000);
  Write("sys/fs/cgroup/a/memory.max", "500000\n");
  Write("sys/fs/cgroup/a/memory.current", "480000\n");
  EXPECT_EQ(Machine().FreeBytes(), 20000);
  Write("sys/fs/cgroup/a/memory.current", "580000\n");
  EXPECT_EQ(Machine().FreeBytes(), 0);
}

TEST_F(Limits, AContainerSeesItsOwnPartAtTheMount) {
  UseV2("/docker/1234", "/docker/1234");
  Write("sys/fs/cgroup/memory.max", "2000000\n");
  Write("sys/fs/cgroup/memory.current", "500000\n");
  EXPECT_EQ(Machine().FreeBytes(), 1500000);
  UseV2("/../../elsewhere");
  EXPECT_EQ(Machine().FreeBytes(), 1500000);
  UseV2("/");
  EXPECT_EQ(Machine().FreeBytes(), 1500000);
}

TEST_F(Limits, FirstVersionAndBothAtOnce) {
  Write("proc/self/cgroup", "4:memory:/m/inner\n3:cpu,cpuacct:/c\n0::/\n");
  Write("proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  Write("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "250000\n");
  Write("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Threads(16), 3);
  Write("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(Threads(16), 16);
  Write("sys/fs/cgroup/memory/m/inner/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Machine().FreeBytes(), 3000 * 1024);
  Write("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "1000000\n");
  Write("sys/fs/cgroup/memory/m/memory.usage_in_bytes", "700000\n");
  Write("sys/fs/cgroup/memory/m/memory.stat", "cache 9\ntotal_inactive_file 100000\n");
  EXPECT_EQ(Machine().FreeBytes(), 400000);
}

TEST_F(Limits, HostileFilesLimitNothing) {
  for (const char* text : {"", ":", "::", "0:", "0::", "0::\n\n", "x:memory:/a", "0:memory"}) {
    Write("proc/self/cgroup", text);
    Write("proc/self/mountinfo", "1 2\n - \n1 2 3 4 5 6 - cgroup2\n1 2 3 / /sys rw - cgroup2 a b\n");
    EXPECT_EQ(Machine().FreeBytes(), 3000 * 1024) << text;
    EXPECT_EQ(Machine().CpuQuota(), std::nullopt) << text;
  }
}

TEST(Memory, WhatDoesNotFitIsRefusedWithWhatItNeeds) {
  const auto message = [](const auto& body) {
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string wanted = message([] { CheckFits("the cache", int64_t{1} << 55); });
  EXPECT_TRUE(wanted.starts_with("the cache: 32.0 PiB of memory wanted, ")) << wanted;
  EXPECT_NE(wanted.find("does not fit"), std::string::npos) << wanted;
  EXPECT_NE(message([] { Buffer(size_t{1} << 50); }), "");
  EXPECT_NE(message([] { Buffer(SIZE_MAX - 5); }), "");
  AllowTooLarge(true);
  EXPECT_EQ(message([] { CheckFits("the cache", int64_t{1} << 55); }), "");
  EXPECT_NE(message([] { Buffer(size_t{1} << 50); }), "");  // nothing can force that
  AllowTooLarge(false);
  EXPECT_EQ(message([] { CheckFits("the cache", 1); }), "");
}

TEST(Sizes, WholeNumbersWithUnits) {
  EXPECT_EQ(ParseSize("4096"), 4096);
  EXPECT_EQ(ParseSize("-3"), -3);
  EXPECT_EQ(ParseSize("16k"), 16384);
  EXPECT_EQ(ParseSize("16K"), 16384);
  EXPECT_EQ(ParseSize("16Ki"), 16384);
  EXPECT_EQ(ParseSize("1M"), 1 << 20);
  EXPECT_EQ(ParseSize("2G"), int64_t{2} << 30);
  EXPECT_EQ(ParseSize("1.5k"), 1536);
  EXPECT_EQ(ParseSize("2e6"), 2000000);
  EXPECT_EQ(ParseSize("9223372036854775807"), INT64_MAX);
  for (const char* wrong : {"", "k", "i", "1.3", "1x", "1kk", "1 k", "0x10", "inf", "nan", "1e30", "9999999T", "16i",
                            "9223372036854775808", "k1", "--1"}) {
    EXPECT_EQ(ParseSize(wrong), std::nullopt) << wrong;
  }
  EXPECT_EQ(Counted(1, "token"), "1 token");
  EXPECT_EQ(Counted(0, "token"), "0 tokens");
}

}  // namespace
}  // namespace hawser
