use super::*;

#[test]
fn all_bad_fields_are_named_at_once() {
    let status = Status::from(ApiError::InvalidArgument(vec![
        FieldViolation::new("project", "is empty"),
        FieldViolation::new("tools[1]", "`flake9` is not a tool"),
    ]));
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<_> =
        details.bad_request().expect("details").field_violations.iter().map(|v| &v.field).collect();
    assert_eq!(fields, ["project", "tools[1]"]);
    assert!(status.message().contains("tools[1]: `flake9` is not a tool"));
    assert_eq!(details.error_info().expect("info").domain, "lintmesh");
}

#[test]
fn what_may_be_tried_again_says_when() {
    let retry = Duration::from_secs(7);
    for error in [
        ApiError::ResourceExhausted { what: "requests in flight", limit: 3, retry },
        ApiError::DiskFull { what: "blobs", setting: "workspace.blob_dir", shortage: None, retry },
        ApiError::Unavailable { reason: "CIRCUIT_OPEN", message: "node is down".into(), retry },
    ] {
        let details = Status::from(error).get_error_details();
        assert_eq!(details.retry_info().expect("retry info").retry_delay, Some(retry));
    }
}

#[test]
fn each_kind_has_its_code_reason_and_details() {
    let not_found = Status::from(ApiError::NotFound { resource_type: "node", name: "n9".into() });
    assert_eq!(not_found.code(), Code::NotFound);
    let resource = not_found.get_error_details().resource_info().cloned().expect("resource");
    assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("node", "n9"));

    let missing = Status::from(ApiError::FailedPrecondition(vec![Precondition {
        kind: "BLOB_MISSING",
        subject: "abc".into(),
        description: "upload it first".into(),
    }]));
    assert_eq!(missing.code(), Code::FailedPrecondition);
    let details = missing.get_error_details();
    assert_eq!(details.error_info().expect("info").reason, "BLOB_MISSING");
    assert_eq!(details.precondition_failure().expect("details").violations[0].subject, "abc");

    let internal = Status::from(ApiError::Internal { request_id: "r-1".into() });
    assert_eq!(internal.code(), Code::Internal);
    assert_eq!(internal.get_error_details().error_info().expect("info").metadata["request_id"], "r-1");
}

#[test]
fn a_flood_of_violations_stays_small_enough_for_a_header() {
    let violations =
        (0..10_000).map(|i| FieldViolation::new(format!("files[{i}].path"), "é".repeat(900))).collect();
    let status = Status::from(ApiError::InvalidArgument(violations));
    let headers = status.clone().into_http::<()>().into_parts().0.headers;
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size <= 12 << 10, "{size} bytes");
    let details = status.get_error_details();
    assert!(details.bad_request().expect("details").field_violations.len() >= 10);
    assert_eq!(details.error_info().expect("info").metadata["violations"], "10000");
}
