// io/http.h - requests to web servers, by libcurl.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

struct HttpRequest {
  std::string url;                        // http or https
  std::vector<std::string> headers = {};  // "Name: value"; Authorization goes to the host of `url` alone
  bool head = false;                      // headers without the body
  bool follow = true;                     // redirects: at most ten, from https to https alone
  int64_t begin = 0;                      // above 0: ask for the bytes from here on (Range)
  std::string method = {};                // empty: GET, or POST where there is a body
  std::string body = {};                  // sent where it is not empty
  int64_t patience = 60;                  // seconds that it may bring less than 64 bytes a second; 0: any number
  std::function<bool()> cancelled = {};   // asked now and then; true ends the request without a failure
};

struct HttpResponse {
  int status = 0;                              // of the last one, behind redirects
  std::map<std::string, std::string> headers;  // of the last one; names in lower case
  int64_t retry_after = 0;                     // seconds that the server wants to be left alone; 0: it does not say
  std::string failure = {};                    // why the connection failed, before or in the body; empty: it did not

  const std::string& Header(const std::string& name) const;  // empty where there is none
};

/// One request. `take` gets the body piece by piece, with what is known of the response (all but `failure`); false ends
/// the request without a failure. A connection that fails or stands still for too long is told in the response, not
/// thrown. Errors: kUnsupported where the build has no libcurl; kUsage for no URL of http or https.
HttpResponse Http(const HttpRequest& request,
                  const std::function<bool(const HttpResponse&, std::string_view piece)>& take);

}  // namespace hawser
