#include "hawser/io/http.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <memory>

#include "hawser/base/error.h"

#ifdef HAWSER_CURL
#include <curl/curl.h>
#endif

namespace hawser {

const std::string& HttpResponse::Header(const std::string& name) const {
  static const std::string none;
  const auto found = headers.find(name);
  return found == headers.end() ? none : found->second;
}

#ifndef HAWSER_CURL

HttpResponse Http(const HttpRequest& request, const std::function<bool(const HttpResponse&, std::string_view)>&) {
  Fail(ErrorKind::kUnsupported,
       "{}: this hawser was built without libcurl and OpenSSL, which scripts/setup.sh installs", request.url);
}

#else

namespace {

struct Transfer {
  CURL* curl;
  HttpResponse response;
  const std::function<bool(const HttpResponse&, std::string_view)>* take;
  const HttpRequest* request;
  std::exception_ptr error;  // of `take`: it must not pass through libcurl
  bool ended = false;        // by `take`
};

size_t OnHeader(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  std::string_view line(data, size);
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  if (line.starts_with("HTTP/")) {
    transfer.response.headers.clear();  // those of a redirect
    return size;
  }
  const size_t colon = line.find(':');
  if (colon == line.npos) return size;
  std::string name(line.substr(0, colon));
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string_view value = line.substr(colon + 1);
  while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
  while (value.ends_with(' ') || value.ends_with('\t')) value.remove_suffix(1);
  transfer.response.headers[std::move(name)] = std::string(value);
  return size;
}

int StatusOf(CURL* curl) {
  long status = 0;  // NOLINT: the type of libcurl
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return static_cast<int>(status);
}

size_t OnBody(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  try {
    transfer.response.status = StatusOf(transfer.curl);
    if ((*transfer.take)(transfer.response, {data, size})) return size;
    transfer.ended = true;
  } catch (...) {
    transfer.error = std::current_exception();
  }
  return 0;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (!transfer.request->cancelled || !transfer.request->cancelled()) return 0;
  transfer.ended = true;
  return 1;
}

}  // namespace

HttpResponse Http(const HttpRequest& request, const std::function<bool(const HttpResponse&, std::string_view)>& take) {
  const bool secure = request.url.starts_with("https://");
  if (!secure && !request.url.starts_with("http://")) {
    Fail(ErrorKind::kUsage, "{}: an address begins with http:// or https://", request.url);
  }
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  if (started != CURLE_OK || curl == nullptr) Fail(ErrorKind::kInternal, "libcurl does not start");
  Transfer transfer{.curl = curl.get(), .take = &take, .request = &request};
  curl_slist* list = nullptr;
  for (const std::string& header : request.headers) list = curl_slist_append(list, header.c_str());
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);
  const auto set = [&](CURLoption option, auto value) { curl_easy_setopt(curl.get(), option, value); };
  const std::string range = std::to_string(request.begin) + "-";
  std::string reason(CURL_ERROR_SIZE, '\0');
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_USERAGENT, "hawser");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_NOBODY, request.head ? 1L : 0L);
  set(CURLOPT_FOLLOWLOCATION, request.follow ? 1L : 0L);
  set(CURLOPT_MAXREDIRS, 10L);
#if LIBCURL_VERSION_NUM >= 0x075500
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
#else
  set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));                       // NOLINT
  set(CURLOPT_REDIR_PROTOCOLS, static_cast<long>(CURLPROTO_HTTPS | (secure ? 0 : CURLPROTO_HTTP)));  // NOLINT
#endif
  if (request.begin > 0) set(CURLOPT_RANGE, range.c_str());
  set(CURLOPT_CONNECTTIMEOUT, 30L);
  set(CURLOPT_LOW_SPEED_LIMIT, request.patience > 0 ? 64L : 0L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.patience));  // NOLINT: the type of libcurl
  if (!request.body.empty()) {
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    set(CURLOPT_POSTFIELDS, request.body.c_str());
  }
  if (!request.method.empty()) set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
  if (request.cancelled) {
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, OnProgress);
    set(CURLOPT_XFERINFODATA, &transfer);
  }
  set(CURLOPT_ERRORBUFFER, reason.data());
  set(CURLOPT_HEADERFUNCTION, OnHeader);
  set(CURLOPT_HEADERDATA, &transfer);
  set(CURLOPT_WRITEFUNCTION, OnBody);
  set(CURLOPT_WRITEDATA, &transfer);
  const CURLcode code = curl_easy_perform(curl.get());
  if (transfer.error) std::rethrow_exception(transfer.error);
  transfer.response.status = StatusOf(curl.get());
  curl_off_t wait = 0;
  if (curl_easy_getinfo(curl.get(), CURLINFO_RETRY_AFTER, &wait) == CURLE_OK) transfer.response.retry_after = wait;
  if (code != CURLE_OK && !transfer.ended) {
    transfer.response.failure = reason[0] != '\0' ? reason.c_str() : curl_easy_strerror(code);
  }
  return std::move(transfer.response);
}

#endif

}  // namespace hawser
