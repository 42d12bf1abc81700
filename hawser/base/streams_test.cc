#include "hawser/base/streams.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace hawser {
namespace {

TEST(Streams, UsesOfTheSeedOfARunShareOneAlone) {
  std::map<uint64_t, std::string> users;
  std::string shared;
  const auto add = [&](uint64_t stream, const std::string& user) {
    const auto [at, fresh] = users.emplace(stream, user);
    if (!fresh) shared += at->second + " and " + user + "; ";
  };
  for (uint64_t epoch = 0; epoch < 40'000; ++epoch) add(streams::Epoch(epoch), "epoch " + std::to_string(epoch));
  add(streams::Epoch(streams::kSource), "a late epoch");
  add(streams::kUpsample, "upsampling");
  add(streams::kSource, "sources");
  for (uint32_t role = 0; role < 64; ++role) {
    for (int32_t layer = -1; layer < (role == 0 ? 0 : 300); ++layer) {  // role 0, the embedding, is of no layer
      add(streams::Tensor(role, layer), "tensor " + std::to_string(role));
      add(streams::Adapter(role, layer), "adapter " + std::to_string(role));
    }
  }
  EXPECT_EQ(shared, "epoch 0 and tensor 0; ");
}

}  // namespace
}  // namespace hawser
