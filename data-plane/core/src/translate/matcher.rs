//! String, regex, header and query matchers.

use super::field::{ignored, required};
use crate::matcher::{
    HeaderMatcher, HeaderRule, QueryMatcher, Regex, StringMatcher, StringPattern, Substitution,
};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::route::v3 as route_proto;
use xds_types::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier as HeaderSpecifier;
use xds_types::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier as QuerySpecifier;
use xds_types::envoy::r#type::matcher::v3 as proto;
use xds_types::envoy::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use xds_types::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_types::envoy::r#type::v3::Int64Range;

/// A regular expression.
pub(super) fn regex(
    proto: proto::RegexMatcher,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Regex, Rejected> {
    let proto::RegexMatcher { regex, engine_type } = proto;
    if let Some(EngineType::GoogleRe2(GoogleRe2 { max_program_size })) = engine_type {
        ignored!(d, at.field("google_re2"), "a compiled expression may take 1 MiB"; max_program_size);
    }
    let at = at.field("regex");
    if regex.is_empty() {
        return Err(d.reject(&at, "is required"));
    }
    Regex::new(&regex).map_err(|e| d.reject(&at, format_args!("does not compile: {}", one_line(&e))))
}

/// A regex error without its drawing of the place.
fn one_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// A regular expression and what replaces its matches.
pub(super) fn substitution(
    proto: proto::RegexMatchAndSubstitute,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<(Regex, Substitution), Rejected> {
    let proto::RegexMatchAndSubstitute { pattern, substitution } = proto;
    let pattern_at = at.field("pattern");
    let regex = regex(required(pattern, &pattern_at, d)?, &pattern_at, d)?;
    match Substitution::new(&substitution, &regex) {
        Ok(substitution) => Ok((regex, substitution)),
        Err(e) => Err(d.reject(&at.field("substitution"), e)),
    }
}

/// A string matcher.
pub(super) fn string(
    proto: proto::StringMatcher,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<StringMatcher, Rejected> {
    let proto::StringMatcher { ignore_case, match_pattern } = proto;
    let pattern = match match_pattern {
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(text.into()),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(text.into()),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(text.into()),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(text.into()),
        Some(MatchPattern::SafeRegex(proto)) => {
            StringPattern::Regex(regex(proto, &at.field("safe_regex"), d)?)
        }
        Some(MatchPattern::Custom(_)) => return Err(d.reject(&at.field("custom"), "not supported")),
        None => return Err(d.reject(at, "one of exact, prefix, suffix, contains, safe_regex is required")),
    };
    Ok(StringMatcher { pattern, ignore_case })
}

/// A header matcher. Without a rule, presence is enough.
pub(super) fn header(
    proto: route_proto::HeaderMatcher,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<HeaderMatcher, Rejected> {
    let route_proto::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = proto;
    if name.is_empty() {
        d.reject(&at.field("name"), "is required");
    }
    let text = |pattern| HeaderRule::Text(StringMatcher { pattern, ignore_case: false });
    let rule = match header_match_specifier {
        Some(HeaderSpecifier::StringMatch(proto)) => {
            HeaderRule::Text(string(proto, &at.field("string_match"), d)?)
        }
        // The rest but range and presence is deprecated in favour of string_match, and still everywhere.
        Some(HeaderSpecifier::ExactMatch(value)) => text(StringPattern::Exact(value.into())),
        Some(HeaderSpecifier::PrefixMatch(value)) => text(StringPattern::Prefix(value.into())),
        Some(HeaderSpecifier::SuffixMatch(value)) => text(StringPattern::Suffix(value.into())),
        Some(HeaderSpecifier::ContainsMatch(value)) => text(StringPattern::Contains(value.into())),
        Some(HeaderSpecifier::SafeRegexMatch(proto)) => {
            text(StringPattern::Regex(regex(proto, &at.field("safe_regex_match"), d)?))
        }
        Some(HeaderSpecifier::RangeMatch(Int64Range { start, end })) => HeaderRule::Range { start, end },
        Some(HeaderSpecifier::PresentMatch(present)) => HeaderRule::Present(present),
        None => HeaderRule::Present(true),
    };
    Ok(HeaderMatcher {
        name: name.to_ascii_lowercase().into(),
        rule,
        invert: invert_match,
        treat_missing_as_empty: treat_missing_header_as_empty,
    })
}

/// A query parameter matcher. Without a rule, presence is enough.
pub(super) fn query(
    proto: route_proto::QueryParameterMatcher,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<QueryMatcher, Rejected> {
    let route_proto::QueryParameterMatcher { name, query_parameter_match_specifier } = proto;
    let value = match query_parameter_match_specifier {
        Some(QuerySpecifier::StringMatch(proto)) => Some(string(proto, &at.field("string_match"), d)?),
        Some(QuerySpecifier::PresentMatch(true)) | None => None,
        Some(QuerySpecifier::PresentMatch(false)) => {
            return Err(d.reject(&at.field("present_match"), "matching on absence is not supported"));
        }
    };
    Ok(QueryMatcher { name: name.into(), value })
}
