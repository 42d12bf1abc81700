#include "hawser/data/pack_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "hawser/attn/schedule.h"
#include "hawser/base/printable.h"
#include "hawser/base/size.h"

namespace hawser {
namespace {

constexpr int32_t kTile = 64;

// Bucket b holds lengths of bit width b: 0, 1, 2 to 3, 4 to 7, ...
std::vector<PackReport::Bucket> Histogram(const DocumentSet& documents) {
  std::vector<PackReport::Bucket> all(65);
  for (int64_t d = 0; d < documents.size(); ++d) {
    const int64_t length = documents.length(d);
    PackReport::Bucket& bucket = all[static_cast<size_t>(std::bit_width(static_cast<uint64_t>(length)))];
    ++bucket.documents;
    bucket.tokens += length;
  }
  for (size_t b = 0; b < all.size(); ++b) {
    all[b].begin = b == 0 ? 0 : int64_t{1} << std::min<size_t>(b - 1, 62);
    all[b].end = int64_t{1} << std::min<size_t>(b, 62);
  }
  const auto used = [](const PackReport::Bucket& bucket) { return bucket.documents > 0; };
  const auto first = std::find_if(all.begin(), all.end(), used);
  const auto last = std::find_if(all.rbegin(), all.rend(), used).base();
  return first == all.end() ? std::vector<PackReport::Bucket>{} : std::vector(first, last);
}

/// Visible pairs a token of `drawn` in the mean, the shared anchor apart.
double PairsOfToken(const DocumentSet& documents, const std::vector<uint32_t>& drawn, const PackOptions& options) {
  const LayeredPattern& pattern = options.variant.pattern;
  const int64_t copies =
      options.variant.multi_bos ? static_cast<int64_t>(std::max<size_t>(options.anchor.size(), 1)) : 0;
  const int64_t own = copies > 0 ? copies : pattern.anchors == 0 && options.bos >= 0 ? 1 : 0;
  const int64_t room = options.length - pattern.anchors;
  double pairs = 0, tokens = 0;
  const auto add = [&](int64_t m, int64_t times) {
    const auto n = static_cast<double>(m), count = static_cast<double>(times);
    pairs += count * n * (n + 1) / 2;
    tokens += count * n;
  };
  for (const uint32_t d : drawn) {
    const int64_t length = documents.length(d), text = room - own;
    if (length == 0) continue;
    add(room, length / text);
    if (length % text > 0) add(length % text + own, 1);
  }
  return tokens > 0 ? pairs / tokens : std::numeric_limits<double>::infinity();
}

double ExpectedDensity(const DocumentSet& documents, const PackOptions& options, const Loader& loader, uint64_t seed,
                       const UpsampleOptions& upsample) {
  const LayeredPattern& pattern = options.variant.pattern;
  if (pattern.window != AttnPattern::kAll || pattern.layered()) return -1;
  if (pattern.scope == Scope::kSequence) return 1;
  double pairs = 0;
  if (documents.mixture().empty()) {
    pairs = PairsOfToken(documents, DrawDocuments(documents, upsample, seed, 0), options);
  }
  const std::vector<SourceTokens> sources = loader.source_tokens();
  for (size_t s = 0; s < sources.size(); ++s) {
    const MixtureSource& source = documents.mixture()[s];
    std::vector<uint32_t> all(static_cast<size_t>(source.end - source.begin));
    std::iota(all.begin(), all.end(), static_cast<uint32_t>(source.begin));
    pairs += sources[s].share * PairsOfToken(documents, all, options);
  }
  return std::min(1.0, (pairs + pattern.anchors) / ((options.length + 1) / 2.0));
}

std::string OtherDrops(const PackCounts& c) {
  std::string text;
  if (c.dropped_untrained > 0) text += fmt::format(", {} of sequences with nothing to train on", c.dropped_untrained);
  if (c.dropped_between > 0) text += fmt::format(", {} between chunks", c.dropped_between);
  return text;
}

/// Of a sequence, documents apart: "0 | 1-87 1204-1511 | 88-90", no more than `most` runs.
std::string RunsText(const std::vector<PackReport::Run>& runs, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(runs.size(), most); ++i) {
    const PackReport::Run& run = runs[i];
    if (i > 0) text += run.document == runs[i - 1].document ? " " : " | ";
    text += run.first == run.last ? fmt::format("{}", run.first) : fmt::format("{}-{}", run.first, run.last);
  }
  return runs.size() > most ? fmt::format("{} ... ({} runs)", text, runs.size()) : text;
}

}  // namespace

