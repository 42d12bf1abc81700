#include "hawser/eval/task_results.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "hawser/base/error.h"
#include "hawser/eval/metrics.h"
#include "hawser/eval/report.h"
#include "hawser/io/digest.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

std::string RowOf(const ScoredTask& task, const Sample& sample) {
  return sample.row.empty() ? std::string(task.task->name) : sample.row;
}

std::string Key(const Metric& metric) { return fmt::format("{},{}", metric.name, metric.filter); }
std::string ErrorKey(const Metric& metric) { return fmt::format("{}_stderr,{}", metric.name, metric.filter); }

nlohmann::json Number(double value) { return std::isnan(value) ? nlohmann::json("N/A") : nlohmann::json(value); }

void Put(const Metric& metric, const MetricSummary& summary, nlohmann::json* row) {
  if (summary.samples == 0) return;
  (*row)[Key(metric)] = summary.value;
  (*row)[ErrorKey(metric)] = Number(summary.error);
}

/// Of the samples that `of` picks.
template <class Pick>
std::vector<MetricSummary> Summaries(const ScoredTask& task, int64_t bootstrap, Pick&& of) {
  std::vector<MetricSummary> summaries;
  for (size_t m = 0; m < task.task->metrics.size(); ++m) {
    std::vector<MetricValue> values;
    for (size_t s = 0; s < task.samples.size(); ++s) {
      if (of(task.samples[s])) values.push_back(task.scores[s].values.at(m));
    }
    summaries.push_back(Summarize(task.task->metrics[m], values, bootstrap));
  }
  return summaries;
}

/// Of a row, or the mean of what stands below a group.
MetricSummary MeanBelow(const std::string& name, const std::map<std::string, std::vector<std::string>>& below,
                        const std::map<std::string, std::vector<MetricSummary>>& by_row, size_t metric) {
  if (const auto row = by_row.find(name); row != by_row.end()) return row->second.at(metric);
  std::vector<MetricSummary> summaries;
  for (const std::string& part : below.at(name)) summaries.push_back(MeanBelow(part, below, by_row, metric));
  return MeanOfRows(summaries);
}

/// As the harness calls what is asked and measured. `values`: one a metric, of a row like `sample`.
nlohmann::json ConfigOf(const Task& task, const std::string& row, const Sample& sample,
                        std::span<const MetricSummary> values) {
  const LmRequest asked = sample.requests.empty() ? LmRequest() : sample.requests[0];
  const bool one = sample.requests.size() == 1 && asked.continuations.size() == 1;
  const char* type = asked.kind == LmRequest::Kind::kGenerate  ? "generate_until"
                     : asked.kind == LmRequest::Kind::kRolling ? "loglikelihood_rolling"
                     : one                                     ? "loglikelihood"
                                                               : "multiple_choice";
  constexpr const char* kMeans[] = {"mean", "perplexity", "weighted_perplexity", "bits_per_byte"};
  nlohmann::json metrics = nlohmann::json::array(), filters = nlohmann::json::array();
  for (size_t m = 0; m < task.metrics.size(); ++m) {
    const Metric& metric = task.metrics[m];
    const nlohmann::json of = {{"metric", metric.name},
                               {"aggregation", kMeans[static_cast<size_t>(metric.mean)]},
                               {"higher_is_better", metric.higher_is_better}};
    if (values[m].samples > 0 && std::ranges::find(metrics, of) == metrics.end()) metrics.push_back(of);
    const nlohmann::json filter = {{"name", metric.filter}};
    if (metric.filter != "none" && std::ranges::find(filters, filter) == filters.end()) filters.push_back(filter);
  }
  nlohmann::json config = {
      {"task", row}, {"version", task.version}, {"output_type", type}, {"metric_list", std::move(metrics)}};
  if (!filters.empty()) config["filter_list"] = std::move(filters);
  return config;
}

Json DocOf(const Sample& sample) { return sample.doc == nullptr ? Json::object() : *sample.doc; }

/// As the harness writes it before it hashes it.
std::string DocText(const Sample& sample) { return JsonText(DocOf(sample), 2); }

std::string Prompt(const Sample& sample, const ShownRequest& shown) {
  return sample.requests.empty() ? std::string() : shown(sample.requests[0]);
}

}  // namespace

