#include "hawser/model/places.h"

#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

TEST(Places, FormsOfEitherKindOfModel) {
  ModelSpec rotary = TinySpec({.context = 128});
  EXPECT_EQ(PlacesText(rotary), "default");
  EXPECT_FALSE(HasScaling(rotary));
  EXPECT_EQ(MaxContext(rotary, 128), 128);
  EXPECT_EQ(GrownPlaces(rotary, 128, 512), "ntk:factor=4,original=128");
  ModelSpec one_pair = rotary;
  one_pair.rope.rotary_dim = 2;  // of which NTK would keep the only frequency
  EXPECT_EQ(GrownPlaces(one_pair, 128, 512), "linear:factor=4,original=128");
  rotary.local_rope = rotary.rope;
  ApplyPlaces("linear", 128, 512, &rotary);
  EXPECT_EQ(PlacesText(rotary), "linear:factor=4,original=128");
  EXPECT_EQ(rotary.local_rope, TinySpec().rope);
  EXPECT_EQ(MaxContext(rotary, 0), 512);
  EXPECT_EQ(OriginalContext(rotary, 512), 128);
  EXPECT_EQ(GrownPlaces(rotary, 512, 1024), "linear:factor=8,original=128");
  EXPECT_EQ(ScalingFactor(rotary), 4);
  ExpectError(ErrorKind::kUsage, {"alibi"}, [&] { ApplyPlaces("alibi:ntk,factor=2", 128, 0, &rotary); });

  ModelSpec biased = TinySpec({.context = 128});
  biased.places = Places::kAlibi;
  EXPECT_EQ(PlacesText(biased), "alibi");
  EXPECT_FALSE(HasScaling(biased));
  EXPECT_EQ(GrownPlaces(biased, 128, 512), "alibi:ntk,factor=4,original=128");
  ApplyPlaces(GrownPlaces(biased, 128, 512), 128, 512, &biased);
  EXPECT_EQ(biased.alibi.factor, 4);
  EXPECT_TRUE(HasScaling(biased));
  EXPECT_EQ(MaxContext(biased, 0), 512);
  EXPECT_EQ(OriginalContext(biased, 512), 128);
  ExpectError(ErrorKind::kUsage, {"yarn", "ALiBi"}, [&] { ApplyPlaces("yarn:factor=2", 128, 0, &biased); });

  ModelSpec none = TinySpec();
  none.places = Places::kNone;
  EXPECT_EQ(PlacesText(none), "none");
  ExpectError(ErrorKind::kUsage, {"no positions"}, [&] { ApplyPlaces("yarn:factor=2", 128, 0, &none); });
}

}  // namespace
}  // namespace hawser