std::string Summary(const PackCounts& c) {
  std::string text = fmt::format("packed {} of {} of {} into {} ({}, {} padding)", c.tokens_out,
                                 Counted(c.tokens_in, "token"), Counted(c.documents, "document"),
                                 Counted(c.sequences, "sequence"), Counted(c.pieces, "piece"), c.padding);
  text += fmt::format("; dropped {} of {}, {} of overflow, {} of a last sequence", c.dropped_short,
                      Counted(c.short_documents, "short document"), c.dropped_overflow, c.dropped_partial);
  return text + OtherDrops(c);
}

nlohmann::json ToJson(const PackCounts& c) {
  return {{"documents", c.documents},
          {"tokens_in", c.tokens_in},
          {"tokens_out", c.tokens_out},
          {"pieces", c.pieces},
          {"sequences", c.sequences},
          {"short_documents", c.short_documents},
          {"dropped_short", c.dropped_short},
          {"dropped_overflow", c.dropped_overflow},
          {"dropped_partial", c.dropped_partial},
          {"dropped_untrained", c.dropped_untrained},
          {"dropped_between", c.dropped_between},
          {"padding", c.padding},
          {"bos_tokens", c.bos_tokens},
          {"tag_tokens", c.tag_tokens},
          {"eos_tokens", c.eos_tokens}};
}

std::string Summary(const std::vector<SourceTokens>& sources) {
  int64_t all = 0;
  for (const SourceTokens& source : sources) all += source.tokens;
  std::string text;
  for (const SourceTokens& source : sources) {
    text += fmt::format("{}{} {} tokens, {:.1f} % where {:.1f} % are wanted, {:.2f} epochs", text.empty() ? "" : "; ",
                        source.name, source.tokens, 100 * PackReport::Ratio(source.tokens, all), 100 * source.share,
                        source.epochs);
  }
  return "mixture: " + text;
}

nlohmann::json ToJson(const std::vector<SourceTokens>& sources) {
  nlohmann::json list = nlohmann::json::array();
  for (const SourceTokens& source : sources) {
    list.push_back({{"name", source.name},
                    {"documents", source.documents},
                    {"share", source.share},
                    {"tokens", source.tokens},
                    {"epochs", source.epochs}});
  }
  return list;
}

std::vector<PackReport::Run> PositionRuns(const PackedSequence& sequence) {
  std::vector<PackReport::Run> runs;
  int64_t document = -1;
  for (int32_t i = 0; i < sequence.layout.size; ++i) {
    if (sequence.layout.IsPadding(i)) continue;
    const bool begins = sequence.layout.doc_begin[i] == i;
    if (begins) ++document;
    const int64_t position = sequence.positions[i];
    if (!begins && position == runs.back().last + 1) {
      runs.back().last = position;
    } else {
      runs.push_back({document, position, position});
    }
  }
  return runs;
}

