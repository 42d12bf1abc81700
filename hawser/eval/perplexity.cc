#include "hawser/eval/perplexity.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "hawser/attn/schedule.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/kv/report.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

constexpr std::array<std::string_view, 9> kProtocolNames = {
    "windowed", "rolling", "sliding", "truncate", "chunk-half", "chunk-stride", "full", "streaming", "lines"};
constexpr int64_t kLeastWindow = 16;  // predicted tokens of a last window that counts

using Clock = std::chrono::steady_clock;
double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int64_t CountWords(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool blank = c == ' ' || (c >= '\t' && c <= '\r');
    words += inside && blank;
    inside = !blank;
  }
  return words + inside;
}

/// Everything the protocols share: ids, their bytes, and the sums.
class Measurement {
 public:
  Measurement(const ModelSpec& spec, const Tokenizer& tokenizer, const PplOptions& options, PplReport* report)
      : spec_(spec), tokenizer_(tokenizer), options_(options), report_(report) {
    if (options.bos == BosRule::kAuto && options.protocol != PplProtocol::kLines) {
      bos_ = tokenizer.bos() >= 0 ? tokenizer.bos() : tokenizer.eos();
      report->bos_rule = "convention of the protocols: BOS, or EOS where there is none";
    } else {
      const std::vector<int32_t> prefix = TextPrefix(tokenizer, options.bos);
      bos_ = prefix.empty() ? -1 : prefix.back();
      report->bos_rule = options.bos == BosRule::kAuto ? "the tokenizer's own rule" : Name(options.bos);
    }
    if (bos_ >= 0) CheckIds({&bos_, 1}, "BOS");
    report->bos = bos_;
    if (bos_ >= 0) report->bos_token = tokenizer.Display(bos_);
    piece_bytes_.resize(spec.vocab);
    for (int32_t id = 0; id < std::min(spec.vocab, tokenizer.vocab_size()); ++id) {
      piece_bytes_[id] = static_cast<int32_t>(tokenizer.Piece(id).size());
    }
  }

