//! Where backends answer, as far as names of regions, addresses and ids of models say it.

/// A base address to which a backend's requests go. It is read once, for all decisions to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: String,
    bedrock: bool,
}

impl Address {
    /// The address of a URL.
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        Self { bedrock: bedrock_region(&host(&url)).is_some(), url }
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Names that stand for an area and not for one region, with the place of each: a wider one first, parts after `/`.
/// London, Zurich and Oslo are in Europe and not in the European Union.
const AREAS: [(&str, &str); 22] = [
    ("eu", "europe/eu"),
    ("europe", "europe"),
    ("uk", "europe/uk"),
    ("gb", "europe/uk"),
    ("ch", "europe/ch"),
    ("us", "us"),
    ("usa", "us"),
    ("us-gov", "us/gov"),
    ("ca", "ca"),
    ("mx", "mx"),
    ("sa", "sa"),
    ("southamerica", "sa"),
    ("ap", "asia"),
    ("apac", "asia"),
    ("asia", "asia"),
    ("jp", "asia/jp"),
    ("au", "asia/au"),
    ("australia", "asia/au"),
    ("me", "me"),
    ("il", "me/il"),
    ("af", "af"),
    ("africa", "af"),
];

/// Regions whose name does not say the place, or says another one.
const REGIONS: [(&str, &str); 22] = [
    ("eu-west-2", "europe/uk"),
    ("eu-central-2", "europe/ch"),
    ("europe-west2", "europe/uk"),
    ("europe-west6", "europe/ch"),
    ("uksouth", "europe/uk"),
    ("ukwest", "europe/uk"),
    ("norwayeast", "europe/no"),
    ("norwaywest", "europe/no"),
    ("switzerlandnorth", "europe/ch"),
    ("switzerlandwest", "europe/ch"),
    ("ap-northeast-1", "asia/jp"),
    ("ap-northeast-3", "asia/jp"),
    ("asia-northeast1", "asia/jp"),
    ("asia-northeast2", "asia/jp"),
    ("ap-southeast-2", "asia/au"),
    ("ap-southeast-4", "asia/au"),
    ("northamerica-northeast1", "ca"),
    ("northamerica-northeast2", "ca"),
    ("northamerica-south1", "mx"),
    ("canadacentral", "ca"),
    ("canadaeast", "ca"),
    ("me-west1", "me/il"),
];

/// The place of an area or region.
fn place(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if let Some(place) = area(&name).or_else(|| find(&REGIONS, &name)) {
        return Some(place);
    }
    let head = name.split(['-', '.', '_']).next().unwrap_or_default();
    Some(match head.trim_end_matches(|letter: char| letter.is_ascii_digit()) {
        // Europe's other regions of the large clouds are in the union.
        "eu" | "europe" | "eusc" | "westeurope" | "northeurope" | "germanywestcentral" | "germanynorth"
        | "francecentral" | "francesouth" | "italynorth" | "polandcentral" | "spaincentral"
        | "austriaeast" | "belgiumcentral" | "denmarkeast" | "swedencentral" | "swedensouth" => "europe/eu",
        "eastus" | "westus" | "centralus" | "northcentralus" | "southcentralus" | "westcentralus" => "us",
        "japaneast" | "japanwest" => "asia/jp",
        "australiaeast" | "australiasoutheast" | "australiacentral" => "asia/au",
        "northamerica" => return None,
        _ if name.starts_with("us-gov-") => "us/gov",
        head => return area(head),
    })
}

/// The place that a name stands for, where it stands for an area.
fn area(name: &str) -> Option<&'static str> {
    find(&AREAS, name)
}

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(own, _)| *own == name).map(|(_, place)| *place)
}

