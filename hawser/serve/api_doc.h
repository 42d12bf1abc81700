// serve/api_doc.h - what the API is, as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0): routes and shapes of
// openapi.json, members that are numbers, switches or text from the rows that requests are checked by
// (serve/members.h), limits of this server.
#pragma once

#include <cstdint>
#include <string>

#include "hawser/serve/members.h"

namespace hawser {

/// `vocab`: token ids are below it.
std::string ApiDocument(const CallLimits& limits, int32_t vocab, bool indexed);

}  // namespace hawser