  int32_t bos() const { return bos_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  void CheckIds(std::span<const int32_t> ids, std::string_view name) const {
    for (const int32_t id : ids) {
      if (id >= 0 && id < spec_.vocab) continue;
      Fail(ErrorKind::kUsage, "{}: token id {} is outside the model's vocabulary of {}; is it the model's tokenizer?",
           name, id, spec_.vocab);
    }
  }

  /// `first`: the target begins a text, where the tokenizer may have put a blank that is not there.
  void Add(int64_t position, int32_t target, bool first, float nll) {
    PplReport& r = *report_;
    if (!std::isfinite(nll)) {
      Fail(ErrorKind::kNumeric, "the model gives {} nats for token {} at position {}; its weights may be damaged", nll,
           target, position);
    }
    const auto bucket = static_cast<size_t>(PplBucketOf(position));
    if (bucket >= r.buckets.size()) r.buckets.resize(bucket + 1);
    ++r.buckets[bucket].tokens;
    r.buckets[bucket].nll += nll;
    if (options_.on_token) options_.on_token(r.tokens, nll);
    ++r.tokens;
    r.nll += nll;
    r.nll_squares += static_cast<double>(nll) * nll;
    r.bytes += piece_bytes_[target] - (first && tokenizer_.adds_dummy_prefix() ? 1 : 0);
  }

  void Finish() {
    PplReport& r = *report_;
    if (r.tokens == 0) {
      Fail(ErrorKind::kUsage, "nothing to predict: protocol {} with a context of {} tokens needs longer texts",
           Name(r.protocol), r.context);
    }
    for (size_t b = 0; b < r.buckets.size(); ++b) {
      r.buckets[b].begin = PplBucketBegin(static_cast<int64_t>(b));
      r.buckets[b].end = PplBucketBegin(static_cast<int64_t>(b) + 1);
    }
    std::erase_if(r.buckets, [](const PplBucket& b) { return b.tokens == 0; });
    r.peak_rss_bytes = PeakRssBytes();
  }

 private:
  const ModelSpec& spec_;
  const Tokenizer& tokenizer_;
  const PplOptions& options_;
  PplReport* report_;
  int32_t bos_ = -1;
  std::vector<int32_t> piece_bytes_;  // [V]
};

struct Texts {
  std::vector<std::vector<int32_t>> ids;
  std::vector<int64_t> lengths;
  int64_t words = 0;
  int64_t total = 0;
};

Texts TokenizeTexts(const Measurement& m, const Tokenizer& tokenizer, const std::vector<TextDocument>& documents,
                    int64_t max_tokens) {
  Texts texts;
  // All at once and in parallel, unless the first few may be enough.
  std::vector<Document> whole;
  if (max_tokens == 0) whole = TokenizeDocuments(documents, tokenizer);
  for (const TextDocument& document : documents) {
    if (texts.total == max_tokens && max_tokens > 0) break;
    texts.ids.push_back(whole.empty() ? tokenizer.Encode(document.text) : std::move(whole[texts.ids.size()].tokens));
    std::vector<int32_t>& ids = texts.ids.back();
    m.CheckIds(ids, document.path);
    const bool cut = max_tokens > 0 && static_cast<int64_t>(ids.size()) > max_tokens - texts.total;
    if (cut) ids.resize(max_tokens - texts.total);
    texts.words += CountWords(cut ? tokenizer.Decode(ids) : document.text);
    texts.lengths.push_back(static_cast<int64_t>(ids.size()));
    texts.total += texts.lengths.back();
  }
  return texts;
}

void MeasureWindows(Decoder* decoder, Measurement* m, const Texts& texts, const std::vector<TextDocument>& documents,
                    const PplOptions& options, PplReport* report) {
  const std::vector<PplWindow> windows = PlanWindows(options, texts.lengths, m->bos() >= 0);
  for (size_t d = 0; d < texts.ids.size(); ++d) report->documents.push_back({.name = documents[d].path});
  int64_t total = 0, rows_seen = 0, visible = 0, causal = 0;
  for (const PplWindow& w : windows) total += w.end - w.score_begin;
  const ModelSpec& spec = decoder->spec();
  const LayerPatterns patterns = PatternsOfLayers(options.pattern, spec.layers, OwnPattern(spec));
  std::vector<uint8_t> separators;
  if (options.pattern.separators) {
    separators = ModelSeparators(&m->tokenizer(), options.pattern.separator_set, spec.vocab);
  }
  std::vector<float> nll;
  std::vector<int64_t> peaks(patterns.distinct.size(), 0);  // keys of the query that sees most
  ProgressBar bar("ppl", total);
  const auto start = Clock::now();
  for (size_t first = 0; first < windows.size();) {
    Batch batch{.pattern = options.pattern};
    size_t last = first;
    for (; last < windows.size(); ++last) {
      const PplWindow& w = windows[last];
      const std::vector<int32_t>& ids = texts.ids[w.document];
      const auto rows = static_cast<int32_t>(w.end - 1 - w.begin + (w.prefix ? 1 : 0));
      if (last > first && batch.rows() + rows > options.batch_tokens) break;
      Batch::Sequence sequence{.begin = batch.rows(), .layout = {.size = rows}};
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t t = w.begin + row - (w.prefix ? 1 : 0);  // the token read; t + 1 is predicted
        const int32_t id = t < w.begin ? m->bos() : ids[t];
        const bool scored = t + 1 >= w.score_begin;
        batch.ids.push_back(id);
        batch.positions.push_back(row);
        batch.targets.push_back(scored ? ids[t + 1] : -1);
        batch.weights.push_back(scored ? 1.0f : 0.0f);
        if (!separators.empty()) sequence.layout.is_separator.push_back(separators[id]);
      }
      // Later rows never see fewer keys, so the last one sees the most.
      for (size_t i = 0; i < peaks.size(); ++i) {
        peaks[i] = std::max(peaks[i], CompileSchedule(patterns.distinct[i], sequence.layout, 1).visible_pairs);
      }
      batch.sequences.push_back(std::move(sequence));
    }
    nll.resize(batch.ids.size());
    const StepStats stats = decoder->Score(batch, nll.data());
    visible += stats.visible_pairs;
    causal += stats.causal_pairs;
    rows_seen += batch.rows();
    for (size_t w = first; w < last; ++w) {
      const int64_t base = batch.sequences[w - first].begin;
      PplDocument& document = report->documents[windows[w].document];
      double sum = 0;
      for (int64_t t = windows[w].score_begin; t < windows[w].end; ++t) {
        const int64_t row = t - 1 - windows[w].begin + (windows[w].prefix ? 1 : 0);
        m->Add(row, batch.targets[base + row], t == 0, nll[base + row]);
        sum += nll[base + row];
      }
      document.tokens += windows[w].end - windows[w].score_begin;
      document.nll += sum;
      report->window_means += sum / static_cast<double>(windows[w].end - windows[w].score_begin);
    }
    first = last;
    bar.Update(report->tokens, fmt::format("ppl {:.4g}", report->ppl()));
  }
  report->seconds = Since(start);
  report->windows = static_cast<int64_t>(windows.size());
  if (rows_seen == 0) return;
  report->kv.mean = static_cast<double>(visible) / static_cast<double>(rows_seen);
  report->kv.ratio = static_cast<double>(visible) / static_cast<double>(causal);
  report->kv.peak = std::ranges::max(peaks);
  for (const size_t i : patterns.of_layer) {
    report->kv.peak_mean += static_cast<double>(peaks[i]) / static_cast<double>(patterns.of_layer.size());
  }
}