PackReport MeasurePacking(const DocumentSet& documents, const PackOptions& options, uint64_t seed,
                          const UpsampleOptions& upsample, int64_t max_sequences, int32_t layers,
                          const LayeredPattern& own) {
  PackReport report;
  report.context = options.length;
  report.attention = ToString(options.variant);
  report.map = ToString(options.positions);
  report.documents = documents.size();
  report.tokens = documents.tokens();
  report.histogram = Histogram(documents);
  double squares = 0;
  for (int64_t d = 0; d < documents.size(); ++d) {
    squares += static_cast<double>(documents.length(d)) * static_cast<double>(documents.length(d));
  }
  report.mean_length = PackReport::Ratio(report.tokens, report.documents);
  report.weighted_length = squares / static_cast<double>(std::max<int64_t>(report.tokens, 1));

  Loader loader(&documents, options, seed, upsample);  // refuses a length without room for text
  report.expected_density = ExpectedDensity(documents, options, loader, seed, upsample);
  for (size_t s = 0; s < loader.draw_counts().size(); ++s) {
    report.sources.push_back({documents.sources()[s], loader.draw_counts()[s]});
  }
  PackedSequence sequence;
  const LayerPatterns patterns = PatternsOfLayers(options.variant.pattern, layers, own);
  const AttnSchedule full = CompileSchedule({}, {.size = options.length});
  const TileStats dense = CountTiles(full, kTile, kTile);
  while (loader.NextOfEpoch(&sequence)) {
    std::vector<int64_t> pairs, visited;
    for (const AttnPattern& pattern : patterns.distinct) {
      const AttnSchedule schedule = CompileSchedule(pattern, sequence.layout);
      const TileStats tiles = CountTiles(schedule, kTile, kTile);
      pairs.push_back(schedule.visible_pairs);
      visited.push_back(tiles.full + tiles.partial);
    }
    const auto mean = [&](const std::vector<int64_t>& of) {
      int64_t sum = 0;
      for (const size_t p : patterns.of_layer) sum += of[p];
      return sum / layers;
    };
    report.pairs += mean(pairs);
    report.tiles += mean(visited);
    report.causal_pairs += full.visible_pairs;
    report.causal_tiles += dense.full + dense.partial;
    if (report.measured == 0) report.first_sequence = PositionRuns(sequence);
    for (int32_t i = 0; i < sequence.layout.size; ++i) {
      if (!sequence.layout.IsPadding(i)) report.last_position = std::max(report.last_position, sequence.positions[i]);
    }
    report.mapped += sequence.mapped;
    report.unmoved += sequence.unmoved;
    ++report.measured;
    report.targets += std::count_if(sequence.weights.begin(), sequence.weights.end(), [](float w) { return w > 0; });
    if (max_sequences > 0 && report.measured >= max_sequences) break;
  }
  report.counts = loader.counts();
  report.mixture = loader.source_tokens();
  return report;
}

nlohmann::json ToJson(const PackReport& r) {
  nlohmann::json histogram = nlohmann::json::array(), sources = nlohmann::json::array();
  for (const PackReport::Bucket& b : r.histogram) {
    histogram.push_back({{"begin", b.begin}, {"end", b.end}, {"documents", b.documents}, {"tokens", b.tokens}});
  }
  for (const PackReport::Source& s : r.sources) {
    sources.push_back({{"source", s.name},
                       {"documents", s.counts.documents},
                       {"tokens", s.counts.tokens},
                       {"drawn", s.counts.drawn},
                       {"left_short", s.counts.left_short},
                       {"left_budget", s.counts.left_budget},
                       {"repeated", s.counts.repeated}});
  }
  const bool known = r.expected_density >= 0;
  nlohmann::json runs = nlohmann::json::array();
  for (const PackReport::Run& run : r.first_sequence) runs.push_back({run.document, run.first, run.last});
  return {{"context", r.context},
          {"attention", r.attention},
          {"documents", r.documents},
          {"tokens", r.tokens},
          {"mean_length", r.mean_length},
          {"weighted_length", r.weighted_length},
          {"histogram", histogram},
          {"sources", sources},
          {"mixture", ToJson(r.mixture)},
          {"counts", ToJson(r.counts)},
          {"targets", r.targets},
          {"positions",
           {{"map", r.map},
            {"last", r.last_position},
            {"mapped_texts", r.mapped},
            {"unmoved_texts", r.unmoved},
            {"first_sequence", runs}}},
          {"measured_sequences", r.measured},
          {"visible_pairs", r.pairs},
          {"causal_pairs", r.causal_pairs},
          {"density", r.density()},
          {"expected_density", known ? nlohmann::json(r.expected_density) : nlohmann::json()},
          {"tiles", r.tiles},
          {"causal_tiles", r.causal_tiles},
          {"tile_density", r.tile_density()},
          {"attention_saving", 1 - r.density()},
          {"expected_saving", known ? nlohmann::json(1 - r.expected_density) : nlohmann::json()},
          {"tile_saving", 1 - r.tile_density()}};
}

