//! The OpenAPI document and Swagger UI.

use std::collections::BTreeSet;

use holdfast_services::api::{API_ROUTES, HEALTH_ROUTES, Route};

use crate::auth::concrete;
use crate::support::{TestApp, TestSettings, body_of, problem};

#[tokio::test]
async fn the_document_lists_every_route_served_and_no_other() {
    let app = TestApp::start().await;
    let response = app.client().get("/openapi.json").await.unwrap();
    assert_eq!(response.header("content-type"), Some("application/json"));
    let document = body_of(&response);
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let served: BTreeSet<(String, String)> = API_ROUTES
        .iter()
        .chain(HEALTH_ROUTES)
        .map(|route| (route.method.to_owned(), route.path.to_owned()))
        .collect();
    assert_eq!(documented, served);

    let mut admin = app.admin();
    for (method, path) in &served {
        let path = concrete(path);
        let response = admin.request(method, &path, &[], &[]).await.unwrap();
        let missing = response.text().contains("route-not-found") || response.status == 405;
        assert!(!missing, "{method} {path} is documented and not served");
    }
}

#[tokio::test]
async fn every_secured_route_is_documented_with_its_scope() {
    let app = TestApp::start().await;
    let document = body_of(&app.client().get("/openapi.json").await.unwrap());
    assert_eq!(
        document["components"]["securitySchemes"]["api_key"]["scheme"],
        "bearer"
    );
    // Who logs in has no key yet; who holds the link of a mail needs none.
    let open = [
        "/v1/auth/login",
        "/v1/confirm-address/{token}",
        "/v1/set-password/{token}",
        "/v1/unsubscribe/{token}",
    ];
    let secured = |route: &&Route| route.path.starts_with("/v1") && !open.contains(&route.path);
    for route in API_ROUTES.iter().filter(secured) {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert!(operation["security"][0]["api_key"][0].is_string(), "{route:?}");
        for status in ["401", "403", "503"] {
            assert!(operation["responses"][status].is_object(), "{route:?} {status}");
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    let app = TestApp::start().await;
    let text = app.client().get("/openapi.json").await.unwrap().text();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut references = 0;
    for rest in text.split("\"$ref\":\"#/").skip(1) {
        let pointer = rest.split('"').next().unwrap();
        assert!(document.pointer(&format!("/{pointer}")).is_some(), "{pointer}");
        references += 1;
    }
    assert!(references > 20);
}

#[tokio::test]
async fn swagger_ui_is_served_in_development() {
    let app = TestApp::start().await;
    let mut client = app.client();
    let redirect = client.get("/docs").await.unwrap();
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (308, Some("/docs/"))
    );
    let page = client.get("/docs/").await.unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger-ui"));
    let script = client.get("/docs/swagger-initializer.js").await.unwrap();
    assert!(script.text().contains("/openapi.json"), "{}", script.text());
    problem(
        &client.get("/docs/no-such-file").await.unwrap(),
        404,
        "route-not-found",
    );
}

#[tokio::test]
async fn swagger_ui_is_absent_in_production_and_the_document_is_not() {
    let app = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .start()
        .await;
    let mut client = app.client();
    problem(&client.get("/docs").await.unwrap(), 404, "route-not-found");
    problem(&client.get("/docs/").await.unwrap(), 404, "route-not-found");
    assert_eq!(client.get("/openapi.json").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_schemas_of_kinds_are_components_and_those_of_declared_kinds_for_callers_who_may_list_them() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let kind = serde_json::json!({"queue": "media", "payload_schema": {"type": "object", "properties": {"next": {"$ref": "#"}}}});
    let declared = admin
        .request(
            "PUT",
            "/v1/kinds/thumbnail.make",
            &[("content-type", "application/json")],
            kind.to_string().as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());

    let public = body_of(&app.client().get("/openapi.json").await.unwrap());
    let schemas = &public["components"]["schemas"];
    assert_eq!(schemas["HttpRequestPayload"]["x-kind"], "http.request");
    assert_eq!(
        schemas["HttpRequestPayload"]["required"],
        serde_json::json!(["url"])
    );
    assert!(schemas["HttpRequestResult"].is_object());
    assert!(schemas["ThumbnailMakePayload"].is_null());

    let response = admin.get("/openapi.json").await.unwrap();
    assert_eq!(response.header("cache-control"), Some("private, no-cache"));
    let shown = body_of(&response);
    assert_eq!(
        shown["components"]["schemas"]["ThumbnailMakePayload"]["properties"]["next"]["$ref"],
        "#/components/schemas/ThumbnailMakePayload"
    );
}