/// Tokens fed to a stream, and what each of them predicts.
struct Stream {
  std::vector<int32_t> fed, targets;
  std::vector<uint8_t> first;  // the target begins a text
};

Stream StreamOfDocuments(int32_t bos, const Texts& texts) {
  Stream s;
  if (bos >= 0) s.fed.push_back(bos);
  for (const std::vector<int32_t>& ids : texts.ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!s.fed.empty()) {
        s.targets.push_back(ids[i]);
        s.first.push_back(i == 0);
      }
      s.fed.push_back(ids[i]);
    }
  }
  if (!s.fed.empty()) s.fed.pop_back();
  return s;
}

Stream StreamOfLines(const Measurement& m, const Tokenizer& tokenizer, const std::vector<TextDocument>& documents,
                     int64_t max_tokens, int64_t* words) {
  Stream s;
  const size_t most = max_tokens > 0 ? static_cast<size_t>(max_tokens) : std::numeric_limits<size_t>::max();
  for (const TextDocument& document : documents) {
    for (std::string_view rest = document.text; !rest.empty() && s.targets.size() < most;) {
      const size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(rest.substr(end).starts_with("\r\n") ? end + 2 : std::min(end + 1, rest.size()));
      const std::vector<int32_t> ids = line.empty() ? std::vector<int32_t>{} : tokenizer.Encode(line);
      m.CheckIds(ids, document.path);
      int32_t before = m.bos();
      for (size_t i = 0; i < ids.size() && s.targets.size() < most; before = ids[i++]) {
        if (before < 0) continue;
        s.fed.push_back(before);
        s.targets.push_back(ids[i]);
        s.first.push_back(i == 0);
      }
      *words += CountWords(line);
    }
  }
  if (s.targets.size() == most) *words = 0;
  return s;
}

/// Tokens of a pass through the decoder at most: what it holds for them does not grow with the stretch.
constexpr int64_t kStreamPass = 32768;