/// Whether a region is another one or lies in it: `eu-west-1` in `eu`, and `eu-west-2`, which is London, not.
pub(super) fn lies_in(own: &str, wider: &str) -> bool {
    if own == wider {
        return true;
    }
    match area(&wider.to_ascii_lowercase()) {
        Some(wider) => place(own).is_some_and(|own| {
            own.strip_prefix(wider).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
        // A name that only the operator knows may have parts of the operator's.
        None => own.strip_prefix(wider).is_some_and(|rest| rest.starts_with('-')),
    }
}

/// What an address says against a declared region.
pub(super) fn against_address(declared: &str, url: &str) -> Option<String> {
    let host = host(url);
    let elsewhere = |own: &str| (!lies_in(own, declared)).then(|| format!("its endpoint is in {own}"));
    if let Some(own) = bedrock_region(&host) {
        return elsewhere(own);
    }
    let vertex = host.strip_suffix("-aiplatform.googleapis.com").or_else(|| {
        host.strip_prefix("aiplatform.").and_then(|rest| rest.strip_suffix(".rep.googleapis.com"))
    });
    if let Some(own) = vertex.or_else(|| host.strip_suffix(".api.openai.com")) {
        return elsewhere(own);
    }
    match host.as_str() {
        "aiplatform.googleapis.com" => {
            let location = url.split("/locations/").nth(1).and_then(|rest| rest.split('/').next());
            match location {
                None | Some("global") => Some("the location `global` is no residency".to_owned()),
                Some(own) => (!lies_in(own, declared)).then(|| format!("its location is {own}")),
            }
        }
        "generativelanguage.googleapis.com" => Some("this endpoint of Gemini has no region".to_owned()),
        "api.openai.com" if !lies_in("us", declared) => {
            Some("api.openai.com is not a regional endpoint".to_owned())
        }
        _ => None,
    }
}

/// What the id of a model, as the provider is asked for it, says against a declared region. Only Bedrock's ids say
/// something: profiles that answer in several regions begin with their area, and ARNs hold a region. Another server may
/// stand before Bedrock, so ids that can only be Bedrock's count wherever they are sent.
pub(super) fn against_model(declared: &str, address: &Address, model: &str) -> Option<String> {
    let name = model.rsplit('/').next().unwrap_or(model);
    if !address.bedrock && !is_profile(name) && !model.starts_with("arn:aws") {
        return None;
    }
    let arn: Vec<&str> = model.split(':').collect();
    if let ["arn", _, _, own, ..] = arn.as_slice()
        && !own.is_empty()
        && !lies_in(own, declared)
    {
        return Some(format!("the model `{model}` is in {own}"));
    }
    let prefix = name.split_once('.').map_or("", |(prefix, _)| prefix).to_ascii_lowercase();
    if prefix == "global" {
        return Some(format!("the model `{model}` is answered anywhere in the world"));
    }
    let profile = area(&prefix).is_some() && !lies_in(&prefix, declared);
    profile.then(|| format!("the model `{model}` may be answered in any region of {prefix}"))
}

/// Whether an id has the form of Bedrock's profiles: an area, a vendor, and the vendor's name of the model.
fn is_profile(name: &str) -> bool {
    const VENDORS: [&str; 12] = [
        "ai21",
        "amazon",
        "anthropic",
        "cohere",
        "deepseek",
        "luma",
        "meta",
        "mistral",
        "openai",
        "qwen",
        "twelvelabs",
        "writer",
    ];
    name.split('.').nth(1).is_some_and(|vendor| VENDORS.contains(&vendor))
}

/// Whether an id of Bedrock's names something of the account's that may stand for a model of any region.
pub(super) fn hides_its_region(model: &str) -> bool {
    const KINDS: [&str; 4] =
        ["application-inference-profile/", "prompt/", "prompt-router/", "default-prompt-router/"];
    model.starts_with("arn:aws")
        && model.split(':').nth(5).is_some_and(|resource| KINDS.iter().any(|kind| resource.starts_with(kind)))
}

/// The region in the name of one of Bedrock's hosts, those for FIPS and of private links included.
fn bedrock_region(host: &str) -> Option<&str> {
    let amazon = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu"];
    if !amazon.iter().any(|suffix| host.ends_with(suffix)) {
        return None;
    }
    let mut labels = host.split('.');
    labels.find(|label| {
        matches!(label.strip_suffix("-fips").unwrap_or(label), "bedrock-runtime" | "bedrock-mantle")
    })?;
    labels.next()
}

fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', ':', '?']).unwrap_or(rest.len());
    rest[..end].to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_lie_where_they_are() {
        for (own, wider, lies) in [
            ("eu-west-1", "eu", true),
            ("eu", "eu", true),
            ("eu-central-1", "eu", true),
            ("eusc-de-east-1", "eu", true),
            ("europe-west4", "eu", true),
            ("westeurope", "eu", true),
            // London and Zurich, by Amazon's names and Google's, and Microsoft's.
            ("eu-west-2", "eu", false),
            ("eu-central-2", "eu", false),
            ("europe-west2", "eu", false),
            ("europe-west6", "eu", false),
            ("uksouth", "eu", false),
            ("eu-west-2", "uk", true),
            ("eu-central-2", "europe", true),
            ("europe", "eu", false),
            ("us-east-1", "eu", false),
            ("us-east-1", "us", true),
            ("eastus2", "us", true),
            ("eu", "eu-west-1", false),
            ("eu-west-1", "eu-west-2", false),
            ("ap-northeast-1", "apac", true),
            ("ap-northeast-1", "jp", true),
            ("apac", "jp", false),
            ("northamerica-northeast1", "us", false),
            ("ca-central-1", "us", false),
            ("mars-north", "mars", true),
            ("marsh", "mars", false),
            ("nowhere", "eu", false),
        ] {
            assert_eq!(lies_in(own, wider), lies, "{own} in {wider}");
        }
    }

    #[test]
    fn ids_of_models_say_where_they_are_answered() {
        let address = Address::new("https://bedrock-runtime.eu-central-1.amazonaws.com");
        let profile = "arn:aws:bedrock:eu-central-1:1:inference-profile";
        for (declared, model, against) in [
            ("eu", "anthropic.claude-sonnet-5-v1:0", false),
            ("eu", "eu.anthropic.claude-sonnet-5-v1:0", false),
            ("eu", "global.anthropic.claude-sonnet-5-v1:0", true),
            ("eu", "us.anthropic.claude-sonnet-5-v1:0", true),
            ("eu", "us-gov.anthropic.claude-sonnet-5-v1:0", true),
            ("eu", "GLOBAL.anthropic.claude-sonnet-5-v1:0", true),
            ("eu-central-1", "eu.anthropic.claude-sonnet-5-v1:0", true),
            ("apac", "jp.anthropic.claude-sonnet-5-v1:0", false),
            ("jp", "apac.anthropic.claude-sonnet-5-v1:0", true),
            ("eu", "openai.gpt-oss-120b-1:0", false),
            ("eu", &format!("{profile}/eu.anthropic.claude-sonnet-5-v1:0"), false),
            ("eu", &format!("{profile}/global.anthropic.claude-sonnet-5-v1:0"), true),
            ("eu", "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-5-v1:0", true),
            ("eu", "arn:aws:bedrock:eu-west-3::foundation-model/anthropic.claude-sonnet-5-v1:0", false),
        ] {
            assert_eq!(against_model(declared, &address, model).is_some(), against, "{declared} {model}");
        }
        let other = Address::new("https://llm.example.org");
        assert_eq!(against_model("eu", &other, "us.large.v2"), None, "no name of Bedrock's");
        assert!(against_model("eu", &other, "us.anthropic.claude-sonnet-5-v1:0").is_some());
        let hidden = "arn:aws:bedrock:eu-central-1:1:application-inference-profile/abc";
        assert!(hides_its_region(hidden) && !hides_its_region(&format!("{profile}/eu.x")));
    }

    #[test]
    fn hosts_of_bedrock_are_known() {
        for (host, region) in [
            ("bedrock-runtime.eu-central-1.amazonaws.com", Some("eu-central-1")),
            ("bedrock-runtime-fips.us-east-1.amazonaws.com", Some("us-east-1")),
            ("bedrock-runtime.us-east-1.api.aws", Some("us-east-1")),
            ("bedrock-mantle.us-east-1.api.aws", Some("us-east-1")),
            ("vpce-1a-2b.bedrock-runtime.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("bedrock-runtime.eu-central-1.example.org", None),
            ("s3.eu-central-1.amazonaws.com", None),
        ] {
            assert_eq!(bedrock_region(host), region, "{host}");
        }
    }
}
