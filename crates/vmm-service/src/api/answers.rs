//! Which problems the document says that an operation may answer with. Apart
//! from the handlers because most of them refuse for the same reasons; a test
//! holds every answer that it gets against the document.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response};
use vmm_api::problem::{MEDIA_TYPE, Problem};

type Responses = BTreeMap<String, RefOr<Response>>;

/// What any operation may answer but `/health`.
const ANY: [(u16, &str); 5] = [
    (401, "Asked over TCP, where nobody can be identified yet"),
    (403, "The caller has no rights here"),
    (429, "The calling process has too many connections, or too many watch"),
    (500, "The daemon failed; its log has the request's id"),
    (504, "There was no answer in time"),
];
const BAD_PARAMETER: (u16, &str) = (400, "A parameter or a header is wrong");
const BAD_BODY: [(u16, &str); 3] = [
    (400, "The body is not JSON, or a header is wrong"),
    (408, "The body came too slowly"),
    (413, "The body is too long"),
];
const NOT_FOUND: (u16, &str) = (404, "There is no such VM or operation");
const BUSY: (u16, &str) = (503, "Too much is asked for at once; try again");
const DISK_FULL: (u16, &str) = (507, "The disk that holds the state is full; nothing was changed");

/// Of what only reads and has no parameters.
pub struct Plain;
/// Of a list.
pub struct Listing;
/// Of what reads one thing.
pub struct Reading;
/// Of what reads one thing, with parameters.
pub struct Asking;
/// Of what is done to a VM.
pub struct Acting;
/// Of what is done to a VM as a body says.
pub struct Telling;
/// Of what makes a VM.
pub struct Creating;
/// Of what changes a VM.
pub struct Changing;

impl IntoResponses for Plain {
    fn responses() -> Responses {
        problems(&[])
    }
}

impl IntoResponses for Listing {
    fn responses() -> Responses {
        problems(&[BAD_PARAMETER])
    }
}

impl IntoResponses for Reading {
    fn responses() -> Responses {
        problems(&[NOT_FOUND])
    }
}

impl IntoResponses for Asking {
    fn responses() -> Responses {
        problems(&[BAD_PARAMETER, NOT_FOUND])
    }
}

impl IntoResponses for Acting {
    fn responses() -> Responses {
        problems(&[NOT_FOUND, (409, "The VM's state does not allow it"), BUSY, DISK_FULL])
    }
}

impl IntoResponses for Telling {
    fn responses() -> Responses {
        let mut all = Acting::responses();
        all.extend(problems(&BAD_BODY));
        all.extend(problems(&[(422, "Every wrong field")]));
        all
    }
}

impl IntoResponses for Creating {
    fn responses() -> Responses {
        let mut all = problems(&BAD_BODY);
        all.extend(problems(&[
            (409, "The name is taken"),
            (415, "The body is of another type than JSON"),
            (422, "Every wrong field; or the idempotency key came before with another body"),
            BUSY,
            DISK_FULL,
        ]));
        all
    }
}

impl IntoResponses for Changing {
    fn responses() -> Responses {
        let mut all = problems(&BAD_BODY);
        all.extend(problems(&[
            NOT_FOUND,
            (415, "The body is of another type than JSON"),
            (422, "Every wrong field"),
            BUSY,
            DISK_FULL,
        ]));
        all
    }
}

fn problems(own: &[(u16, &str)]) -> Responses {
    let schema = <Problem as utoipa::ToSchema>::name();
    own.iter()
        .chain(&ANY)
        .map(|(status, description)| {
            let content = Content::new(Some(Ref::from_schema_name(schema.as_ref())));
            let mut response = Response::new(*description);
            response.content.insert(MEDIA_TYPE.to_owned(), content.into());
            (status.to_string(), response.into())
        })
        .collect()
}