void MeasureStream(Decoder* decoder, KvCache* cache, Measurement* m, const Stream& s, int64_t step, PplReport* report) {
  const auto total = static_cast<int64_t>(s.fed.size());
  if (step == 0) {
    step = 256;
    while (total / step > 128) step *= 2;
  }
  std::vector<float> nll(std::min(step, total));
  ProgressBar bar("ppl", total);
  for (int64_t begin = 0; begin < total; begin += step) {
    const int64_t n = std::min(step, total - begin);
    const auto start = Clock::now();
    for (int64_t at = 0; at < n; at += kStreamPass) {
      const int64_t pass = std::min(kStreamPass, n - at);
      decoder->ExtendScore(std::span(s.fed).subspan(begin + at, pass), std::span(s.targets).subspan(begin + at, pass),
                           cache, nll.data() + at);
    }
    PplStretch stretch{.range = {.begin = begin, .end = begin + n, .tokens = n}, .seconds = Since(start)};
    for (int64_t i = 0; i < n; ++i) {
      m->Add(begin + i, s.targets[begin + i], s.first[begin + i] != 0, nll[i]);
      stretch.range.nll += nll[i];
    }
    stretch.kv_slots = cache->usage().final;
    stretch.kv_bytes = cache->bytes();
    stretch.rss_bytes = RssBytes();
    report->seconds += stretch.seconds;
    report->stretches.push_back(stretch);
    bar.Update(begin + n, fmt::format("ppl {:.4g}, {} slots", report->ppl(), stretch.kv_slots));
  }
  report->kv = cache->usage();
  report->kv_report = KvReportJson(*cache);
  report->kv_text = KvReportText(*cache);
}

}  // namespace

PplProtocol ParsePplProtocol(std::string_view name) {
  for (size_t i = 0; i < kProtocolNames.size(); ++i) {
    if (kProtocolNames[i] == name) return static_cast<PplProtocol>(i);
  }
  Fail(ErrorKind::kUsage, "unknown protocol '{}'{}", name, SuggestName(name, kProtocolNames));
}

std::string_view Name(PplProtocol protocol) { return kProtocolNames[static_cast<size_t>(protocol)]; }

int64_t PplBucketOf(int64_t position) {
  if (position < 2) return position;
  const int octave = std::bit_width(static_cast<uint64_t>(position)) - 1;
  return 2 * octave + ((position >> (octave - 1)) & 1);
}

int64_t PplBucketBegin(int64_t bucket) { return bucket < 2 ? bucket : (2 + (bucket & 1)) << (bucket / 2 - 1); }

std::vector<PplWindow> PlanWindows(const PplOptions& options, std::span<const int64_t> lengths, bool has_prefix) {
  const int64_t length = options.context;
  if (length < 2) Fail(ErrorKind::kUsage, "a context of {} tokens predicts nothing: at least 2 are needed", length);
  PplProtocol protocol = options.protocol;
  if (protocol == PplProtocol::kWindowed && options.stride > 0) protocol = PplProtocol::kSliding;
  const int64_t stride = options.stride > 0 ? options.stride : length / 2;
  const bool strided = protocol == PplProtocol::kSliding || protocol == PplProtocol::kChunkStride;
  if (strided && (stride < 1 || stride > length - 1)) {
    Fail(ErrorKind::kUsage, "a stride of {} does not fit a context of {}: wanted 1 to {}", stride, length, length - 1);
  }
  std::vector<PplWindow> windows;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const int64_t n = lengths[d];
    const auto add = [&](int64_t begin, int64_t end, int64_t score_begin, bool prefix) {
      prefix = prefix && has_prefix;
      if (!prefix) score_begin = std::max(score_begin, begin + 1);
      if (score_begin >= end) return;
      windows.push_back({static_cast<int32_t>(d), begin, end, score_begin, prefix});
    };
    switch (protocol) {
      case PplProtocol::kWindowed:
        for (int64_t b = 0; b < n; b += length) {
          if (b > 0 && n - b < std::min(kLeastWindow, length)) break;
          add(b, std::min(b + length, n), b, true);
        }
        break;
      case PplProtocol::kRolling:
        for (int64_t done = 0; done < n;) {
          const int64_t end = std::min(done + length, n);
          add(done == 0 ? 0 : end - length - 1, end, done, done == 0);
          done = end;
        }
        break;
      case PplProtocol::kSliding:
        for (int64_t b = 0, done = 0; done < n; b += stride) {
          const int64_t end = std::min(b + length - 1, n);
          add(b, end, done, true);
          done = end;
        }
        break;
      case PplProtocol::kTruncate:
        add(0, std::min(length - 1, n), 0, true);
        break;
      case PplProtocol::kFull:
        add(0, n, 0, true);
        break;
      case PplProtocol::kChunkHalf:
        if (n + 1 < 2 * length) break;
        for (int64_t c = 0; c + length <= n + 1; c += length) add(c, c + length - 1, c + length / 2, true);
        break;
      case PplProtocol::kChunkStride:
        // In indices of BOS and text, chunk b reads [b, b + L) and predicts [b + L - S, b + L); text has one less.
        for (int64_t b = 0; b + length < n + 1; b += stride) {
          add(std::max<int64_t>(b - 1, 0), b + length - 1, b + length - stride - 1, b == 0);
        }
        break;
      case PplProtocol::kStreaming:
      case PplProtocol::kLines:
        Fail(ErrorKind::kUsage, "protocol {} has no windows", Name(protocol));
    }
  }
  return windows;
}

