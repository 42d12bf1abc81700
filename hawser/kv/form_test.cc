#include "hawser/kv/form.h"

#include <gtest/gtest.h>

#include <map>

#include "hawser/attn/pattern.h"
#include "hawser/base/error.h"
#include "hawser/kv/policy.h"

namespace hawser {
namespace {

TEST(KvForm, FormsRoundTrip) {
  for (const char* text : {"full",
                           "window:1",
                           "window:256",
                           "window:8,positions=rank",
                           "sink:4,1020",
                           "sink:0,5",
                           "sink:1,2,positions=absolute",
                           "sink:1,2,positions=cachelen",
                           "sep:3,256",
                           "sep:0,1",
                           "sep:3,64,positions=rank",
                           "sep-stream:4,64,256,800",
                           "sep-stream:4,64,256,800,policy=full",
                           "sep-stream:0,1,1,3,positions=absolute",
                           "sep-stream:2,2,4,11,policy=full,positions=cachelen",
                           "fix:3,256,5",
                           "sep:3,256,full-layers=0+31",
                           "sep:3,64+all+8",
                           "sep:3,8,sep=neox-20",
                           "sink:1,2,full-layers=-1+0",
                           "sep:3,8,prefill=dense",
                           "sep-stream:1,2,3,9,accumulate=off,bounded=off",
                           "sep-stream:1,2+3,3,9+12",
                           "snapkv:25%",
                           "snapkv:12.5%+100%+512,window=32,kernel=7,full-layers=0",
                           "tova:256",
                           "tova:0.01%,prefill=sparse,dtype=q8_0",
                           "expected:1024,sinks=0,future=64,covariance=off,norms=off",
                           "full:dtype=q8_0",
                           "window:8,dtype=bf16",
                           "sink:1,2,full-layers=0,dtype=f32",
                           "sep-stream:4,64,256,800,sep=neox-20,dtype=q8_0",
                           "sep-stream:1,2,3,9,policy=full,positions=absolute,prefill=dense,full-layers=0,sep=13+11"}) {
    EXPECT_EQ(ToString(ParseKvForm(text)), text);
    EXPECT_EQ(ParseKvForm(ToString(ParseKvForm(text))), ParseKvForm(text));
  }
  EXPECT_EQ(MakeKvPolicy("sep-stream:1,2,3,9,positions=rank,policy=overflow")->Name(), "sep-stream:1,2,3,9");
  EXPECT_EQ(MakeKvPolicy("sep:3,8,positions=absolute")->Name(), "sep:3,8");
  EXPECT_EQ(MakeKvPolicy("sep-stream:1,2,3,9")->positions(), KvPositions::kRank);
  EXPECT_EQ(MakeKvPolicy("sink:1,2")->positions(), KvPositions::kRank);
  for (const char* text : {"full", "window:4", "sep:3,4"}) {
    EXPECT_EQ(MakeKvPolicy(text)->positions(), KvPositions::kAbsolute) << text;
  }
  EXPECT_EQ(ToString(MakeKvPolicy("sep:3,256")->Pattern()), ToString(ParsePattern("sinks=3 window=256 sep")));
}

TEST(KvForm, MistakesAreNamed) {
  const std::map<std::string, std::string> wrong = {
      {"", "the forms are full, window:W"},
      {"windows:4", "unknown kv policy \"windows:4\""},
      {"window", "W is missing"},
      {"window:0", "W must be a whole number from 1"},
      {"window:-3", "found \"-3\""},
      {"window:4x", "found \"4x\""},
      {"window:99999999999999999999", "found \"99999999999999999999\""},
      {"window:4,5", "unknown option \"5\"; window knows positions=absolute|rank|cachelen"},
      {"full,positions=rank", "unknown kv policy"},
      {"full:positions=rank", "full knows dtype=f32|bf16|q8_0"},
      {"full:dtype=q4_0", "unknown option \"dtype=q4_0\""},
      {"sink:3,4,dtype=", "dtype=f32|bf16|q8_0"},
      {"sink:3,4,dtype=q8_0,dtype=f32", "dtype= is given twice"},
      {"sink:4", "c is missing"},
      {"sink:4,25%", "c must be a whole number from 1"},
      {"snapkv", "c is missing"},
      {"snapkv:0%", "c as a share is from 0.01% to 100%, found \"0%\""},
      {"snapkv:101%", "from 0.01% to 100%"},
      {"snapkv:nan%", "from 0.01% to 100%"},
      {"snapkv:0.001%", "from 0.01% to 100%"},
      {"snapkv:quarter", "or a share such as 25%"},
      {"snapkv:64", "c = 64 must be more than window=64"},
      {"snapkv:100+32", "c = 32 must be more than window=64"},
      {"snapkv:25%,kernel=4", "kernel must be odd"},
      {"snapkv:25%,window=0", "window must be a whole number from 1"},
      {"snapkv:25%,prefill=sparse", "snapkv knows window=64, kernel=5"},
      {"expected:4", "c = 4 must be more than sinks=4"},
      {"expected:25%,positions=rank", "expected knows sinks=4, future=512"},
      {"tova:12,prefill=thin", "unknown option"},
      {"sink:-1,4", "a must be"},
      {"sep:3,0", "n must be a whole number from 1"},
      {"sep:3,positions=rank", "n is missing"},
      {"sep:3,4,policy=full", "unknown option \"policy=full\"; sep knows positions="},
      {"sep-stream:4,64,256,324", "a + s + w must be less than c, found 4 + 64 + 256 = 324 and c = 324"},
      {"sep-stream:4,64,256", "c is missing"},
      {"sep-stream:4,0,256,800", "s must be"},
      {"sep-stream:4,64,256,800,policy=half", "policy=overflow|full"},
      {"sep-stream:4,64,256,800,", "unknown option \"\""},
      {"sep:3,4,accumulate=off", "unknown option"},
      {"sink:3,4,sep=text", "unknown option \"sep=text\""},
      {"sep:3,4,sep=", "unknown option \"sep=\""},
      {"sep:3,4,n=5", "unknown option \"4\""},
      {"sep:3,n=4,n=5", "n= is given twice"},
      {"sep:3,4+0", "found \"0\""},
      {"sep:3,4+", "found \"\""},
      {"sep:3,4,full-layers=x", "found 'x'"},
      {"sep:3,4,full-layers=1+1", "each one once"},
      {"sep:3,4,prefill=half", "prefill=sparse|dense"},
      {"fix:3,4", "d is missing"},
      {"fix:3,4,0", "d must be"},
      {"sep-stream:4+5,64+65+66,256,800", "2 and 3 numbers"},
      {"sep-stream:4,64,256,800+300", "324 and c = 300 in layer 1"},
      {"sep-stream:4,64,all,800", "w must be"},
      {"sepcache:cache_size=324", "4 + 64 + 256 = 324 and c = 324"},
      {"sepcache:cach_size=324", "unknown option \"cach_size=324\"; sepcache knows the parameters of SepCache"},
      {"sepcache:SEP_ACCUMULATION=yes", "SEP_ACCUMULATION is true or false"},
  };
  for (const auto& [text, part] : wrong) {
    try {
      MakeKvPolicy(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << text << ": " << error.what();
    }
  }
}

TEST(KvForm, NumbersGoByTheirLettersToo) {
  EXPECT_EQ(ParseKvForm("sep:n=256,a=3"), ParseKvForm("sep:3,256"));
  EXPECT_EQ(ParseKvForm("sep:3,n=256,full-layers=31+0"), ParseKvForm("sep:3,256,full-layers=0+31"));
  EXPECT_EQ(ParseKvForm("sep-stream:c=800,w=256,s=64,a=4"), ParseKvForm("sep-stream:4,64,256,800"));
  EXPECT_EQ(ParseKvForm("sep:3,64+64+64"), ParseKvForm("sep:3,64"));
  EXPECT_EQ(ParseKvForm("sep:3,8,sep=text"), ParseKvForm("sep:3,8"));
}

TEST(KvForm, LayersHaveNumbersOfTheirOwn) {
  const KvForm form = ParseKvForm("sep:3,64+all+8+9,full-layers=-1");
  EXPECT_TRUE(form.layered());
  EXPECT_EQ(ToString(form.OfLayer(0, 4)), "sep:3,64");
  EXPECT_EQ(ToString(form.OfLayer(1, 4)), "full");
  EXPECT_EQ(ToString(form.OfLayer(2, 4)), "sep:3,8");
  EXPECT_EQ(ToString(form.OfLayer(3, 4)), "full");
  EXPECT_THROW(form.OfLayer(0, 5), Error);
  EXPECT_THROW(ParseKvForm("sep:3,4,full-layers=4").OfLayer(0, 4), Error);
  EXPECT_THROW(MakeKvPolicy(form), Error);
  const KvForm stream = ParseKvForm("sep-stream:4,8+16,32,64+80,policy=full");
  EXPECT_EQ(ToString(stream.OfLayer(0, 2)), "sep-stream:4,8,32,64,policy=full");
  EXPECT_EQ(ToString(stream.OfLayer(1, 2)), "sep-stream:4,16,32,80,policy=full");
  EXPECT_EQ(ToString(ParseKvForm("sep:3,8,full-layers=0,dtype=q8_0").OfLayer(0, 2)), "full:dtype=q8_0");
  EXPECT_EQ(ToString(ParseKvForm("sep:3,8,full-layers=0,dtype=q8_0").OfLayer(1, 2)), "sep:3,8,dtype=q8_0");
}

TEST(KvForm, SepCacheByItsOwnNames) {
  EXPECT_EQ(ToString(ParseKvForm("sepcache")),
            "sep-stream:4,64,256,512,policy=full,positions=absolute,prefill=dense,bounded=off");
  EXPECT_EQ(ToString(ParseKvForm("sepcache:init_cache_size=3,sep_cache_size=8+9,local_size=16,cache_size=64+65,"
                                 "SEP_ACCUMULATION=False,USE_MAX_SEP_CACHE=true,APPLY_PE_SHIFT=true,prefill=sparse,"
                                 "separator_token_ids=13+11")),
            "sep-stream:3,8+9,16,64+65,policy=full,accumulate=off,sep=13+11");
}

TEST(KvForm, PresetsAndSizes) {
  const auto same = [](const char* text, const char* form) {
    EXPECT_EQ(ToString(ParseKvForm(text)), ToString(ParseKvForm(form))) << text;
  };
  same("streaming", "sink:4,796");
  same("sepllm", "sep-stream:4,64,256,800");
  same("bounded:800", "sink:4,796");
  same("bounded:5", "sink:4,1");
  same("bounded:4k,dtype=q8_0", "sink:4,4092,dtype=q8_0");
  same("sepllm,dtype=q8_0,policy=full", "sep-stream:4,64,256,800,policy=full,dtype=q8_0");
  same("sepllm:dtype=q8_0", "sep-stream:4,64,256,800,dtype=q8_0");
  same("window:4k", "window:4096");
  for (const char* text : {"bounded", "bounded:", "bounded:4", "bounded:-1", "bounded:x", "bounded:800,9", "bounded,8",
                           "streaming:3", "sepllm,4", "streamin", "sepllm:", "bounded:9999999999999"}) {
    EXPECT_THROW(ParseKvForm(text), Error) << text;
  }
  try {
    ParseKvForm("streamin");
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'streaming'"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace hawser
