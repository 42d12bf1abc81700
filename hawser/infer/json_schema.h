// infer/json_schema.h - JSON Schema as a grammar, so that what a model writes is valid under it.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "hawser/infer/grammar.h"

namespace hawser {

/// Any JSON object.
Grammar JsonObjectGrammar();

/// Texts that are JSON and valid under `schema`, not all that are. Supported: `type` (one or several), `properties`,
/// `required`, `additionalProperties`, `items`, `prefixItems`, `minItems`, `maxItems`, `enum`, `const`, `anyOf`,
/// `oneOf` of which surely no value fits two (by their types, values, or a required member's values), `allOf` of one,
/// `$ref` inside the schema (also in circles), `minLength`, `maxLength`, `pattern`, `format` (date, time, date-time,
/// duration, email, hostname, ipv4, ipv6, uuid), `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
/// `multipleOf`. Members come in the order of `properties`; others only where `additionalProperties` says so. Errors:
/// kUnsupported naming the place and the keyword, kFormat for what is no schema.
Grammar SchemaGrammar(const nlohmann::ordered_json& schema);

}  // namespace hawser