PplReport MeasurePerplexity(Backend* backend, const Weights& params, const Tokenizer& tokenizer,
                            const std::vector<TextDocument>& documents, const PplOptions& given) {
  PplOptions options = given;
  const ModelSpec spec = params.spec();
  if (options.context == 0) options.context = spec.context;
  if (options.prefix != nullptr) {
    HAWSER_CHECK(options.protocol == PplProtocol::kStreaming);
    options.bos = BosRule::kOff;
  }
  if (options.protocol == PplProtocol::kWindowed && options.stride > 0) options.protocol = PplProtocol::kSliding;
  PplReport report{.protocol = options.protocol, .context = options.context, .pattern = options.pattern};
  if (options.protocol == PplProtocol::kSliding || options.protocol == PplProtocol::kChunkStride) {
    report.stride = options.stride > 0 ? options.stride : options.context / 2;
  }
  Measurement m(spec, tokenizer, options, &report);
  if (!IsStreaming(options.protocol)) {
    const Texts texts = TokenizeTexts(m, tokenizer, documents, options.max_tokens);
    if (options.protocol == PplProtocol::kFull && !texts.lengths.empty()) {
      report.context = options.context = std::max<int64_t>(2, *std::ranges::max_element(texts.lengths));
    }
    Decoder decoder(backend, params);
    MeasureWindows(&decoder, &m, texts, documents, options, &report);
    if (report.tokens + (report.bos >= 0 ? 0 : report.windows) == texts.total) report.words = texts.words;
  } else {
    // The policy is read before any work, so that a wrong text fails at once.
    const KvForm form = ParseKvForm(options.kv);
    if (form.prefill == KvPrefill::kDense) {
      Fail(ErrorKind::kUsage, "kv policy \"{}\": its prompts are dense, and a stream read token by token has none",
           options.kv);
    }
    report.kv_policy = ToString(form);
    const std::vector<uint8_t> separators = ModelSeparators(&tokenizer, form.separator_set, spec.vocab);
    Stream stream;
    if (options.protocol == PplProtocol::kLines) {
      stream = StreamOfLines(m, tokenizer, documents, options.max_tokens, &report.words);
    } else {
      const Texts texts = TokenizeTexts(m, tokenizer, documents, options.max_tokens);
      stream = StreamOfDocuments(m.bos(), texts);
      report.words = texts.words;
    }
    const auto fed = std::max<int64_t>(1, static_cast<int64_t>(stream.fed.size()));
    report.context = given.context > 0 ? given.context : fed;
    Decoder decoder(backend, params);
    KvCache cache = NewKvCache(backend, spec, form, separators, params.dtype(), given.context);
    if (options.prefix != nullptr) cache.Follow(options.prefix);
    MeasureStream(&decoder, &cache, &m, stream, options.stretch, &report);
  }
  m.Finish();
  return report;
}

}  // namespace hawser