std::string ToText(const PackReport& r) {
  std::string text = fmt::format("documents      {} with {}: {:.1f} each, {:.1f} where a token stands\n", r.documents,
                                 Counted(r.tokens, "token"), r.mean_length, r.weighted_length);
  text += fmt::format("\n{:>23} {:>11} {:>13} {:>9}\n", "tokens of a document", "documents", "tokens", "share");
  for (const PackReport::Bucket& b : r.histogram) {
    const double share = PackReport::Ratio(b.tokens, std::max<int64_t>(r.tokens, 1));
    text += fmt::format("{:>23} {:>11} {:>13} {:>8.1f}% {}\n", fmt::format("{} to {}", b.begin, b.end - 1), b.documents,
                        b.tokens, 100 * share, std::string(static_cast<size_t>(40 * share + 0.5), '#'));
  }
  const bool sampled =
      std::any_of(r.sources.begin(), r.sources.end(), [](const auto& s) { return s.counts.drawn != s.counts.tokens; });
  if (sampled || r.sources.size() > 1) {
    text += fmt::format("\n{:<20} {:>9} {:>11} {:>11} {:>11} {:>11} {:>11}\n", "source", "documents", "tokens", "drawn",
                        "left short", "over budget", "repeated");
    for (const PackReport::Source& s : r.sources) {
      const DrawCounts& c = s.counts;
      text += fmt::format("{:<20} {:>9} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
                          s.name.empty() ? "(none)" : PrintableLine(s.name, 60), c.documents, c.tokens, c.drawn,
                          c.left_short, c.left_budget, c.repeated);
    }
  }
  if (!r.mixture.empty()) text += "\n" + Summary(r.mixture) + "\n";
  const PackCounts& c = r.counts;
  const double sequences = static_cast<double>(std::max<int64_t>(c.sequences, 1));
  text +=
      fmt::format("\npacked         {} of {}: {:.2f} documents each, {} of text\n", Counted(c.sequences, "sequence"),
                  r.context, static_cast<double>(c.pieces) / sequences, Counted(c.tokens_out, "token"));
  text += fmt::format("beside text    {} BOS, {} of tags, {} EOS, {} padding ({:.2f} %)\n", c.bos_tokens, c.tag_tokens,
                      c.eos_tokens, c.padding,
                      100 * static_cast<double>(c.padding) / (sequences * static_cast<double>(r.context)));
  const double rows = static_cast<double>(std::max<int64_t>(r.measured * r.context, 1));
  text += fmt::format("trained on     {}, {:.2f} % of the rows\n", Counted(r.targets, "target"),
                      100 * static_cast<double>(r.targets) / rows);
  text += fmt::format("dropped        {} of {}, {} of overflow, {} of a last sequence{}\n",
                      Counted(c.dropped_short, "token"), Counted(c.short_documents, "short document"),
                      c.dropped_overflow, c.dropped_partial, OtherDrops(c));
  constexpr size_t kMostRuns = 24;
  text += fmt::format("positions      up to {}; first sequence {}\n", r.last_position,
                      RunsText(r.first_sequence, kMostRuns));
  if (!r.map.empty()) {
    text += fmt::format("moved by       {}: {} of {}\n", r.map, r.mapped - r.unmoved, Counted(r.mapped, "text"));
  }
  text += fmt::format("attention      {}: density {:.4f} of causal pairs, {:.4f} of {}x{} tiles{}\n", r.attention,
                      r.density(), r.tile_density(), kTile, kTile,
                      r.measured < c.sequences ? fmt::format(" in {} sequences", r.measured) : "");
  const std::string expected =
      r.expected_density >= 0 ? fmt::format("; {:.1f} % expected of the lengths", 100 * (1 - r.expected_density)) : "";
  text += fmt::format("saving         {:.1f} % of attention, {:.1f} % of its tiles{}\n", 100 * (1 - r.density()),
                      100 * (1 - r.tile_density()), expected);
  return text;
}

}  // namespace hawser
