#include "hawser/eval/data_files.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/io/digest.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr DataFile kFiles[] = {
    {"mmlu", "mmlu/dev.jsonl", 136428, "071a8344f0bfe8e13a2a056fd45825c8ab8ff40ff793c8396f51cbde9ea911c5",
     "HaeChan0305/MLILAB-FedLLM/d92730e8bacd7b3a61e551e015e40588e10234b4/data/mmlu/dev", MakeMmluDev},
    {"mmlu", "mmlu/test.jsonl", 7510640, "fdcfe0b7c447753ab85f1f7686f87d201d4521814501d5252502282ef0237ff2",
     "HaeChan0305/MLILAB-FedLLM/d92730e8bacd7b3a61e551e015e40588e10234b4/data/mmlu/test", MakeMmluTest},
    {"hellaswag", "hellaswag/hellaswag_val.jsonl", 12246618,
     "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
     "rowanz/hellaswag/a29ff8e9a04bba4bd6588223785ce105328adc57/data/hellaswag_val.jsonl"},
    {"hellaswag_text", "hellaswag/hellaswag_val_full.txt", 7770677,
     "d572539320eb2050e858ca34b495bbe2103e3b3f1391a9c3bcdf215b0bb93bd1"},
    {"gsm8k", "gsm8k/test.jsonl", 749738, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
     "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/test.jsonl"},
    {"gsm8k", "gsm8k/train.jsonl", 4166206, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
     "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/train.jsonl"},
    {"gsm8k_cot", "gsm8k/cot_exemplars_8shot.json", 2325,
     "3a6099b24fa1812e1c8749366209a242bd0fa673352976debe0101a6c00eeb5c",
     "EleutherAI/lm-evaluation-harness/4e7e0d47f33bc71070c1d38394bafbb52b117163/lm_eval/tasks/gsm8k/gsm8k-cot.yaml",
     MakeGsm8kExamples},
    {"piqa", "piqa/valid.jsonl", 495929, "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
     "ybisk/ybisk.github.io/21edab439af693b961be2f069e8690a88d3b4e37/piqa/data/valid.jsonl"},
    {"piqa", "piqa/valid-labels.lst", 3676, "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
     "ybisk/ybisk.github.io/21edab439af693b961be2f069e8690a88d3b4e37/piqa/data/valid-labels.lst"},
    {"piqa_train", "piqa/train.jsonl", 0, "f032ea264350c9cc30e7f872ea2a8576f4a97f2e",
     "ybisk/ybisk.github.io/21edab439af693b961be2f069e8690a88d3b4e37/piqa/data/train.jsonl"},
    {"piqa_train", "piqa/train-labels.lst", 32226, "df8ae080c41f02f88e81f6932d425f4b7ee72f433ad552e6a30d45e358e8f8bb",
     "ybisk/ybisk.github.io/21edab439af693b961be2f069e8690a88d3b4e37/piqa/data/train-labels.lst"},
    {"hellaswag_train", "hellaswag/hellaswag_train.jsonl", 47496131,
     "dae5e69249868cb9fe4e23ff925c60b66169564cfb7072d793cd7356a2b69f8d",
     "rowanz/hellaswag/a29ff8e9a04bba4bd6588223785ce105328adc57/data/hellaswag_train.jsonl"},
    {"winogrande", "winogrande/winogrande_xl_validation.jsonl", 312369,
     "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
     "mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data/language_understanding/"
     "winogrande.jsonl"},
    {"lambada", "lambada/lambada_openai_test.jsonl", 1895241,
     "411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
     "mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data/language_understanding/"
     "lambada_openai.jsonl"},
    {"arc", "arc/arc_easy_train.jsonl", 729342, "eb5c6662234fd2518453a5a8f24f7507a862597ad20a877999574bc6e8bd599d",
     "nju-websoft/GenMC/eada4b06cf25bd95333422e1a1c02d4db3d25945/data/arc_easy/official/train.jsonl", MakeArc},
    {"arc", "arc/arc_easy_test.jsonl", 773973, "e38bcdad367898d0c3acd0e54612ff9757ae4e6e51bd8d64517a347d371c2996",
     "nju-websoft/GenMC/eada4b06cf25bd95333422e1a1c02d4db3d25945/data/arc_easy/official/test.jsonl", MakeArc},
    {"arc", "arc/arc_challenge_train.jsonl", 404611, "a624d995e80b9b97602e38d05fb8a5409442b3cc81357d8d7294fb21332216ec",
     "nju-websoft/GenMC/eada4b06cf25bd95333422e1a1c02d4db3d25945/data/arc_challenge/official/train.jsonl", MakeArc},
    {"arc", "arc/arc_challenge_test.jsonl", 432969, "e5dc005ef6323817014d23a930252588d7bd1d2529ca439f18fae5d8a47c325d",
     "nju-websoft/GenMC/eada4b06cf25bd95333422e1a1c02d4db3d25945/data/arc_challenge/official/test.jsonl",
     MakeArcChallengeTest},
    {"wikitext", "wikitext/wiki.test.raw", 1290590, "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
     "Tylogi/TyloQuant/7989d038b13ca737da11a95fb90e77ae059f33c0/data/wikitext-2-raw/wiki.test.raw", MakeWikitext},
    {"ruler", "ruler/wordlists/nounlist.txt", 54781, "0778f51872f2aa89e0745c0cc37471a13e3d2161a79fcfdc03b6390b10604a55",
     "mrmaxguns/wonderwordsmodule/v2.2.0/wonderwords/assets/nounlist.txt"},
    {"ruler", "ruler/wordlists/adjectivelist.txt", 7403,
     "66814d46b7e292c83e839d12fe2fa083c8f66779b14b294e1be4e1342c5d4131",
     "mrmaxguns/wonderwordsmodule/v2.2.0/wonderwords/assets/adjectivelist.txt"},
    {"ruler", "ruler/wordlists/verblist.txt", 6967, "9fbf5e4e69b8869aebd88e6d545312ff9f878a747327ede5f6dbbba5c27b08ad",
     "mrmaxguns/wonderwordsmodule/v2.2.0/wonderwords/assets/verblist.txt"},
    {"xquad", "qa/xquad.en.json", 609383, "e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29",
     "google-deepmind/xquad/7d30520c717524000f0d9d2f9c10a069acd9d285/xquad.en.json"},
    {"qa", "qa/hotpotqa_dev_distractor_first100.json", 641578,
     "7588f53b8bd6725682133bcca8f8bf007f7e5be2227e376130660c16ef70defe",
     "nakulbh/Meve-framework/a83b659f7790e00217073720506d453bec192a35/data/hotpot_dev_distractor_v1.json", MakeHotpot},
    {"longbench", "longbench/dataset2prompt.json", 5437,
     "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
     "THUDM/LongBench/main/LongBench/config/dataset2prompt.json"},
};

