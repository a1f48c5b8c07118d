//! The style sheet and the modules, compiled in. Their address holds a hash of all of them, so browsers may keep them for ever.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header;
use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

struct Asset {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
}

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal $media_type:expr;)+) => {
        &[$(Asset { name: $name, media_type: $media_type, content: include_str!(concat!("../assets/", $name)) }),+]
    };
}

const ASSETS: &[Asset] = assets! {
    "console.css" CSS;
    "console.js" JS;
    "dom.js" JS;
    "keys.js" JS;
    "live.js" JS;
    "palette.js" JS;
    "search.js" JS;
    "selection.js" JS;
    "icon.svg" "image/svg+xml";
};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.content);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.map(|byte| format!("{byte:02x}")).concat()[..12].to_owned()
});

/// The address of a file, below the console's path.
pub(crate) fn url(path: &str, name: &str) -> String {
    format!("{path}/assets/{}/{name}", *VERSION)
}

/// A file. A version that is not this one's is answered with the file that there is, and not to be kept.
pub(crate) fn serve(version: &str, name: &str) -> Result<HttpResponse, Failure> {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Failure::not_found("There is no such file."))?;
    let kept = if version == *VERSION {
        "public, max-age=31536000, immutable"
    } else {
        "no-store"
    };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, kept))
        .content_type(asset.media_type)
        .body(asset.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_page_loads_first_is_small() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(bytes < 100 * 1024, "{bytes} bytes before compression");
    }
}
