//! Snowplow: enriched events, tab-separated as the pipeline writes them, or as the JSON that its analytics SDKs make of that.

use super::json::{Reader, Value, one_key, quoted};
use super::{Event, Fault, NOWHERE, Paths, Property, Vendor, add, add_all, one_or_many};
use std::borrow::Cow;
use std::collections::HashMap;

pub(super) struct Snowplow;

/// The columns of a line, in order.
const COLUMNS: &str = "app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker v_tracker \
    v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx network_userid geo_country geo_region \
    geo_city geo_zipcode geo_latitude geo_longitude geo_region_name ip_isp ip_organization ip_domain ip_netspeed page_url page_title \
    page_referrer page_urlscheme page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme refr_urlhost \
    refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source refr_term mkt_medium mkt_source mkt_term \
    mkt_content mkt_campaign contexts se_category se_action se_label se_property se_value unstruct_event tr_orderid tr_affiliation \
    tr_total tr_tax tr_shipping tr_city tr_state tr_country ti_orderid ti_sku ti_name ti_category ti_price ti_quantity \
    pp_xoffset_min pp_xoffset_max pp_yoffset_min pp_yoffset_max useragent br_name br_family br_version br_type br_renderengine \
    br_lang br_features_pdf br_features_flash br_features_java br_features_director br_features_quicktime br_features_realplayer \
    br_features_windowsmedia br_features_gears br_features_silverlight br_cookies br_colordepth br_viewwidth br_viewheight os_name \
    os_family os_manufacturer os_timezone dvce_type dvce_ismobile dvce_screenwidth dvce_screenheight doc_charset doc_width \
    doc_height tr_currency tr_total_base tr_tax_base tr_shipping_base ti_currency ti_price_base base_currency geo_timezone \
    mkt_clickid mkt_network etl_tags dvce_sent_tstamp refr_domain_userid refr_dvce_tstamp derived_contexts domain_sessionid \
    derived_tstamp event_vendor event_name event_format event_version event_fingerprint true_tstamp";
const COUNT: usize = 131;

impl Vendor for Snowplow {
    fn paths(&self) -> &'static Paths {
        &Paths {
            user: &["/user_id", "/domain_userid", "/network_userid"],
            session: &["/domain_sessionid"],
            name: &["/event_name", "/event"],
            time: &["/true_tstamp", "/derived_tstamp", "/collector_tstamp"],
            key: &["/event_id"],
            ..NOWHERE
        }
    }

    fn is_table(&self, text: &str) -> bool {
        !text.trim_start_matches([' ', '\n', '\r']).starts_with(['{', '['])
    }

    fn row<'a>(&self, line: &'a str) -> Result<Value<'a>, Fault> {
        let count = line.split('\t').count();
        if count != COUNT {
            let reason = format!("has {count} columns, an enriched event has {COUNT}");
            return Err(Fault::new("", "22P02", reason));
        }
        let mut members: Vec<(Cow<str>, Value)> = Vec::new();
        for (name, column) in COLUMNS.split_ascii_whitespace().zip(line.split('\t')) {
            if column.is_empty() {
                continue;
            }
            match name {
                "contexts" | "derived_contexts" | "unstruct_event" => {
                    let mut reader = Reader::new(column);
                    let document = reader.whole(0, column.len()).map_err(|error| {
                        Fault::new(format!("/{name}"), "22P02", format!("is not JSON: {}", error.reason))
                    })?;
                    if let Some((_, flaw)) = reader.take_flaws().first() {
                        return Err(Fault { path: format!("/{name}"), ..Fault::of(*flaw) });
                    }
                    described(name, document, &mut members);
                }
                _ => members.push((quoted(name).into(), Value::of_text(column))),
            }
        }
        Ok(Value::Object(members))
    }

    fn of_delivery(&self) -> &'static [&'static str] {
        &["/etl_tstamp", "/dvce_sent_tstamp"]
    }

    fn events<'a>(&self, document: Value<'a>, out: &mut Vec<Event<'a>>) -> Result<(), Fault> {
        one_or_many(document, &[], out);
        Ok(())
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("/app_id", "app_id"),
            ("/platform", "platform"),
            ("/page_url", "page_url"),
            ("/page_title", "page_title"),
            ("/page_referrer", "page_referrer"),
            ("/se_category", "se_category"),
            ("/se_action", "se_action"),
            ("/se_label", "se_label"),
            ("/se_property", "se_property"),
            ("/se_value", "se_value"),
        ]
    }

    fn properties<'e, 'a>(&self, event: &'e Event<'a>, out: &mut Vec<Property<'e, 'a>>) {
        add(event, self.named(), out);
        // Of the same name, what the event describes of itself counts.
        let Ok(Value::Object(members)) = &event.own else { return };
        for (key, value) in members {
            if let (true, Value::Object(described)) = (one_key(key).starts_with("unstruct_event"), value) {
                add_all(described, out);
            }
        }
    }
}

/// Adds what a self-describing document has, as the SDKs do: `{"schema": "iglu:com.acme/link_click/jsonschema/1-0-1", "data": …}` becomes
/// a member `…_com_acme_link_click_1`, for contexts with a list.
fn described<'a>(column: &str, mut document: Value<'a>, members: &mut Vec<(Cow<'a, str>, Value<'a>)>) {
    let Some(inner) = document.take("data") else { return };
    let parts = match inner {
        Value::Array(parts) => parts,
        part => vec![part],
    };
    let is_event = column == "unstruct_event";
    let prefix = if is_event { "unstruct_event" } else { "contexts" };
    let mut places = HashMap::new();
    for mut part in parts {
        let schema = part.take("schema").and_then(|schema| Some(schema.text().ok()?.into_owned()));
        let (Some(schema), Some(data)) = (schema, part.take("data")) else { continue };
        let key = quoted(&format!("{prefix}_{}", table(&schema)));
        let next = members.len();
        let place = *places.entry(key.clone()).or_insert(next);
        match members.get_mut(place) {
            Some((_, Value::Array(list))) if !is_event => list.push(data),
            _ => members.push((key.into(), if is_event { data } else { Value::Array(vec![data]) })),
        }
    }
}

/// The name that a schema has as a column: vendor, name and major version, in lower case with underscores.
fn table(schema: &str) -> String {
    let mut parts = schema.strip_prefix("iglu:").unwrap_or(schema).split('/');
    let (vendor, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let major = parts.nth(1).and_then(|version| version.split('-').next()).unwrap_or_default();
    let mut out = String::new();
    for word in [vendor, name] {
        let mut before = false;
        for letter in word.chars() {
            if letter.is_ascii_uppercase() && before {
                out.push('_');
            }
            before = letter.is_ascii_lowercase() || letter.is_ascii_digit();
            out.push(if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' });
        }
        out.push('_');
    }
    out + major
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted() {
        assert_eq!(COLUMNS.split_ascii_whitespace().count(), COUNT);
    }

    #[test]
    fn schemas_have_names() {
        assert_eq!(
            table("iglu:com.snowplowanalytics.snowplow/link_click/jsonschema/1-0-1"),
            "com_snowplowanalytics_snowplow_link_click_1"
        );
        assert_eq!(table("iglu:org.w3/PerformanceTiming/jsonschema/1-0-0"), "org_w3_performance_timing_1");
        assert_eq!(table("nonsense"), "nonsense__");
    }
}