fs::path Variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// As git names a file of these bytes.
std::string BlobHash(std::string_view text) {
  Digest digest(Digest::Kind::kSha1);
  digest.Add(fmt::format("blob {}", text.size()));
  digest.Add(std::string_view("\0", 1));
  digest.Add(text);
  return digest.Hex();
}

/// Errors: kIo.
fs::path Find(const fs::path& given, const DataFile& file) {
  std::string looked;
  for (const fs::path& folder : DataFolders(given)) {
    std::error_code code;
    if (fs::is_regular_file(folder / file.path, code)) return folder / file.path;
    looked += (looked.empty() ? "" : ", ") + folder.string();
  }
  const std::string how =
      file.place.empty() ? "docs/EVAL.md says how to make it" : fmt::format("hawser pull data:{} fetches it", file.set);
  Fail(ErrorKind::kIo, "{}: not found in {}; {}, --data-dir says where else it is", file.path, looked, how);
}

}  // namespace

std::span<const DataFile> DataFiles() { return kFiles; }

const DataFile& KnownDataFile(std::string_view path) {
  const auto found = std::ranges::find(kFiles, path, &DataFile::path);
  HAWSER_CHECK(found != std::end(kFiles));
  return *found;
}

fs::path DataCache() {
  fs::path cache = Variable("HAWSER_CACHE");
  if (cache.empty() && !Variable("XDG_CACHE_HOME").empty()) cache = Variable("XDG_CACHE_HOME") / "hawser";
  if (cache.empty()) cache = Variable("HOME") / ".cache" / "hawser";
  return cache / "data";
}

std::vector<fs::path> DataFolders(const fs::path& given) {
  const fs::path first = given.empty() ? Variable("HAWSER_DATA") : given;
  if (first.empty()) return {DataCache()};
  return {first, DataCache()};
}

bool HasDataFile(const fs::path& given, std::string_view path) {
  return std::ranges::any_of(DataFolders(given), [&](const fs::path& folder) {
    std::error_code code;
    return fs::is_regular_file(folder / path, code);
  });
}

void CheckDataFile(const DataFile& file, const fs::path& place, std::string_view text, std::string_view advice) {
  const bool blob = file.hash.size() == 40;
  if (const std::string hash = blob ? BlobHash(text) : Sha256(text); hash != file.hash) {
    const std::string wanted = file.bytes > 0 ? fmt::format("{} bytes, ", file.bytes) : "";
    Fail(ErrorKind::kFormat, "{}: {} bytes, {} {}; {} as this program knows it has {}{}{}", place.string(), text.size(),
         blob ? "git's hash" : "SHA-256", hash, file.path, wanted, file.hash, advice);
  }
}

std::string ReadDataFile(const fs::path& given, std::string_view path) {
  const DataFile& file = KnownDataFile(path);
  const fs::path place = Find(given, file);
  std::string text = ReadFile(place);
  const bool pulled = place == DataCache() / file.path && !file.place.empty();
  CheckDataFile(file, place, text,
                pulled ? fmt::format("; delete it, and hawser pull data:{} fetches it", file.set) : "");
  return text;
}

std::vector<nlohmann::json> ReadDataLines(const fs::path& given, std::string_view path) {
  const std::string text = ReadDataFile(given, path);
  std::vector<nlohmann::json> lines;
  for (const std::string_view line : SplitAt(text, '\n')) {
    if (line.empty()) continue;
    lines.push_back(WithFrame(fmt::format("{}:{}", path, lines.size() + 1), [&] { return ParseJson(line); }));
  }
  return lines;
}

}  // namespace hawser
