#include "hawser/attn/softmax.h"

#include <gtest/gtest.h>

#include "hawser/base/error.h"

namespace hawser {
namespace {

TEST(Softmax, FormsRoundTrip) {
  for (const char* text : {"standard", "self-adjust", "self-adjust:nb=0.1", "self-adjust:db=1e-06",
                           "self-adjust:nb=0.25,db=0.5", "self-adjust-product"}) {
    EXPECT_EQ(ToString(ParseSoftmax(text)), text);
  }
  EXPECT_EQ(ParseSoftmax("self-adjust:db=1e-10,nb=0"), ParseSoftmax("self-adjust"));
  EXPECT_EQ(ParseSoftmax("standard"), SoftmaxSpec());
}

TEST(Softmax, MistakesAreNamed) {
  for (const char* text :
       {"", "softmax", "self-adjust:", "self-adjust:nb", "self-adjust:nb=", "self-adjust:nb=-1", "self-adjust:db=0",
        "self-adjust:db=nan", "self-adjust:x=1", "self-adjust:nb=1,", "standard:nb=1", "self-adjust-product:nb=1"}) {
    try {
      ParseSoftmax(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
    }
  }
}

}  // namespace
}  // namespace hawser
