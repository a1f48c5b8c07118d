//! The list of products.

use holdfast_autoscale::AutoscaleProduct;
use holdfast_events::EventsProduct;
use holdfast_kinds::KindsProduct;
use holdfast_notify::NotifyProduct;
use holdfast_points::PointsProduct;
use holdfast_product::Product;
use holdfast_results::ResultsProduct;

/// One line each. A product finds the resources of those above it.
pub const PRODUCTS: &[&dyn Product] = &[
    &KindsProduct,
    &PointsProduct,
    &NotifyProduct,
    &EventsProduct,
    &ResultsProduct,
    &AutoscaleProduct,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use holdfast_core::config::Sources;

    use super::*;

    #[test]
    fn every_type_of_problem_has_a_slug_of_its_own_and_an_error_status() {
        let problems: Vec<_> = crate::problems().collect();
        let slugs: BTreeSet<_> = problems.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), problems.len());
        for kind in problems {
            assert!(
                kind.status().is_client_error() || kind.status().is_server_error(),
                "{kind:?}"
            );
            assert!(kind.remedy().ends_with('.'), "{kind:?}");
        }
    }

    #[test]
    fn the_default_of_every_setting_is_sound_and_can_be_repeated_in_the_environment() {
        for setting in crate::settings_table() {
            assert!(
                !setting.help.contains(['{', '}']),
                "{}: {}",
                setting.key,
                setting.help
            );
            let value = setting.default.trim_matches(|c| matches!(c, '"' | '[' | ']'));
            if value.is_empty() || setting.key.starts_with("queues.NAME.") {
                continue;
            }
            let env = [(setting.env.clone(), value.to_owned())].into();
            crate::load_from(Sources { env, file: None })
                .unwrap_or_else(|faults| panic!("{}: {faults}", setting.env));
        }
    }

    #[test]
    fn products_have_names_and_audit_verbs_of_their_own() {
        let names: BTreeSet<_> = PRODUCTS.iter().map(|product| product.name()).collect();
        assert_eq!(names.len(), PRODUCTS.len());
        let verbs: Vec<_> = crate::audit_verbs().collect();
        let distinct: BTreeSet<_> = verbs.iter().collect();
        assert_eq!(verbs.len(), distinct.len(), "{verbs:?}");
        assert!(verbs.iter().all(|verb| verb.contains('.')), "{verbs:?}");
    }
}
