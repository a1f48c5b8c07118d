//! The list of products.

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
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
