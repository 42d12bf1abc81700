// hawser serve: a model behind OpenAI's API, and a page to talk with it.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/cli/decoding.h"
#include "hawser/model/places.h"
#include "hawser/serve/service.h"

namespace hawser {
namespace {

struct ServeOptions {
  ModelOptions model;
  DecodingOptions decoding;
  PrefixOptions prefix;
  bool keep_given = false;
  WebOptions web;
  ServiceOptions service;
  std::string cors;
  int32_t port = 8080, parallel = 4;
  int64_t rows = 256, queue = 512, connections = 2048, kv_memory = 0, prefix_cache = int64_t{1} << 30;
  int64_t body = 32 << 20, idle = 60;
  int64_t drain = 30;
  int64_t session_expiry = 7 * 24 * 60 * 60;
  std::filesystem::path key_file, port_file;
  std::string bos = "auto", on_full = "error";
  bool no_page = false;
};

std::string FirstLine(const std::filesystem::path& path) {
  const std::string text = ReadFile(path);
  std::string line = text.substr(0, text.find_first_of("\r\n"));
  if (line.empty()) Fail(ErrorKind::kUsage, "{}: its first line, the API key, is empty", path.string());
  return line;
}

/// What of the options depends on the model.
ServiceOptions OptionsFor(const ServeOptions& options, const ModelToRun& run) {
  const ModelSpec& spec = run.weights.spec();
  ServiceOptions service = options.service;
  SchedulerOptions& scheduler = service.scheduler;
  scheduler.kv = ChooseForm(options.decoding.kv, spec);
  scheduler.slots = options.parallel;
  scheduler.rows = options.rows;
  scheduler.queue = static_cast<size_t>(options.queue);
  scheduler.kv_bytes = options.kv_memory;
  scheduler.prefix_bytes = options.prefix_cache;
  scheduler.context =
      options.decoding.context > 0 ? options.decoding.context : MaxContext(spec, run.model.spec.context);
  service.sessions.expiry = std::chrono::seconds(options.session_expiry);
  service.bos = ParseBosRule(options.bos);
  service.page = !options.no_page;
  service.on_full = options.on_full == "shift" ? OnFull::kShift
                    : options.on_full == "sep" ? OnFull::kSep
                                               : OnFull::kError;
  if (service.name.empty()) {
    service.name = options.model.model.filename().string();
    if (service.name.empty()) service.name = options.model.model.parent_path().filename().string();
  }
  return service;
}

int Run(ServeOptions options, const CommonOptions& common) {
  WebOptions& web = options.web;
  ServiceOptions& service = options.service;
  if (web.certificate.empty() != web.key.empty()) Fail(ErrorKind::kUsage, "--tls-cert and --tls-key go together");
  if (!options.key_file.empty()) service.api_key = FirstLine(options.key_file);
  if (service.api_key.empty()) {
    if (const char* key = std::getenv("HAWSER_API_KEY"); key != nullptr) service.api_key = key;
  }
  web.port = static_cast<uint16_t>(options.port);
  web.connections = static_cast<size_t>(options.connections);
  web.idle = std::chrono::seconds(options.idle);
  web.body_bytes = static_cast<size_t>(options.body);
  std::optional<ModelToRun> run;
  std::unique_ptr<Backend> backend;
  Service server(web, options.cors, std::chrono::seconds(options.drain));
  const bool loopback = web.host == "127.0.0.1" || web.host == "localhost" || web.host == "::1";
  if (!loopback && service.api_key.empty()) {
    LogLine(fmt::format("note: anybody who reaches {} can use this server; --api-key-file asks for a key", web.host));
  }
  const auto load = [&] {
    run = OpenModelToRun(options.model, options.decoding.rope, options.decoding.context, options.decoding.dtype);
    backend = MakeBackend(common.device);
    service = OptionsFor(options, *run);
    service.scheduler.prefix =
        OpenPrefixOf(options.prefix, options.keep_given, backend.get(), run->weights, /*declared_length=*/0);
    return ServedModel{.run = &*run, .backend = backend.get(), .options = service};
  };
  const auto ready = [&] {
    const std::string host = web.host.find(':') == std::string::npos ? web.host : "[" + web.host + "]";
    const std::string url = fmt::format("{}://{}:{}", web.certificate.empty() ? "http" : "https", host, server.port());
    if (!options.port_file.empty()) WriteFileAtomically(options.port_file, fmt::format("{}\n", server.port()));
    LogLine(backend->Describe());
    LogLine(fmt::format("{}: {} of {}, cache {}, {} at once", service.name, run->model.format,
                        Name(run->weights.dtype()), ToString(service.scheduler.kv),
                        Counted(service.scheduler.slots, "text")));
    if (const auto& prefix = service.scheduler.prefix) {
      LogLine(
          fmt::format("indexed prefix of {}, keep {}", Counted(prefix->tokens(), "token"), ToString(prefix->rule())));
    }
    LogLine(fmt::format("{0}  (page; the API is {0}/v1)", url));
  };
  server.Run(/*signals=*/true, load, ready);
  return 0;
}

}  // namespace

std::function<int()> SetupServe(Command command, CommonOptions& common) {
  auto options = std::make_shared<ServeOptions>();
  ServiceOptions& service = options->service;
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command.Add("--host", options->web.host, "Address to listen on; 0.0.0.0 or :: for every one").ShowDefault();
  command.Add("--port", options->port, "Port to listen on; 0: any that is free").Range(0, 65535).ShowDefault();
  command.Add("--port-file", options->port_file, "Write the port to this file once the model is served").Writes();
  command.Add("--parallel", options->parallel, "Texts that are made at once").Range(1, 4096).ShowDefault();
  AddCacheOptions(command, options->decoding);
  AddPrefixOptions(command, options->prefix,
                   "Prompts that begin with the prefix in this file, which hawser index wrote, are not read that far");
  command.Add("--name", service.name, "Name of the model for clients (default: that of the file or folder)");
  command.Add("--strict-model", service.strict_model, "Refuse requests for a model of another name");
  command.Add("--api-key", service.api_key,
              "Key that clients must send; others on this machine can see it: better --api-key-file or HAWSER_API_KEY");
  command.Add("--api-key-file", options->key_file, "File whose first line is that key").ExistingFile();
  command.Add("--tls-cert", options->web.certificate, "PEM file of the certificate, for https").ExistingFile();
  command.Add("--tls-key", options->web.key, "PEM file of its key").ExistingFile();
  command.Add("--cors", options->cors, "Origin of other pages that may use the API; * for any");
  command
      .Add("--on-full", options->on_full,
           "Requests that the context does not hold under --kv full: error, shift (initial tokens and a window) or sep "
           "(separators too)")
      .OneOf({"error", "shift", "sep"})
      .ShowDefault();
  command.Add("--queue", options->queue, "Requests that may wait; more are told to come again (429)")
      .Range(0, 1 << 20)
      .ShowDefault();
  command.Add("--prefix-cache", options->prefix_cache, "Bytes of keys and values kept for later prompts; 0: none")
      .Range(0, int64_t{1} << 50)
      .ShowDefault();
  command.Add("--kv-memory", options->kv_memory, "Bytes of keys and values of texts under way; 0: no limit")
      .Range(0, int64_t{1} << 50)
      .ShowDefault();
  command.Add("--batch-tokens", options->rows, "Tokens of prompts in a step, beside one of every text under way")
      .Range(1, 1024)
      .ShowDefault();
  command.Add("--connections", options->connections, "Open connections at most").Range(1, 1 << 20).ShowDefault();
  command
      .Add("--idle", options->idle,
           "Seconds in which a client must send a request, or take a part of an answer that it was sent")
      .Range(1, 86400)
      .ShowDefault();
  command.Add("--max-body", options->body, "Bytes of a request at most").Range(1024, int64_t{1} << 32).ShowDefault();
  command.Add("--max-logprobs", service.limits.logprobs, "Log-probabilities of alternatives that a request may ask for")
      .Range(0, 1000)
      .ShowDefault();
  command.Add("--drain", options->drain, "Seconds that texts under way get when the server is stopped")
      .Range(0, 86400)
      .ShowDefault();
  command.Add("--sessions", service.sessions.folder,
              "Folder in which sessions are kept: they go on after a restart (default: in memory alone)");
  command.Add("--max-sessions", service.sessions.most, "Sessions at most").Range(0, 1 << 20).ShowDefault();
  command
      .Add("--session-memory", service.sessions.memory,
           "Bytes of keys and values of sessions that rest; with --sessions, those beyond it are in files alone")
      .Range(0, int64_t{1} << 50)
      .ShowDefault();
  command.Add("--session-expiry", options->session_expiry, "Seconds after which an unused session is deleted; 0: never")
      .Range(0, int64_t{1} << 32)
      .ShowDefault();
  command.Add("--bos", options->bos, "BOS in front of prompts that are text: auto (the tokenizer's rule), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--slots", service.slots, "Tell under /slots what is under way");
  command.Add("--no-page", options->no_page, "Serve the API alone");
  return [options, command, &common] {
    options->keep_given = command.Has("--keep");
    return Run(*options, common);
  };
}

}  // namespace hawser