nlohmann::json ResultsOf(std::span<const ScoredTask> tasks, int64_t bootstrap) {
  nlohmann::json json;
  for (const char* key :
       {"results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) {
    json[key] = nlohmann::json::object();
  }
  for (const ScoredTask& scored : tasks) {
    const Task& task = *scored.task;
    std::vector<std::string> rows;                             // in the order of their first samples
    std::map<std::string, std::vector<std::string>> groups;    // with the rows below them
    std::map<std::string, std::vector<std::string>> below;     // and what stands straight below them
    std::map<std::string, std::vector<MetricSummary>> by_row;  // [metrics]
    const auto add = [](std::vector<std::string>* list, const std::string& name) {
      if (std::ranges::find(*list, name) == list->end()) list->push_back(name);
    };
    for (const Sample& sample : scored.samples) {
      const std::string row = RowOf(scored, sample);
      if (std::ranges::find(rows, row) != rows.end()) continue;
      rows.push_back(row);
      std::string under = row;
      for (const std::string& group : sample.groups) {
        add(&groups[group], row);
        add(&below[group], under);
        under = group;
      }
      for (const std::string& group : sample.also) {
        add(&groups[group], row);
        add(&below[group], row);
      }
    }
    for (const std::string& row : rows) {
      by_row[row] = Summaries(scored, bootstrap, [&](const Sample& s) { return RowOf(scored, s) == row; });
      int64_t samples = 0, of = 0;
      const auto first = std::ranges::find_if(scored.samples, [&](const Sample& s) { return RowOf(scored, s) == row; });
      for (const Sample& s : scored.samples) {
        if (RowOf(scored, s) != row) continue;
        ++samples;
        of = std::max(of, s.of);
      }
      nlohmann::json& out = json["results"][row];
      out = {{"name", row}, {"alias", row}, {"sample_len", samples}};
      for (size_t m = 0; m < task.metrics.size(); ++m) {
        const Metric& metric = task.metrics[m];
        Put(metric, by_row[row][m], &out);
        json["higher_is_better"][row][std::string(metric.name)] = metric.higher_is_better;
      }
      json["versions"][row] = task.version;
      json["n-samples"][row] = {{"original", std::max(of, samples)}, {"effective", samples}};
      json["configs"][row] = ConfigOf(task, row, *first, by_row[row]);
      json["configs"][row]["options"] = scored.options.used();
      const auto shots = scored.options.used().find("shots");
      json["n-shot"][row] = shots == scored.options.used().end() ? 0 : std::atoi(shots->second.c_str());
    }
    const auto pooled = [&](const std::vector<std::string>& members, size_t m) {
      std::vector<MetricSummary> summaries;
      for (const std::string& row : members) summaries.push_back(by_row[row][m]);
      return Pool(summaries);
    };
    for (const auto& [group, members] : groups) {
      nlohmann::json out = {{"name", group}, {"alias", group}};
      int64_t samples = 0;
      for (const std::string& row : members) samples += json["results"][row]["sample_len"].get<int64_t>();
      out["sample_len"] = samples;
      for (size_t m = 0; m < task.metrics.size(); ++m) {
        const MetricSummary summary = task.rows_weigh_alike ? MeanBelow(group, below, by_row, m) : pooled(members, m);
        Put(task.metrics[m], summary, &out);
        if (summary.samples > 0) out["sample_count"][Key(task.metrics[m])] = summary.samples;
      }
      json["group_subtasks"][group] = below[group];
      json["groups"][group] = out;
      json["results"][group] = out;
      json["versions"][group] = task.version;
    }
    // Cells of a grid: means over the samples of a row at one place.
    std::vector<std::pair<std::string, std::vector<std::pair<std::string, double>>>> cells;
    for (const Sample& sample : scored.samples) {
      const std::pair cell(RowOf(scored, sample), sample.at);
      if (!sample.at.empty() && std::ranges::find(cells, cell) == cells.end()) cells.push_back(cell);
    }
    for (const auto& [row, at] : cells) {
      const auto here = [&, row = row, at = at](const Sample& s) { return RowOf(scored, s) == row && s.at == at; };
      const std::vector<MetricSummary> summaries = Summaries(scored, 0, here);
      nlohmann::json cell = nlohmann::json::object();
      for (const auto& [name, place] : at) cell[name] = place;
      for (size_t m = 0; m < summaries.size(); ++m) {
        Put(task.metrics[m], summaries[m], &cell);
        cell["samples"] = summaries[m].samples;
      }
      json["cells"][row].push_back(cell);
    }
    if (task.figures == nullptr) continue;
    for (const auto& [name, figures] : task.figures(scored.samples, scored.scores)) json["figures"][name] = figures;
  }
  return json;
}

std::map<std::string, std::string> SampleLogs(const ScoredTask& task, const ShownRequest& shown) {
  std::map<std::string, std::string> logs;
  for (size_t s = 0; s < task.samples.size(); ++s) {
    const Sample& sample = task.samples[s];
    const SampleScore& score = task.scores[s];
    Json base = {{"doc_id", sample.id}, {"doc", DocOf(sample)}, {"target", sample.target}};
    Json arguments = Json::object(), resps = Json::array(), plain = Json::array();
    const auto argue = [&](Json first, Json second) {
      Json both = Json::object();
      both["arg_0"] = std::move(first);
      if (!second.is_null()) both["arg_1"] = std::move(second);
      arguments[fmt::format("gen_args_{}", arguments.size())] = std::move(both);
    };
    const auto respond = [&](Json answer) {
      plain.push_back(answer);
      resps.push_back(Json::array({std::move(answer)}));
    };
    for (size_t r = 0; r < sample.requests.size(); ++r) {
      const LmRequest& request = sample.requests[r];
      const LmAnswer& answer = task.answers[s][r];
      const std::string context = shown(request);
      if (request.kind == LmRequest::Kind::kGenerate) {
        argue(context, {{"until", request.stops}, {"max_gen_toks", request.max_new}, {"do_sample", false}});
        respond(answer.text);
        continue;
      }
      for (size_t c = 0; c < answer.likelihoods.size(); ++c) {
        const Likelihood& l = answer.likelihoods[c];
        const bool rolling = request.kind == LmRequest::Kind::kRolling;
        argue(context, rolling ? Json() : Json(request.continuations[c]));
        respond(rolling ? Json(fmt::format("{}", l.ll)) : Json({fmt::format("{}", l.ll), l.greedy ? "True" : "False"}));
      }
    }
    base["arguments"] = arguments;
    base["resps"] = resps;
    if (sample.gold >= 0 && sample.choices.empty()) {  // whose lengths are those of tokens
      for (const LmAnswer& answer : task.answers[s]) {
        for (const Likelihood& l : answer.likelihoods) base["choice_tokens"].push_back(l.tokens);
      }
    }
    for (const auto& [name, value] : sample.facts) base["facts"][name] = value;
    for (const auto& [name, value] : sample.at) base["at"][name] = value;
    std::set<std::string_view> filters;
    for (const Metric& metric : task.task->metrics) {
      if (!filters.insert(metric.filter).second) continue;
      Json line = base;
      const auto filtered = score.filtered.find(metric.filter);
      line["filtered_resps"] = filtered == score.filtered.end() ? plain : Json::array({filtered->second});
      line["filter"] = metric.filter;
      line["metrics"] = Json::array();
      for (size_t m = 0; m < task.task->metrics.size(); ++m) {
        const Metric& of = task.task->metrics[m];
        if (of.filter != metric.filter || std::isnan(score.values[m].value)) continue;
        line["metrics"].push_back(of.name);
        line[std::string(of.name)] = score.values[m].value;
      }
      line["doc_hash"] = Sha256(DocText(sample));
      line["prompt_hash"] = Sha256(Prompt(sample, shown));
      line["target_hash"] = Sha256(sample.target);
      logs[RowOf(task, sample)] += JsonText(line) + "\n";
    }
  }
  return logs;
}

std::map<std::string, std::string> TaskHashes(const ScoredTask& task, const ShownRequest& shown) {
  std::map<std::string, std::string> hashes;
  for (const Sample& sample : task.samples) {
    std::string& all = hashes[RowOf(task, sample)];
    all += Sha256(DocText(sample)) + Sha256(Prompt(sample, shown)) + Sha256(sample.target);
  }
  for (auto& [row, text] : hashes) text = Sha256(text);
  return hashes;
}

std::string ResultsTable(const nlohmann::json& results) {
  TextTable table({"task", "version", "shots", "samples", "filter", "metric", "value", "error"});
  for (const auto& [row, values] : results.at("results").items()) {
    std::string name = row;
    for (const auto& [key, value] : values.items()) {
      const size_t comma = key.find(',');
      if (comma == key.npos || key.find("_stderr,") != key.npos) continue;
      const std::string metric = key.substr(0, comma), filter = key.substr(comma + 1);
      const nlohmann::json& error = values.value(metric + "_stderr," + filter, nlohmann::json());
      const nlohmann::json shots = results["n-shot"].value(row, nlohmann::json());
      table.Row({name, name.empty() ? "" : results["versions"][row].dump(),
                 name.empty() || shots.is_null() ? "" : shots.dump(),
                 name.empty() ? "" : HumanCount(values["sample_len"].get<int64_t>()), filter, metric,
                 fmt::format("{:.4f}", value.get<double>()),
                 error.is_number() ? fmt::format("{:.4f}", error.get<double>()) : ""});
      name.clear();
    }
  }
  return table.ToString();
}

}  // namespace hawser
